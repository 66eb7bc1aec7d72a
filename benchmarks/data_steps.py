"""What benchmarks.data measures, one step in a process of its own: the guide's way to the data, and ours.

    python -m benchmarks.data_steps STEP ARGUMENTS

ARGUMENTS is a JSON object. The last line of stdout is a JSON object: seconds since the interpreter had started, imports
included, processor time and largest resident memory. Where data come from and go to is the environment's business.
Source of the guide's way: its download-dataset.py, which takes a percent slice of every split and writes it as JSON.
"""

import time

BEGAN = time.perf_counter()

import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

# A length that rows are held against, as in a run's training parameters.
MAX_SEQ_LENGTH = 2048


def guide(name: str, fraction: float) -> dict[str, object]:
    """Every split's leading share, through `load_dataset` and `to_json`."""
    import datasets

    for split in datasets.get_dataset_split_names(name):
        rows = datasets.load_dataset(name, split=f"{split}[0%:{fraction:.0%}]")
        rows.to_json(output_folder() / f"{split}.jsonl")
    return {}


def ours(name: str, fraction: float) -> dict[str, object]:
    """The data step without Prefect."""
    return {"fetched_bytes": prepare(name, fraction)}


def ours_twice(name: str, fraction: float) -> dict[str, object]:
    """The seconds of the second of two data steps, which begins when a line comes from stdin."""
    prepare(name, fraction)
    print("prepared", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    fetched = prepare(name, fraction)
    return {"again": time.perf_counter() - began, "fetched_bytes": fetched}


def prepare(name: str, fraction: float) -> int:
    """The bytes of content that one data step fetched."""
    from chatdata import data_step
    from retune.request import Data, Request

    data = Data(source=name, fraction=fraction, on_bad_row="drop")
    return data_step.prepare(Request(data=data, training={"max_seq_length": MAX_SEQ_LENGTH})).fetched_bytes


def output_folder() -> Path:
    """Where a step writes."""
    folder = Path(os.environ["RETUNE_HOME"]) / "made"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


STEPS = {step.__name__: step for step in (guide, ours, ours_twice)}


def main() -> None:
    step, arguments = sys.argv[1:]
    about = STEPS[step](**json.loads(arguments))
    seconds = time.perf_counter() - BEGAN
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # Its own and that of the largest process that it started; in kilobytes.
    peak = sum(one.ru_maxrss for one in used) * 1024
    processor = sum(one.ru_utime + one.ru_stime for one in used)
    print(json.dumps({"seconds": seconds, "processor_seconds": processor, "peak_bytes": peak, **about}))


if __name__ == "__main__":
    main()

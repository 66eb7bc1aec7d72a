"""The data step beside the guide's own way to the same rows, in one run: time, memory, bytes from the hub.

    python -m benchmarks.data [--scale 1.0] [--only share whole memory again]

Both fetch a made-up data set of ultrachat_200k's layout and size from a hub on loopback, each in a process of its own
with empty caches. Prints a table on stdout; exit 1 when a bar is missed. The bars are meant for the full size: below
it, what every process needs to start weighs more. The first run writes the data set (a minute or two, 1.6 GB) below
`.retune`, and the guide's way needs 10 GB more there for a while. Loopback answers at once, so the times say nothing
of a slow network, where the bytes decide.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks import ultrachat
from benchmarks.hub import Hub
from chatdata.splits import GUIDE
from retune.folders import home

NAME = "HuggingFaceH4/ultrachat_200k"
ROOT = Path(__file__).resolve().parent.parent
STEP_SECONDS = 1800
SHARE = 0.05
SHARES = (0.1, 0.5, 1.0)
REPEATS = 7
# What may be fetched, to the row groups that hold the wanted rows.
MOST_BYTES = 1.25
# Of the guide's time, for a share and for the whole.
MOST_TIME = {SHARE: 0.15, 1.0: 0.5}
# At any share.
MOST_MEMORY = 700e6
MOST_AGAIN_SECONDS = 0.5


class Measured(NamedTuple):
    """One step, as it and the hub tell of it."""

    seconds: float
    # Of all threads, and so little changed by what else the machine does.
    processor_seconds: float
    peak_bytes: int
    # Everything that the hub sent.
    sent_bytes: int
    # Of that, what files hold.
    content_bytes: int
    # What only some steps tell.
    about: dict[str, float]


class Row(NamedTuple):
    """One line of the table; `met` is None where there is no bar."""

    measure: str
    guide: str
    ours: str
    ratio: float | None
    bar: str
    met: bool | None


class Bench:
    """The hub, the data set behind it, and what was measured so far."""

    def __init__(self, hub: Hub, place: Path, folder: Path) -> None:
        self._hub, self._place, self._folder = hub, place, folder

    @functools.cache  # noqa: B019
    def guide(self, fraction: float) -> Measured:
        """The guide's way to every split's leading share."""
        return self._run("guide", fraction)

    @functools.cache  # noqa: B019
    def ours(self, fraction: float) -> Measured:
        """Our way to the same share of three splits."""
        return self._run("ours", fraction)

    def share(self) -> Iterator[Row]:
        """A share of the rows, from the hub; of several runs, made by turns, those of median time."""
        runs = [(self._run("guide", SHARE), self._run("ours", SHARE)) for _ in range(REPEATS)]
        guide, ours = (sorted(column)[REPEATS // 2] for column in zip(*runs, strict=True))
        groups = size_of_groups(self._place, SHARE)
        yield Row(
            f"{SHARE:.0%}: bytes, to {megabytes(groups)} of the row groups that hold the rows",
            megabytes(guide.sent_bytes),
            megabytes(ours.sent_bytes),
            ours.sent_bytes / groups,
            f"<= {MOST_BYTES}",
            ours.sent_bytes <= MOST_BYTES * groups,
        )
        yield from times(f"{SHARE:.0%}, medians of {REPEATS}", SHARE, guide, ours)

    def whole(self) -> Iterator[Row]:
        """All rows, from the hub."""
        guide, ours = self.guide(1.0), self.ours(1.0)
        yield from times("100%", 1.0, guide, ours)

    def memory(self) -> Iterator[Row]:
        """Largest memory at several shares."""
        for share in SHARES:
            peak = self.ours(share).peak_bytes
            yield Row(
                f"{share:.0%}: largest memory",
                megabytes(self.guide(share).peak_bytes) if share == 1 else "",
                megabytes(peak),
                None,
                f"<= {megabytes(MOST_MEMORY)}",
                peak <= MOST_MEMORY,
            )

    def again(self) -> Iterator[Row]:
        """The same settings a second time."""
        with tempfile.TemporaryDirectory(dir=self._folder) as kept:
            folder = Path(kept)
            second = self._measure_in(folder, "ours_twice", name=NAME, fraction=SHARE)
            fresh = self._measure_in(folder, "ours", name=NAME, fraction=SHARE)
        yield Row(
            f"{SHARE:.0%} again: time, files verified",
            "",
            f"{second.about['again']:.3f} s",
            None,
            f"<= {MOST_AGAIN_SECONDS} s",
            second.about["again"] <= MOST_AGAIN_SECONDS,
        )
        content = second.content_bytes + int(second.about["fetched_bytes"]) + fresh.content_bytes
        yield Row(f"{SHARE:.0%} again: bytes of content", "", f"{content:,}", None, "0", content == 0)
        yield Row(f"{SHARE:.0%} again: time of a fresh process", "", f"{fresh.seconds:.2f} s", None, "", None)

    def _run(self, way: str, fraction: float) -> Measured:
        return self._measure(way, name=NAME, fraction=fraction)

    def _measure(self, step: str, **arguments: object) -> Measured:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            return self._measure_in(Path(folder), step, **arguments)

    def _measure_in(self, folder: Path, step: str, **arguments: object) -> Measured:
        """One step with its caches in a folder; of two in one process, the hub's figures are those of the second."""
        print(f"{step} {arguments}", file=sys.stderr)
        # What an earlier step wrote would else be brought to disk during this one.
        os.sync()
        self._hub.reset()
        with started(step, arguments, {**self._hub.env, **own_homes(folder)}) as process:
            if step == "ours_twice":
                process.stdout.readline()
                self._hub.reset()
            said, _ = process.communicate("\n", timeout=STEP_SECONDS)
        if process.returncode:
            raise RuntimeError(f"Step '{step}' with {arguments} ended with {process.returncode}. See its errors above.")
        about = json.loads(said.splitlines()[-1])
        content = self._hub.bytes_sent("/cdn/*") + self._hub.bytes_sent("*/resolve/*")
        spent = (about.pop(name) for name in ("seconds", "processor_seconds", "peak_bytes"))
        return Measured(*spent, self._hub.bytes_sent(), content, about)


MEASURES = {"share": Bench.share, "whole": Bench.whole, "memory": Bench.memory, "again": Bench.again}


def main() -> int:
    """0 when every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the real number of rows (default: 1.0)")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="measure only these")
    options = parser.parse_args()
    name = "ultrachat" if options.scale == 1 else f"ultrachat-{options.scale:g}"
    place = ultrachat.write(home() / name, options.scale)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=home()) as folder:
        root = Path(folder) / "hub"
        (root / NAME).parent.mkdir(parents=True)
        (root / NAME).symlink_to(place)
        with Hub(root) as hub:
            bench = Bench(hub, place, Path(folder))
            rows = [row for name in options.only for row in MEASURES[name](bench)]
    show(rows, f"{NAME} x {options.scale:g}")
    return 1 if any(row.met is False for row in rows) else 0


@contextmanager
def started(step: str, arguments: dict[str, object], variables: dict[str, str]) -> "Iterator[subprocess.Popen[str]]":
    """A step's process, which does not outlive the body."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.data_steps", step, json.dumps(arguments)],
        env={**os.environ, **variables, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def own_homes(folder: Path) -> dict[str, str]:
    """Where a step keeps what it makes and fetches."""
    return {"HF_HOME": str(folder / "hf"), "RETUNE_HOME": str(folder / "retune")}


def size_of_groups(place: Path, fraction: float) -> int:
    """Compressed size, all columns, of the row groups that hold the leading share of each wanted split."""
    return sum(
        size_of_leading_groups(sorted((place / "data").glob(f"{split}-*")), fraction) for split in GUIDE.values()
    )


def size_of_leading_groups(files: list[Path], fraction: float) -> int:
    about = [pq.read_metadata(file) for file in files]
    groups = [file.row_group(number) for file in about for number in range(file.num_row_groups)]
    left, size = round(sum(group.num_rows for group in groups) * fraction), 0
    for group in groups:
        if left > 0:
            size += sum(group.column(column).total_compressed_size for column in range(group.num_columns))
        left -= group.num_rows
    return size


def times(what: str, fraction: float, guide: Measured, ours: Measured) -> Iterator[Row]:
    """Time and processor time of both."""
    ratio = ours.seconds / guide.seconds
    most = MOST_TIME[fraction]
    spent = (f"{measured.seconds:.2f} s" for measured in (guide, ours))
    yield Row(f"{what}: time", *spent, ratio, f"<= {most}", ratio <= most)
    spent = (f"{measured.processor_seconds:.2f} s" for measured in (guide, ours))
    ratio = ours.processor_seconds / guide.processor_seconds
    yield Row(f"{what}: processor time", *spent, ratio, "", None)


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def show(rows: list[Row], title: str) -> None:
    """The table, on stdout."""
    table = Table(title=title, box=None, pad_edge=False, title_justify="left")
    for heading in ("measure", "guide", "ours", "ratio", "bar", "met"):
        table.add_column(heading, justify="right" if heading in ("guide", "ours", "ratio", "bar") else "left")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        met = "" if row.met is None else "yes" if row.met else "NO"
        table.add_row(row.measure, row.guide, row.ours, ratio, row.bar, met)
    Console(width=150).print(table)


if __name__ == "__main__":
    sys.exit(main())

"""Kill the preparation of data at drawn moments, prepare again, and compare with what was never disturbed.

    python tests/harness/data_kills.py [--kills 50] [--seed 0]

Each trial prepares a made-up data set from a hub on loopback in an empty home of its own, ends that process by SIGKILL,
SIGINT or SIGTERM at a moment of its undisturbed duration, while the hub may drop connections or answer 429, and
prepares once more. Then every file must be byte for byte what an undisturbed run elsewhere wrote, the manifest must say
the same, and nothing else may be there. The signals are handled as in a run; after SIGINT and SIGTERM nothing half-made
may be there even before the second preparation. A line for each trial, a table at the end; exit 1 on any breach, with
the trial's number for `--only`.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import ultrachat  # noqa: E402
from benchmarks.hub import Hub  # noqa: E402

NAME = "HuggingFaceH4/ultrachat_200k"
# About two seconds of work for all rows of three splits.
SCALE = 0.03
DEADLINE_SECONDS = 120
SIGNALS = {signal.SIGKILL: 6, signal.SIGINT: 2, signal.SIGTERM: 2}
# What the hub does meanwhile, by name: faults of benchmarks.hub_server.
TROUBLES: dict[str, dict[str, object]] = {
    "drops": {"path": "/cdn/*", "drop": True, "calls": 2},
    "cuts": {"path": "/cdn/*", "cut_after": 40_000, "reset": True, "calls": 2},
    "429": {"path": "*/resolve/*", "status": 429, "retry_after": 0, "calls": 2},
}
TROUBLED = 0.4
# Troubles make a run longer by the waits of its client.
TROUBLED_SECONDS = 2
# What differs between two runs that made the same: how long it took and where the files are.
OWN = ("seconds", "cached")
ERRORS = "errors.log"

# What takes long to import comes before the line, so that moments fall into the work.
PREPARE = """
import sys
import chatdata.prepare, datasets
from flows.signals import SIGNALS
from retune.request import Data, Request
from chatdata.data_step import prepare
print("ready", flush=True)
with SIGNALS.watched():
    prepared = prepare(Request(data=Data(source=sys.argv[1], fraction=1, on_bad_row="drop")))
print(prepared.cached, flush=True)
"""


class Trial(NamedTuple):
    """What is done; `moment` is a share of the undisturbed duration."""

    number: int
    strike: signal.Signals
    moment: float
    trouble: str | None


class Verdict(NamedTuple):
    """How a trial went. `ended`: the first process was done before it was struck."""

    trial: Trial
    ended: bool
    left: str
    cached: bool
    breaches: list[str]


def draw(seed: int, number: int) -> Trial:
    """The trial that a seed and a number decide."""
    chance = random.Random(f"{seed} {number}")
    strike = chance.choices(list(SIGNALS), list(SIGNALS.values()))[0]
    trouble = chance.choice(list(TROUBLES)) if chance.random() < TROUBLED else None
    return Trial(number, strike, chance.random(), trouble)


class Play:
    """The hub, and what undisturbed runs made."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self._hub, self._folder = hub, folder
        # Of two, the quicker one: what else the machine does must not move the moments beyond the end.
        self.seconds = min(self._undisturbed(folder / name) for name in ("calm", "calm-again"))
        self.made = contents(folder / "calm")
        if told := differences(self.made, contents(folder / "calm-again")):
            raise RuntimeError(f"Two undisturbed runs differ: {'; '.join(told)}")

    def _undisturbed(self, home: Path) -> float:
        """The seconds of a run without a strike."""
        with self._process(home) as process:
            began = time.monotonic()
            said = process.stdout.readline()
            seconds = time.monotonic() - began
        if said != "False\n":
            raise RuntimeError(f"The undisturbed run in {home} ended with {process.returncode}: {errors_of(home)}")
        return seconds

    def one(self, trial: Trial) -> Verdict:
        """Strike, look at what is left, prepare again, compare."""
        home = self._folder / f"home-{trial.number}"
        self._hub.reset()
        if trial.trouble:
            self._hub.fault(**TROUBLES[trial.trouble])
        moment = trial.moment * (self.seconds + (TROUBLED_SECONDS if trial.trouble else 0))
        with self._process(home) as process:
            ended = strike(process, trial.strike, moment)
        left = state_of(home)
        self._hub.reset()
        with self._process(home) as process:
            said, _ = process.communicate(timeout=DEADLINE_SECONDS)
        breaches = []
        if trial.strike != signal.SIGKILL and left == "partial":
            breaches.append(f"a partial folder was left by {trial.strike.name}")
        if process.returncode:
            breaches.append(f"the run after it ended with {process.returncode}: {errors_of(home)}")
        cached = said.strip() == "True"
        if cached != (left == "whole"):
            breaches.append(f"the run after it said cached={cached}, and what was left was: {left}")
        breaches += differences(self.made, contents(home))
        return Verdict(trial, ended, left, cached, breaches)

    @contextmanager
    def _process(self, home: Path) -> "Iterator[subprocess.Popen[str]]":
        """A process that has imported what it needs; it does not outlive the body."""
        home.mkdir(exist_ok=True)
        with (home / ERRORS).open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", PREPARE, NAME],
                env={**os.environ, **self._hub.env, "RETUNE_HOME": str(home), "HF_HOME": str(home / "hf")},
                cwd=ROOT,
                text=True,
                stdout=subprocess.PIPE,
                stderr=errors,
                # Its own group, so that Ctrl-C here does not strike it too.
                start_new_session=True,
            )
        try:
            with process, deadline(process):
                if process.stdout.readline() != "ready\n":
                    raise RuntimeError(f"A process ended with {process.wait()} before it began: {errors_of(home)}")
                yield process
        finally:
            process.kill()


@contextmanager
def deadline(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Ends the process when the body takes too long, so that nothing is read from it for ever."""
    timer = threading.Timer(2 * DEADLINE_SECONDS, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def errors_of(home: Path) -> str:
    """The end of what the latest process of a home said on stderr."""
    return " | ".join((home / ERRORS).read_text(encoding="utf-8").splitlines()[-3:])


def strike(process: "subprocess.Popen[str]", number: signal.Signals, moment: float) -> bool:
    """Sends the signal after so many seconds and waits for the end; whether the process was done before."""
    try:
        process.wait(moment)
        return True
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        process.wait(DEADLINE_SECONDS)
        return False


def state_of(home: Path) -> str:
    """What a struck process left: nothing, a partial folder, or whole data."""
    names = [path.name for path in (home / "data").glob("*") if not path.name.endswith(".lock")]
    if any(name.startswith(".partial-") for name in names):
        return "partial"
    return "whole" if names else "nothing"


def contents(home: Path) -> dict[str, str]:
    """What the home holds of prepared data: each path with its file's digest, the manifest without what is a run's own.

    Locks stay and are empty.
    """
    found = {}
    for path in sorted((home / "data").rglob("*")):
        name = str(path.relative_to(home))
        if path.name == "manifest.json":
            found[name] = json.dumps(comparable(json.loads(path.read_bytes())), sort_keys=True)
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def comparable(manifest: dict) -> dict:
    kept = {name: value for name, value in manifest.items() if name not in OWN}
    kept["splits"] = {
        role: {name: Path(value).name if name == "path" else value for name, value in split.items()}
        for role, split in manifest["splits"].items()
    }
    return kept


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """A sentence for each path that is not what it should be."""
    told = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    told += [f"{name} should not be there" for name in sorted(found.keys() - expected.keys())]
    return told + [
        f"{name} differs" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]
    ]


def main() -> int:
    """0 when nothing was breached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="number of trials (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides all trials (default: %(default)s)")
    parser.add_argument("--only", type=int, nargs="+", help="these trials of the seed instead")
    parser.add_argument("--scale", type=float, default=SCALE, help="size of the data set (default: %(default)s)")
    options = parser.parse_args()
    trials = [draw(options.seed, number) for number in options.only or range(options.kills)]
    with tempfile.TemporaryDirectory(prefix="data-kills-") as folder:
        ultrachat.write(Path(folder) / "hub" / NAME, options.scale)
        with Hub(Path(folder) / "hub") as hub:
            play = Play(hub, Path(folder))
            print(f"seed {options.seed}, {len(trials)} trials; undisturbed: {play.seconds:.2f} s", file=sys.stderr)
            verdicts = [told(play.one(trial)) for trial in trials]
    show(verdicts)
    return 1 if any(verdict.breaches for verdict in verdicts) else 0


def told(verdict: Verdict) -> Verdict:
    """The verdict, after a line about it on stderr."""
    trial = verdict.trial
    done = "was done before" if verdict.ended else f"left {verdict.left}"
    about = f"{trial.number:3} {trial.strike.name:7} at {trial.moment:.2f}, hub {trial.trouble or 'well'}: {done}"
    print("; ".join([about, *verdict.breaches]), file=sys.stderr, flush=True)
    return verdict


def show(verdicts: list[Verdict]) -> None:
    """The table, on stdout."""
    table = Table(box=None, pad_edge=False)
    headings = (
        "struck by",
        "trials",
        "done before",
        "left nothing",
        "left a partial folder",
        "left whole data",
        "hub ill",
    )
    for heading in (*headings, "breaches"):
        table.add_column(heading, justify="left" if heading == "struck by" else "right")
    for name in [*(number.name for number in SIGNALS), "all"]:
        some = [verdict for verdict in verdicts if name in ("all", verdict.trial.strike.name)]
        left = Counter(verdict.left for verdict in some if not verdict.ended)
        counts = [len(some), sum(one.ended for one in some), left["nothing"], left["partial"], left["whole"]]
        counts += [sum(one.trial.trouble is not None for one in some), sum(len(one.breaches) for one in some)]
        table.add_row(name, *map(str, counts))
    Console(width=130).print(table)


if __name__ == "__main__":
    sys.exit(main())

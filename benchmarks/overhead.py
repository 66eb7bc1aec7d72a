"""The flow beside a plain program that makes the same SDK calls one after the other, and what the flow itself takes.

    python -m benchmarks.overhead [--repeats 3] [--call-seconds 0.25]

Each run is a process of its own with an emulator of its own, in which the cluster does not exist yet; both take turns,
and both report to one Prefect server that runs before. Operations and calls take the seconds below. A call over the
Atlantic takes about a quarter of a second; operations of the real service take minutes, so these are short for it, and
their share among themselves is what counts. Prints a table on stdout; exit 1 when a bar is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import requests
from rich.console import Console
from rich.table import Table

from retune import sign_in
from retune.folders import home
from retune_cli import servers

ROOT = Path(__file__).resolve().parent.parent
RUN_SECONDS = 900
MOST_OF_PLAIN = 0.8
MOST_OWN_SECONDS = 5
MOST_OF_IMPORT = 1.2
IMPORTS = 21
LATENCIES = {
    # Nobody is told when to look again, as by the real service.
    "retry_after_seconds": 0,
    "compute_seconds": 20,
    "queue_seconds": 5,
    "prepare_seconds": 2,
    "finalize_seconds": 2,
    "endpoint_seconds": 30,
    "deployment_seconds": 20,
    "delete_seconds": 10,
}
SETTINGS = (
    "model.component=chat_completion_rehearsal",
    "compute.name=fresh-cluster",
    "limits.poll_seconds=0.5",
    "training.training_seconds=10",
)

Interval = tuple[datetime, datetime]


class Row(NamedTuple):
    """One line of the table; `met` is None where there is no bar."""

    measure: str
    plain: str
    flow: str
    ratio: str
    bar: str
    met: bool | None


class Measured(NamedTuple):
    """One run; in `own_seconds` of it no remote work went on. They are not told of the plain program, which has 0."""

    seconds: float
    own_seconds: float
    calls: int


def main() -> int:
    """0 when every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--call-seconds", type=float, default=0.25, help="time of every call (default: 0.25)")
    options = parser.parse_args()
    plain, flow = [], []
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=home()) as folder, prefect(folder) as page:
        for number in range(options.repeats):
            for name, runs in (("plain", plain), ("flow", flow)):
                print(f"{name} {number + 1}", file=sys.stderr)
                place = Path(folder) / f"{name}-{number}"
                runs.append(measure(name, place, f"{page}/api", options.call_seconds))
        imports = row_of_imports()
    rows = [*rows_of_runs(plain, flow), imports]
    show(rows)
    return 1 if any(row.met is False for row in rows) else 0


def rows_of_runs(plain: list[Measured], flow: list[Measured]) -> Iterator[Row]:
    """The lines about whole runs."""
    seconds = [statistics.median(run.seconds for run in runs) for runs in (plain, flow)]
    ratio = seconds[1] / seconds[0]
    own = statistics.median(run.own_seconds for run in flow)
    texts = [f"{one:.1f} s" for one in seconds]
    yield Row("whole process", *texts, f"{ratio:.3f}", f"<= {MOST_OF_PLAIN}", ratio <= MOST_OF_PLAIN)
    spread = [", ".join(f"{run.seconds:.1f}" for run in runs) for runs in (plain, flow)]
    yield Row("every one", *spread, "", "", None)
    bar = f"<= {MOST_OWN_SECONDS} s"
    yield Row("time of the flow with no remote work", "", f"{own:.1f} s", "", bar, own <= MOST_OWN_SECONDS)
    calls = [f"{statistics.median(run.calls for run in runs):.0f}" for runs in (plain, flow)]
    yield Row("calls", *calls, "", "", None)


def row_of_imports() -> Row:
    """Importing the flow beside importing Prefect, in turns."""
    modules = ("prefect", "flows.finetune")
    taken: dict[str, list[float]] = {name: [] for name in modules}
    for name in modules * IMPORTS:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, check=True)
        taken[name].append(time.perf_counter() - began)
    seconds = [statistics.median(taken[name]) for name in modules]
    ratio = seconds[1] / seconds[0]
    texts = [f"{name} {one:.2f} s" for name, one in zip(modules, seconds, strict=True)]
    return Row("import", *texts, f"{ratio:.3f}", f"<= {MOST_OF_IMPORT}", ratio <= MOST_OF_IMPORT)


def measure(name: str, place: Path, api: str, call_seconds: float) -> Measured:
    """One run with an emulator, caches and keys of its own."""
    place.mkdir()
    with emulator(place) as ready:
        ask(ready, "PUT", "/admin/timing", LATENCIES)
        slow = {"on": "request", "effect": "slow", "seconds": call_seconds, "calls": None}
        ask(ready, "PUT", "/admin/faults", [slow])
        variables = {"RETUNE_HOME": str(place / "retune"), "PREFECT_API_URL": api}
        # The plain program's lines have no run to go to.
        variables |= {"PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore"}
        began = datetime.now().astimezone()
        done = subprocess.run(
            [sys.executable, *command(name)],
            cwd=ROOT,
            env=os.environ | ready["env"] | variables,
            stdout=subprocess.PIPE,
            text=True,
            timeout=RUN_SECONDS,
            check=True,
        )
        seconds = (datetime.now().astimezone() - began).total_seconds()
        calls = ask(ready, "GET", "/admin/requests")["value"]
        own = 0.0
        if name == "flow":
            report = json.loads(done.stdout)
            work = [*intervals_of_calls(calls), *intervals_of_work(ready)]
            own = own_seconds(flow_interval(report["run"]["flow_run_id"]), work)
    return Measured(seconds, own, len(calls))


def command(name: str) -> list[str]:
    """What is measured."""
    if name == "plain":
        return ["-m", "benchmarks.one_after_another", "plain", *SETTINGS]
    return ["-m", "flows.finetune", "--json", "--quiet", *(word for one in SETTINGS for word in ("--set", one))]


@contextmanager
def prefect(folder: str) -> Iterator[str]:
    """The address of a server on a database of its own, which this process and its children use from now on."""
    os.environ["PREFECT_HOME"] = f"{folder}/prefect"
    port = servers.free_port()
    with servers.prefect_server(port) as page, sign_in.signed_in(sign_in.profile_file(port)):
        yield page


@contextmanager
def emulator(place: Path) -> Iterator[dict]:
    """The ready line of an emulator that lives as long as the body."""
    arguments = ["-m", "azureml_emulator", "--home", str(place / "emulator"), "--stop-with-stdin"]
    with servers.server("emulator", arguments, os.environ.copy(), stdout=subprocess.PIPE) as process:
        yield json.loads(process.stdout.readline())


def ask(ready: dict, method: str, path: str, content: object = None) -> dict:
    """The answer of an admin route."""
    token = {"Authorization": f"Bearer {ready['admin_token']}"}
    url, bundle = f"{ready['url']}{path}", ready["ca_bundle"]
    answer = requests.request(method, url, headers=token, json=content, verify=bundle, timeout=60)
    answer.raise_for_status()
    return answer.json()


def intervals_of_calls(calls: list[dict]) -> Iterator[Interval]:
    """When the emulator was answering."""
    for call in calls:
        end = datetime.fromisoformat(call["time"])
        yield end - timedelta(milliseconds=call["milliseconds"]), end


def intervals_of_work(ready: dict) -> Iterator[Interval]:
    """When something was made or deleted, and when the job waited or ran."""
    # A run that was only logged to has no end of its own.
    for one in (work for work in ask(ready, "GET", "/admin/work")["value"] if work["ended"]):
        yield datetime.fromisoformat(one["started"]), datetime.fromisoformat(one["ended"])


def flow_interval(flow_run_id: str) -> Interval:
    """When Prefect says that the flow ran."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        run = client.read_flow_run(flow_run_id)
    return run.start_time, run.end_time


def own_seconds(whole: Interval, work: list[Interval]) -> float:
    """Seconds of the whole in which none of the work went on."""
    own, reached = 0.0, whole[0]
    for begin, end in sorted(work):
        if begin > reached:
            own += (min(begin, whole[1]) - min(reached, whole[1])).total_seconds()
        reached = max(reached, end)
    return own + max((whole[1] - reached).total_seconds(), 0)


def show(rows: list[Row]) -> None:
    """The table."""
    table = Table(title="Medians", box=None, pad_edge=False)
    for heading in ("measure", "one after the other", "flow", "ratio", "bar", "met"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for row in rows:
        met = {True: "yes", False: "NO", None: ""}[row.met]
        table.add_row(row.measure, row.plain, row.flow, row.ratio, row.bar, met)
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())

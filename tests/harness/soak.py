"""Runs the flow many times on one emulator and shows that nothing grows: `python tests/harness/soak.py --runs 50`.

The runs are rehearsals in this process, each under a key of its own, from upload to deleted endpoint. A line a run
tells what the emulator then holds, and how many guards of the runs are left. The exit status is 1 when it grew: file
descriptors, connections, threads or children above those of the first five runs in each of the last five, or
resident memory beyond 120 % of that after the fifth run. MLflow's process is shown, not judged.
"""

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
import requests
from processes import running

EARLY = 5
MEMORY_FACTOR = 1.2
END_SECONDS = 15
REHEARSAL = ["model.component=chat_completion_rehearsal", "score.rows=1", "limits.poll_seconds=0.2"]
QUICK = {
    "retry_after_seconds": 0.1,
    "queue_seconds": 0.05,
    "prepare_seconds": 0.05,
    "finalize_seconds": 0.05,
    "endpoint_seconds": 0.1,
    "deployment_seconds": 0.1,
    "delete_seconds": 0.1,
}


@dataclass(frozen=True)
class Held:
    """What the emulator's process holds after a run; `fds` without connections; memory in MB."""

    fds: int
    connections: int
    threads: int
    children: int
    memory: float
    mlflow_memory: float
    guards: int = 0


def main() -> int:
    """The exit status: 0 when nothing grew."""
    parser = argparse.ArgumentParser(description="Runs one emulator through many whole runs.")
    parser.add_argument("--runs", type=int, default=50, help=f"how many, at least {2 * EARLY} (default: %(default)s)")
    parser.add_argument("--home", type=Path, help="a new folder to keep (default: a temporary one, deleted)")
    options = parser.parse_args()
    if options.runs < 2 * EARLY:
        parser.error(f"--runs must be at least {2 * EARLY}: the first {EARLY} are the measure of the last {EARLY}.")
    home = options.home or Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        held = soak(options.runs, home)
    finally:
        if options.home is None:
            shutil.rmtree(home, ignore_errors=True)
    breaches = growth(held)
    print("\n".join(breaches) or "no growth")
    return 1 if breaches else 0


def soak(runs: int, home: Path) -> list[Held]:
    """What the emulator held after each run."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "emulator.log").open("ab") as log:
        process, ready = start(home, log)
        try:
            os.environ |= ready["env"] | {"RETUNE_HOME": str(home / "retune"), "PREFECT_HOME": str(home / "prefect")}
            call_admin(ready, "PUT", "/admin/timing", QUICK)
            return measured_runs(runs, ready)
        finally:
            end(process)


def start(home: Path, log: IO[bytes]) -> tuple[subprocess.Popen[str], dict]:
    """A started emulator and its ready line."""
    command = [sys.executable, "-m", "azureml_emulator", "--home", str(home / "emulator"), "--stop-with-stdin"]
    place = Path(__file__).parents[2]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=place, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"The emulator did not start. Its log: {log.name}")
    return process, json.loads(line)


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_SECONDS)


def call_admin(ready: dict, method: str, path: str, content: object = None) -> object:
    headers = {"Authorization": f"Bearer {ready['admin_token']}"}
    answer = requests.request(
        method, ready["url"] + path, headers=headers, json=content, verify=ready["ca_bundle"], timeout=60
    )
    answer.raise_for_status()
    return answer.json() if answer.content else None


def measured_runs(runs: int, ready: dict) -> list[Held]:
    """What the emulator holds after each run; prints the lines."""
    from retune.request import load
    from retune_cli.running import run_flow, servers_for

    held = []
    with servers_for(load("local", []).workspace, prefect=True):
        print(" run   fds  connections  threads  children   RSS MB  MLflow MB  guards  seconds", file=sys.stderr)
        for number in range(1, runs + 1):
            started = time.monotonic()
            report = run_flow(load("local", [*REHEARSAL, f"training.seed={number}"]), f"soak-{number}")
            assert report.status == "completed", report.error
            # The SDK's clients are never closed; their connections end with the objects.
            gc.collect()
            held.append(look(ready["pid"]))
            print_line(number, held[-1], time.monotonic() - started)
    return held


def print_line(number: int, held: Held, seconds: float) -> None:
    print(
        f"{number:4} {held.fds:5} {held.connections:12} {held.threads:8} {held.children:9} "
        f"{held.memory:8.1f} {held.mlflow_memory:10.1f} {held.guards:7} {seconds:8.1f}",
        file=sys.stderr,
        flush=True,
    )


def look(pid: int) -> Held:
    """What a process holds now."""
    emulator = psutil.Process(pid)
    children = emulator.children(recursive=True)
    # The supervisor of MLflow's process has the same words in its command line and is the smaller one.
    mlflow = [child.memory_info().rss for child in running(pid, "azureml_emulator.mlflow_server")]
    connections = [one for one in emulator.net_connections("tcp") if one.status != psutil.CONN_LISTEN]
    return Held(
        fds=emulator.num_fds() - len(connections),
        connections=len(connections),
        threads=emulator.num_threads(),
        children=len(children),
        memory=emulator.memory_info().rss / 1e6,
        mlflow_memory=max(mlflow, default=0) / 1e6,
        guards=len(running(os.getpid(), "flows.guard")),
    )


def growth(held: list[Held]) -> list[str]:
    """What grew, in words."""
    early, late = held[:EARLY], held[-EARLY:]
    breaches = []
    for name in ("fds", "connections", "threads", "children", "guards"):
        before, after = max(getattr(one, name) for one in early), min(getattr(one, name) for one in late)
        if after > before:
            breaches.append(f"GROWTH: {name}: at most {before} in the first {EARLY} runs, at least {after} in the last")
    limit, most = early[-1].memory * MEMORY_FACTOR, max(one.memory for one in held[EARLY:])
    if most > limit:
        breaches.append(f"GROWTH: resident memory: {early[-1].memory:.1f} MB after run {EARLY}, then up to {most:.1f}")
    return breaches


if __name__ == "__main__":
    sys.exit(main())

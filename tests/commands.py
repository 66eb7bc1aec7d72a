"""The commands as processes that tests read, signal and kill, and what they leave."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
from conftest import Emulator

from retune import sign_in

ROOT = Path(__file__).resolve().parent.parent
# Seconds after which a command that was told to end has lost it.
END_SECONDS = 120
# A run of seconds: the emulator's component that loads no torch.
REHEARSAL = ("model.component=chat_completion_rehearsal", "score.rows=2", "limits.poll_seconds=0.5")


def without_prefect() -> dict[str, str]:
    """The environment of a shell that names no Prefect server."""
    return {name: value for name, value in os.environ.items() if name not in sign_in.variables(Path())}


class Ended(NamedTuple):
    """A command that has ended; `report` is what it printed on stdout as JSON."""

    code: int
    report: dict
    errors: str
    seconds: float


class Command:
    """A Python program in a process group of its own, with its stderr read line by line."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self._lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A test runner's child may have inherited an ignored SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def read_until(self, pattern: str) -> "Command":
        """Wait for a line of stderr that matches."""
        for line in self.process.stderr:
            self._lines.append(line)
            if re.search(pattern, line):
                return self
        raise AssertionError(f"the command ended before '{pattern}': {''.join(self._lines)}")

    def guard(self) -> psutil.Process:
        """The run's guard."""
        (guard,) = [
            child for child in psutil.Process(self.process.pid).children() if "flows.guard" in " ".join(child.cmdline())
        ]
        return guard

    def signal(self, number: int, times: int = 1) -> "Command":
        """Signal the process group, as a terminal does."""
        for _ in range(times):
            os.killpg(self.process.pid, number)
            time.sleep(0.2)  # a finger's pace: a second key press, not one coalesced with the first
        return self

    def end(self) -> Ended:
        """What the command printed and returned, once it has ended."""
        began = time.monotonic()
        try:
            output, errors = self.process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        report = json.loads(output) if output.strip() else {}
        return Ended(self.process.returncode, report, "".join(self._lines) + errors, time.monotonic() - began)


def finetune(environment: dict[str, str], *assignments: str, key: str | None = None) -> Command:
    """`python -m flows.finetune --json --force`, started."""
    named = ["--run-key", key] if key else []
    sets = [word for assignment in assignments for word in ("--set", assignment)]
    return Command(["-m", "flows.finetune", "--json", "--force", *named, *sets], environment)


def retune(environment: dict[str, str], *arguments: str) -> Ended:
    """`retune COMMAND ... --json`, run to its end."""
    return Command(["-c", "from retune.commands import retune; retune()", *arguments, "--json"], environment).end()


def state_in_prefect(flow_run_id: str) -> str:
    """The flow run's state type as Prefect's API tells it."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run_id).state_type.value


def wait_for(what: Callable[[], object], seconds: float, text: str) -> object:
    """The first true answer of `what`."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {text}"
        time.sleep(0.3)
    return found


def job_statuses(emulator: Emulator, key: str) -> dict[str, str]:
    """The jobs of a run, whoever made them, with their statuses."""
    jobs = emulator.client().jobs.list(tag=f"retune.key={key}")
    return {job.name: str(getattr(job.status, "value", job.status)) for job in jobs}


def wait_for_end(emulator: Emulator, job: str) -> str:
    """The job's final status, which a cancellation reaches within 15 s."""

    def ended() -> str | None:
        status = str(getattr(emulator.client().jobs.get(job).status, "value", ""))
        status = status or str(emulator.client().jobs.get(job).status)
        return status if status in ("Completed", "Failed", "Canceled") else None

    return str(wait_for(ended, 15, f"end of {job}"))


def endpoints_left(emulator: Emulator) -> list[str]:
    """Names of the endpoints that the workspace holds."""
    return [endpoint.name for endpoint in emulator.client().online_endpoints.list()]


def creating_calls(emulator: Emulator, after: int) -> list[str]:
    """Requests after the first `after` ones that could make or change something in the workspace."""
    lines = Path(emulator.ready["request_log"]).read_text(encoding="utf-8").splitlines()[after:]
    requests = [json.loads(line) for line in lines]
    return [
        f"{request['method']} {request['path']}"
        for request in requests
        if request["method"] not in ("GET", "HEAD") and not request["path"].endswith("/listSecrets")
    ]


def requests_so_far(emulator: Emulator) -> int:
    """Number of requests in the emulator's log."""
    return len(Path(emulator.ready["request_log"]).read_text(encoding="utf-8").splitlines())

"""The commands as processes that tests read, signal and kill, and what they leave."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import preloaded
import psutil
from conftest import Emulator
from processes import running

from retune import sign_in

ROOT = Path(__file__).resolve().parents[2]
# What takes longer hangs: a line of a command, its end, an event. How fast the machine is, no test asserts.
LINE_SECONDS, END_SECONDS, EVENT_SECONDS = 180, 240, 60
LOOK_EVERY_SECONDS = 0.02
# For a Prefect server whose database has its tables: to see that takes it five seconds of processor time.
UP_TO_DATE = {"PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false"}
# A run of seconds: the emulator's component that loads no torch.
REHEARSAL = ("model.component=chat_completion_rehearsal", "score.rows=2", "limits.poll_seconds=0.5")


def without_prefect() -> dict[str, str]:
    """The environment of a shell that names no Prefect server."""
    return {name: value for name, value in os.environ.items() if name not in sign_in.variables(Path())}


def own_homes(folder: Path, database: Path) -> dict[str, str]:
    """Variables for the files of Retune and Prefect in `folder`, with a copy of Prefect's `database`."""
    homes = {"RETUNE_HOME": folder / "retune", "PREFECT_HOME": folder / "prefect"}
    homes["PREFECT_HOME"].mkdir()
    shutil.copy(database, homes["PREFECT_HOME"] / "prefect.db")
    return {name: str(home) for name, home in homes.items()} | UP_TO_DATE


class Ended(NamedTuple):
    """A command that has ended, with its exit status and what it printed."""

    code: int
    output: str
    errors: str

    @property
    def report(self) -> dict:
        """The JSON on stdout."""
        return json.loads(self.output)


class Command:
    """A Python program in a session of its own, whose stdout and stderr are kept in memory.

    It is a fork of a process that has loaded the SDK; `fresh`: a new interpreter, which takes seconds longer.
    """

    def __init__(self, arguments: list[str], environment: dict[str, str], *, fresh: bool = False) -> None:
        self._output, self._errors = os.memfd_create("stdout"), os.memfd_create("stderr")
        self._read = 0
        start = start_fresh if fresh else preloaded.start
        self.process = start(arguments, environment, self._output, self._errors)

    def read_until(self, pattern: str) -> "Command":
        """Wait for a line of stderr that matches, after the lines that were waited for before."""
        deadline = time.monotonic() + LINE_SECONDS
        while True:
            ended = self.process.poll() is not None
            for line in read_lines(self._errors, self._read):
                self._read += len(line)
                if re.search(pattern, line.decode().rstrip("\n")):
                    return self
            assert not ended, f"the command ended before '{pattern}': {read_text(self._errors)}"
            assert time.monotonic() < deadline, f"not within {LINE_SECONDS} s: '{pattern}': {read_text(self._errors)}"
            time.sleep(LOOK_EVERY_SECONDS)

    def guard(self) -> psutil.Process:
        """The run's guard."""
        (guard,) = running(self.process.pid, "flows.guard")
        return guard

    def signal(self, number: int, times: int = 1) -> "Command":
        """Signal the process group, as a terminal does."""
        for _ in range(times):
            os.killpg(self.process.pid, number)
            time.sleep(0.2)  # a finger's pace: a second key press, not one coalesced with the first
        return self

    def printed_report(self) -> dict | None:
        """The JSON on stdout, once it is whole; the command may still be ending."""
        text = read_text(self._output)
        return json.loads(text) if text.endswith("}\n") else None

    def end(self) -> Ended:
        """What the command printed and returned, once it has ended."""
        try:
            code = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        output, errors = read_text(self._output), read_text(self._errors)
        os.close(self._output)
        os.close(self._errors)
        return Ended(code, output, errors)


def start_fresh(
    arguments: list[str], environment: dict[str, str], stdout: int, stderr: int
) -> "subprocess.Popen[bytes]":
    """`python ARGUMENTS` as a new interpreter, in the project's folder and a session of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        # A test runner's child may have inherited an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def read_text(file: int) -> str:
    """All that has been written to the file, whose position is the writer's."""
    return os.pread(file, os.fstat(file).st_size, 0).decode()


def read_lines(file: int, start: int) -> list[bytes]:
    """The complete lines of the file from the byte `start` on."""
    text = os.pread(file, os.fstat(file).st_size - start, start)
    return text[: text.rfind(b"\n") + 1].splitlines(keepends=True)


def finetune(environment: dict[str, str], *assignments: str, key: str | None = None, fresh: bool = False) -> Command:
    """`python -m flows.finetune --json --force`, started."""
    named = ["--run-key", key] if key else []
    sets = [word for assignment in assignments for word in ("--set", assignment)]
    return Command(["-m", "flows.finetune", "--json", "--force", *named, *sets], environment, fresh=fresh)


def retune(environment: dict[str, str], *arguments: str) -> Ended:
    """`retune COMMAND ... --json`, run to its end."""
    return Command(["-c", "from retune_cli.commands import retune; retune()", *arguments, "--json"], environment).end()


def state_in_prefect(flow_run_id: str) -> str:
    """The flow run's state type as Prefect's API tells it."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run_id).state_type.value


def wait_for(event: Callable[[], object], text: str, seconds: float = EVENT_SECONDS) -> object:
    """The first true answer of `event`, which `text` names in words."""
    deadline = time.monotonic() + seconds
    while not (found := event()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {text}"
        time.sleep(0.3)
    return found


def job_statuses(emulator: Emulator, key: str | None = None) -> dict[str, str]:
    """The jobs of a run, whoever made them, or all of the workspace, with their statuses."""
    jobs = emulator.client().jobs.list(tag=key and f"retune.key={key}")
    return {job.name: str(getattr(job.status, "value", job.status)) for job in jobs}


def wait_for_end(emulator: Emulator, job: str) -> str:
    """The job's final status, once it has one."""

    def ended() -> str | None:
        status = str(getattr(emulator.client().jobs.get(job).status, "value", ""))
        status = status or str(emulator.client().jobs.get(job).status)
        return status if status in ("Completed", "Failed", "Canceled") else None

    return str(wait_for(ended, f"end of {job}"))


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

"""The stage of the kill harness: emulators, a Prefect server, folders, and an end that leaves nothing behind.

One emulator is shared by all lanes and is never harmed; the other one is the victim of those trials that kill it, and
is there only for them.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

import psutil
import requests
from processes import command_line, processes_of

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS, STOP_SECONDS, ANSWER_SECONDS = 60, 15, 120
TIMING = {
    "retry_after_seconds": 0.3,
    "compute_seconds": 0.1,
    "queue_seconds": 0.05,
    "prepare_seconds": 0.05,
    "finalize_seconds": 0.05,
    "endpoint_seconds": 0.3,
    "deployment_seconds": 0.1,
    "delete_seconds": 0.3,
}


# Set when the harness is to end: every wait then gives up.
STOPPING = threading.Event()


class TooSlow(RuntimeError):
    """Something did not happen before its deadline; the text says what."""


class Ended(RuntimeError):
    """The harness was told to end."""


def wait_for(look: Callable[[], object], seconds: float, what: str, every: float = 0.05) -> None:
    """Return when `look` says something true. Raises: TooSlow, Ended."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise TooSlow(f"{what} did not happen within {seconds:g} s")
        rest(every)


def rest(seconds: float) -> None:
    """Sleep. Raises: Ended."""
    if STOPPING.wait(max(seconds, 0)):
        raise Ended("the harness ends")


class Cloud:
    """One emulator on a home, and the process that looks into it with the SDK."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._asking, self._faulting = threading.Lock(), threading.Lock()
        self._session = requests.Session()
        self.start()
        self.admin("PUT", "/admin/timing", TIMING)
        self._faults: dict[str, dict[str, object]] = {}
        self._witness = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("chaos_cloud.py"))],
            env=os.environ | self.env | {"CHAOS_HOME": str(home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=home.with_suffix(".witness.log").open("ab"),
            text=True,
            start_new_session=True,
        )

    def start(self) -> None:
        """Start the emulator, on the port that it had."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "azureml_emulator", "--home", str(self.home), "--stop-with-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.home.with_suffix(".log").open("ab"),
            cwd=ROOT,
            text=True,
            start_new_session=True,
        )
        self.ready = json.loads(read_line(self.process, START_SECONDS))
        self.env: dict[str, str] = self.ready["env"]

    def wait_for_end(self) -> None:
        """Return when the emulator, which was told to end, has ended."""
        wait_for(lambda: self.process.poll() is not None, STOP_SECONDS, "the end of the emulator")
        for stream in (self.process.stdin, self.process.stdout):
            stream.close()

    def revive(self) -> None:
        """Have the emulator run, whatever a trial that failed has left of it."""
        self.process.send_signal(signal.SIGCONT)
        if self.process.poll() is not None:
            self.start()

    def ask(self, question: str, *arguments: str) -> dict:
        """The witness's answer. Raises: TooSlow, RuntimeError with the SDK's error."""
        with self._asking:
            self._witness.stdin.write(json.dumps({"ask": question, "arguments": arguments}) + "\n")
            self._witness.stdin.flush()
            answer = json.loads(read_line(self._witness, ANSWER_SECONDS))
        if "error" in answer:
            raise RuntimeError(f"{question} {arguments}: {answer['error']}")
        return answer["answer"]

    def admin(self, method: str, path: str, content: object = None) -> object:
        """The body of an admin answer. For one thread at a time."""
        answer = self._session.request(
            method,
            self.ready["url"] + path,
            headers={"Authorization": f"Bearer {self.ready['admin_token']}"},
            json=content,
            verify=self.ready["ca_bundle"],
            timeout=STOP_SECONDS,
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def hold(self, owner: str, fault: dict[str, object] | None) -> None:
        """Set the one fault of an owner, or remove it. Those of others stay, but their calls are counted anew."""
        with self._faulting:
            self._faults.pop(owner, None)
            if fault:
                self._faults[owner] = fault
            self.admin("PUT", "/admin/faults", list(self._faults.values()))

    def held(self, owner: str) -> bool:
        """Whether a request has run into the owner's fault."""
        with self._faulting:
            present = self.admin("GET", "/admin/faults")
            own = self._faults[owner]
            return any(one["seen"] >= own["from_call"] for one in present if one["path"] == own["path"])

    def log_size(self) -> int:
        """Position of the end of the request log."""
        return Path(self.ready["request_log"]).stat().st_size

    def log_since(self, position: int) -> tuple[list[dict], int]:
        """The requests that were answered after that position, and the position after them."""
        with Path(self.ready["request_log"]).open("rb") as log:
            log.seek(position)
            complete = log.read().rpartition(b"\n")[0]
        return [json.loads(line) for line in complete.splitlines()], position + len(complete) + bool(complete)

    def open_files(self) -> int:
        return psutil.Process(self.process.pid).num_fds()

    def servers(self) -> list[str]:
        """Command lines of the emulator's processes that serve models."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [line for child in children if re.search(r"-m trainer\.\w*serve", line := command_line(child))]

    def close(self) -> None:
        """End both processes."""
        self._session.close()
        with contextlib.suppress(OSError):
            self._witness.stdin.close()
        for process in (self._witness, self.process):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in (self._witness, self.process):
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def read_line(process: "subprocess.Popen[str]", seconds: float) -> str:
    """The next line of a process's stdout. Raises: TooSlow."""
    readable, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if readable else ""
    if not line:
        raise TooSlow(f"{' '.join(process.args[1:4])} gave no answer within {seconds} s (exit status {process.poll()})")
    return line


class Stage:
    """All that the trials share. Leaving it ends every process that was started on it."""

    def __init__(self, clouds: Iterable[str], database: Path | None = None) -> None:
        """Start an emulator of each name. Prefect's server begins with a copy of `database`, if given."""
        self.folder = Path(tempfile.mkdtemp(prefix="retune-chaos-"))
        self._names, self._database = clouds, database
        self.keep = True
        # Keys of runs that go on and that nobody has struck yet.
        self.live: set[str] = set()
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        # Before Prefect is imported: its database and Retune's logs belong to the stage.
        os.environ |= {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "RETUNE_HOME": str(self.folder / "harness"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        from retune import sign_in

        for name in (*sign_in.variables(Path()), "ARM_CLOUD_METADATA_URL"):
            os.environ.pop(name, None)
        if self._database:
            # It has its tables.
            os.environ["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] = "false"
            (self.folder / "prefect").mkdir()
            shutil.copy(self._database, self.folder / "prefect" / "prefect.db")
        try:
            from prefect.settings import PREFECT_API_URL

            from retune_cli import servers

            self.clouds = {name: self._cloud(name) for name in self._names}
            self._exit.enter_context(servers.prefect_api())
            self.prefect = PREFECT_API_URL.value()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _cloud(self, name: str) -> Cloud:
        cloud = Cloud(self.folder / name)
        self._exit.callback(cloud.close)
        return cloud

    def __exit__(self, *_: object) -> None:
        STOPPING.set()
        self.end_processes(self.folder)
        self._exit.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self, cloud: Cloud, folder: Path, *, own_prefect: bool = False) -> dict[str, str]:
        """What the shell of a user on this cloud holds, with everything that Retune and Prefect keep in `folder`.

        With `own_prefect` it names no Prefect server, so that the command starts its own.
        """
        homes = {"RETUNE_HOME": str(folder / "retune"), "PREFECT_HOME": str(folder / "prefect")}
        shell = os.environ | cloud.env | homes | {"PREFECT_API_URL": self.prefect, "PREFECT_WORKER_QUERY_SECONDS": "1"}
        if not own_prefect:
            return shell
        if self._database:
            (folder / "prefect").mkdir(parents=True, exist_ok=True)
            shutil.copy(self._database, folder / "prefect" / "prefect.db")
        from retune import sign_in

        return {name: value for name, value in shell.items() if name not in sign_in.variables(Path())}

    def end_processes(self, folder: Path) -> None:
        """Kill what was started with a RETUNE_HOME in this folder, other than the harness's own servers."""
        for process in processes_of(folder):
            if process.environ().get("RETUNE_HOME") != os.environ["RETUNE_HOME"]:
                with contextlib.suppress(psutil.Error):
                    process.kill()

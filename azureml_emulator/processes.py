"""Child processes that end with the emulator: job steps and model servers.

Each command runs in its own session and process group under a small supervisor (supervisor.py) that watches a pipe
to this process. So the whole group ends on request, when the command itself ends, and when the emulator
dies, also by SIGKILL and together with the supervisor. Not covered: a program that leaves its group on purpose.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

SUPERVISOR = Path(__file__).with_name("supervisor.py")
# The emulator's own variables that a job's code and a model's server get: how this machine is set up, and nothing
# that signs in anywhere.
INHERITED = {
    *("HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "TORCH_HOME", "TRANSFORMERS_OFFLINE"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
}
INHERITED_PREFIXES = ("CUDA_", "HIP_", "HSA_", "KMP_", "LC_", "MKL_", "NCCL_", "OMP_", "OPENBLAS_", "PYTORCH_", "XDG_")


def own_environment() -> dict[str, str]:
    """The environment of every child: this machine's variables, and the packages next to the emulator."""
    kept = {
        name: value for name, value in os.environ.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    return kept | {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUNBUFFERED": "1"}


class Child:
    """A running command. Safe to use from several threads."""

    def __init__(self, supervisor: subprocess.Popen[bytes], pid: int, grace_seconds: float) -> None:
        self.pid = pid
        self._supervisor = supervisor
        self._grace_seconds = grace_seconds
        self._lock = threading.Lock()
        self._status: int | None = None

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        """The exit status (negative: the signal that ended it), or None when it still runs after the timeout."""
        try:
            self._supervisor.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        with self._lock:
            if self._status is None:
                self._status = self._read_status()
        return self._status

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self.wait(0)

    def terminate(self) -> None:
        """Asks the group to end: SIGTERM now, SIGKILL after the grace. Does not wait."""
        with self._lock, suppress(BrokenPipeError):
            if self._supervisor.stdin:
                self._supervisor.stdin.close()

    def stop(self) -> int:
        """The exit status, after the group was made to end."""
        self.terminate()
        status = self.wait(self._grace_seconds + 2)
        if status is None:
            self.kill()
            status = self.wait()
        return -signal.SIGKILL if status is None else status

    def kill(self) -> None:
        """SIGKILL to the group. Does not wait."""
        if self._supervisor.poll() is None:
            self._signal_group()

    def _signal_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _read_status(self) -> int:
        """The status line; without one the supervisor itself was killed, and the group is ended in its place."""
        assert self._supervisor.stdout
        lines = list(self._supervisor.stdout)
        self._supervisor.stdout.close()
        with suppress(BrokenPipeError):
            if self._supervisor.stdin:
                self._supervisor.stdin.close()
        if lines:
            return int(json.loads(lines[-1])["status"])
        self._signal_group()
        return -signal.SIGKILL


def start_child(
    command: list[str], *, folder: Path, env: dict[str, str], log_file: Path, grace_seconds: float = 3.0
) -> Child:
    """The command, started in `folder` with exactly the environment `env`, its output appended to `log_file`.

    Raises: FileNotFoundError when the folder or the program does not exist, another OSError when the system refuses.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SUPERVISOR), str(grace_seconds), *command],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert supervisor.stdin and supervisor.stdout
    first = json.loads(supervisor.stdout.readline() or b'{"error": "its supervisor was killed"}')
    if "pid" in first:
        return Child(supervisor, int(first["pid"]), grace_seconds)
    supervisor.stdin.close()
    supervisor.stdout.close()
    supervisor.wait()
    raise FileNotFoundError(f"Could not start {command!r} in '{folder}': {first['error']}")


def wait_for_end(log_file: Path, timeout_seconds: float) -> bool:
    """Whether no command that logs to `log_file` runs any more, one of an emulator that was killed included."""
    deadline = time.monotonic() + timeout_seconds
    with log_file.open("ab") as log:
        while True:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.05)
            else:
                return True

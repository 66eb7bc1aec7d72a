"""Python programs as forks of a process that has loaded what the flow uses, which takes most of a short run's time.

There is one such server for each environment, because libraries read it while they are loaded. It has one thread and no
connection when it forks. A program gets a session and arguments of its own, and signals as a shell leaves them. What
differs from a fresh process: the modules are there, the cloud has been asked for its addresses, and the command line in
/proc is the server's.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180
LARGEST_ORDER_BYTES = 1 << 17
NUMBER_BYTES = 4
# Threads that libraries would start while they are loaded.
ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    # Polars, which MLflow imports wherever it is installed.
    "_RJEM_MALLOC_CONF": "background_thread:false",
}


class Forked:
    """A program that runs, with what `subprocess.Popen` offers for it."""

    def __init__(self, status: int) -> None:
        self._status = status
        self.returncode: int | None = None
        self.pid = self._read_number(START_SECONDS)

    def _read_number(self, seconds: float) -> int:
        """The next number that the program's parent writes: its process id, then its exit status."""
        ready, _, _ = select.select([self._status], [], [], seconds)
        if not ready:
            raise subprocess.TimeoutExpired("a preloaded program", seconds)
        number = os.read(self._status, NUMBER_BYTES)
        assert number, "the program's parent has died"
        return int.from_bytes(number, "little", signed=True)

    def poll(self) -> int | None:
        """The exit status, or None while the program runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit status, negative for a signal. Raises: subprocess.TimeoutExpired."""
        if self.returncode is None:
            self.returncode = self._read_number(timeout)
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal the program, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def start(arguments: list[str], environment: dict[str, str], stdout: int, stderr: int) -> Forked:
    """`python ARGUMENTS`, with `-m MODULE` or `-c CODE` first, in the project's folder and a session of its own."""
    status, written = os.pipe()
    server = _server(frozenset(environment.items()))
    socket.send_fds(server, [json.dumps(arguments).encode()], [stdout, stderr, written])
    os.close(written)
    return Forked(status)


@cache
def _server(environment: frozenset[tuple[str, str]]) -> socket.socket:
    """The connection to the server of this process for an environment, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    variables = dict(environment)
    replaced = json.dumps({name: variables.get(name) for name in ONE_THREAD})
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno()), replaced],
        env=variables | ONE_THREAD,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def serve(connection: socket.socket) -> list[str] | None:
    """In each fork the arguments of the program that it is to run; in the server None, when its own parent has gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        text, files, _, _ = socket.recv_fds(connection, LARGEST_ORDER_BYTES, 3)
        if not text:
            return None
        assert len(list(Path("/proc/self/task").iterdir())) == 1, (
            "a second thread: a fork might wait for its locks for ever"
        )
        if os.fork() == 0:
            connection.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _keep(*files)
            return json.loads(text)
        for file in files:
            os.close(file)


def _keep(stdout: int, stderr: int, status: int) -> None:
    """Fork again: the child returns, the parent writes the child's id and exit status and ends."""
    child = os.fork()
    if child:
        os.write(status, child.to_bytes(NUMBER_BYTES, "little", signed=True))
        os.close(stdout)
        os.close(stderr)
        _, ended = os.waitpid(child, 0)
        # Nobody reads it of a program whose test has ended.
        with contextlib.suppress(BrokenPipeError):
            os.write(status, os.waitstatus_to_exitcode(ended).to_bytes(NUMBER_BYTES, "little", signed=True))
        os._exit(0)
    os.close(status)
    os.setsid()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)


def run(arguments: list[str], replaced: dict[str, str | None]) -> None:
    """Do as `python ARGUMENTS` does, with the variables that this process has replaced as they were."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, value in replaced.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    kind, program, *rest = arguments
    sys.argv, sys.path[0] = [kind, *rest], str(ROOT) if kind == "-m" else ""
    if kind == "-m":
        # A module that is loaded is run again.
        warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    # As `python -m` and `python -c` have it: the tests' folder is not searched.
    sys.path[0] = str(ROOT)
    # What the command line does first, in its order.
    from retune_cli import running

    running.quiet_libraries()
    running.import_what_the_flow_uses()
    # And what a run loads on its way.
    for module in ("prefect.engine", "prefect.flow_engine", "prefect.task_engine"):
        importlib.import_module(module)
    # The collector need not look at it in each program.
    gc.freeze()
    if order := serve(socket.socket(fileno=int(sys.argv[1]))):
        run(order, json.loads(sys.argv[2]))

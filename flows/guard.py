"""A process that outlives the run's: it deletes the endpoint and ends the job when the run dies without doing so.

    python -m flows.guard        (started by the run, in a session of its own)

The run holds the other end of this process's standard input. It writes one JSON line that describes the run to guard,
and at its end `done`, or `cancel` when it could not see its job's cancellation through. End of file without `done`
means that the run has died: killed, out of memory, or its worker was told to end, for which Prefect runs no `finally`.

- The endpoint is deleted at once.
- The job is cancelled at once after `cancel`, or when the worker that started the run has ended too: a shutdown.
  Otherwise it keeps running until its lease expires, so that an execution with the same key can take it over.
- The run is marked Crashed in Prefect, where it would stay Running permanently.

What this process does is in `guard.log` beside the reports. Standard library only until it acts (abandoned.py): most
guards are never needed.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from flows.abandoned import Guarded

# The SDK takes seconds of processor time to load, which a starting run needs itself and a short run's guard never uses.
LOAD_AFTER_SECONDS = 60


class Guard:
    """The run's end of the pipe."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def release(self, word: Literal["done", "cancel", ""]) -> None:
        """Let the guard end (`done`), or act: cancel the job too (`cancel`), or find out what is left by itself."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.close()
        if word == "done":
            # It ignores SIGTERM, and has nothing to lose.
            self._process.kill()
            self._process.wait()
        else:
            LEFT_ACTING.append(self._process)


# Kept, so that nothing warns of a child that is meant to outlive this process.
LEFT_ACTING: list["subprocess.Popen[str]"] = []


def start(guarded: "Guarded") -> Guard:
    """A guard, which lives until it is released, or until this process has died and it has cleaned up."""
    from prefect.settings import PREFECT_API_URL

    from retune.folders import home

    root = Path(__file__).resolve().parent.parent
    with (home() / "guard.log").open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=file,
            cwd=root,
            env=os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value() or ""},
            text=True,
            start_new_session=True,
        )
    assert process.stdin
    process.stdin.write(guarded.model_dump_json() + "\n")
    process.stdin.flush()
    return Guard(process)


def main() -> None:
    """Wait for the run's last word, or its death, and act."""
    # What ends a worker's machine or container in good order is sent to every process of it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    line = sys.stdin.readline()
    if not line:
        return
    with _handle(json.loads(line)["worker"]) as worker:
        spoken, _, _ = select.select([sys.stdin], [], [], LOAD_AFTER_SECONDS)
        if not spoken:
            _load()
        word = sys.stdin.read().strip()
        if word != "done":
            from flows.abandoned import Guarded, clean_up

            clean_up(Guarded.model_validate_json(line), worker, cancel_now=word == "cancel")


def _load() -> None:
    """The slow imports, while there is time."""
    from flows.abandoned import load_sdk

    load_sdk()


@contextlib.contextmanager
def _handle(worker: int | None) -> Iterator[int | None]:
    """What can be read once the worker's process has ended; None without a worker, or where the system cannot tell."""
    handle = None if worker is None else _open_process(worker)
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def _open_process(process: int) -> int | None:
    try:
        return os.pidfd_open(process)
    except ProcessLookupError:
        # It has ended: a pipe that nobody writes to can be read as well.
        ended, writer = os.pipe()
        os.close(writer)
        return ended
    except (AttributeError, OSError):
        # Not Linux, or a kernel or a container that does not offer it.
        return None


if __name__ == "__main__":
    main()

"""What stops a run: SIGINT, SIGTERM, or a reason that another thread has found; clean-up that no second one ends.

The first stops the run, those that come during clean-up get an answer on the terminal and are remembered. Prefect's own
time limit (SIGALRM) waits until a clean-up is done.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from prefect.exceptions import TerminationSignal

from retune.errors import RetuneError, Stopped
from retune.waiting import STOP

INTERRUPTED = Stopped("Interrupted", "The run was interrupted.", "Run it again with the same key to go on.")
TERMINATED = Stopped("Terminated", "The process was told to end.", "Run it again with the same key to go on.")
# What Python code that takes and leaves locks is called. Raised there, an exception leaves the lock taken for ever: a
# queue's, for instance, that is written to once more at the end of the run.
LOCKING = frozenset({"__enter__", "__exit__", "acquire", "release"})
# Somebody may wait there for long.
MOST_DELAYS = 5


class Signals:
    """The state of one run's stop: whether it came, why, and what must not be interrupted now."""

    def __init__(self) -> None:
        self.reason: RetuneError | None = None
        self._busy = ""
        self._handling = False
        self._delays = 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Handle both signals in the body. Python gives them to the main thread only."""
        self.reason, self._busy, self._delays = None, "", 0
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        self._handling = True
        try:
            yield
        finally:
            self._handling = False
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self, doing: str) -> Iterator[None]:
        """Run the body to its end whatever comes; Prefect's time limit strikes after it."""
        before, self._busy = self._busy, doing
        alarms: list[int] = []
        # Blocking it would not do: another thread would take it, and Python would run the handler in this one.
        strike = self._handling and signal.signal(signal.SIGALRM, lambda number, frame: alarms.append(number))
        try:
            yield
        finally:
            self._busy = before
            if self._handling:
                signal.signal(signal.SIGALRM, strike)
            if alarms:
                signal.raise_signal(signal.SIGALRM)

    def interrupt(self, reason: RetuneError) -> None:
        """Stop the run from another thread, as a signal would. Only the first reason counts."""
        if self.reason is not None:
            return
        self.reason = reason
        if self._handling:
            self._knock()
        else:
            STOP.set()

    def insist(self) -> None:
        """Stop the run from another thread if a signal came at a moment at which nothing could be raised."""
        if self.reason is not None and self._handling and not self._busy:
            self._knock()

    def _knock(self) -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Nothing here may take a lock, as logging and STOP do: this thread may hold it.
        if self.reason is None:
            self.reason = INTERRUPTED if number == signal.SIGINT else TERMINATED
        if self._busy:
            os.write(2, f"{self._busy} first; please wait\n".encode())
            return
        if frame and frame.f_code.co_name in LOCKING and self._delays < MOST_DELAYS:
            self._delays += 1
            return
        self._busy = "cleaning up"
        raise KeyboardInterrupt if number == signal.SIGINT else TerminationSignal(signal=number)


SIGNALS = Signals()

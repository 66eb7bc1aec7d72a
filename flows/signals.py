"""SIGINT and SIGTERM stop a run: the first asks it to, a later one interrupts it, none interrupts its clean-up.

The first sets the flag that every wait and batch looks at, so that no call is cut short and no lock stays taken. One
that comes later, from a person who does not want to wait for a call of the SDK, or from `flows.watch` after
`PATIENCE_SECONDS`, raises KeyboardInterrupt in the main thread. During the clean-up it gets an answer on the terminal.
Prefect's own time limit (SIGALRM) waits until a clean-up is done.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from retune.errors import Stopped
from retune.waiting import STOP

INTERRUPTED = Stopped("Interrupted", "The run was interrupted.", "Run it again with the same key to resume.")
TERMINATED = Stopped("Terminated", "The process received SIGTERM.", "Run it again with the same key to resume.")
# A terminal and a supervisor may pass on the same signal, and a waiting step needs a moment to see the first.
SAME_SECONDS = 1
# Prefect's workers kill a run 30 s after they have told it to end; the clean-up needs most of that.
PATIENCE_SECONDS = 5


class Signals:
    """How signals are handled now: whether they may raise, and the clean-up that is going on."""

    def __init__(self) -> None:
        self._handling = False
        self._main_thread = 0
        self._may_raise = False
        self._doing = ""

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Handle both signals in the body. Python gives them to the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        self._handling = self._may_raise = True
        self._main_thread = threading.get_ident()
        try:
            yield
        finally:
            self._handling = self._may_raise = False
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self, doing: str) -> Iterator[None]:
        """Run the body to its end whatever comes; Prefect's time limit strikes after it.

        It is the clean-up, or a part of it: once one has begun, no signal raises any more.
        """
        self._may_raise = False
        before, self._doing = self._doing, doing
        alarms: list[int] = []
        # Blocking it would not do: another thread would take it, and Python would run the handler in this one.
        strike = self._handling and signal.signal(signal.SIGALRM, lambda number, frame: alarms.append(number))
        try:
            yield
        finally:
            self._doing = before
            if self._handling:
                signal.signal(signal.SIGALRM, strike)
            if alarms:
                signal.raise_signal(signal.SIGALRM)

    def interrupt(self) -> None:
        """Raise in the main thread, called from another, if the run was asked to stop and has not begun to."""
        if self._may_raise and STOP.reason and time.monotonic() - STOP.requested_at > PATIENCE_SECONDS:
            signal.pthread_kill(self._main_thread, signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Nothing here may take a lock, as logging does: this thread may hold it.
        STOP.request(INTERRUPTED if number == signal.SIGINT else TERMINATED)
        if self._doing:
            os.write(2, f"{self._doing} first; please wait\n".encode())
        elif self._may_raise and time.monotonic() - STOP.requested_at > SAME_SECONDS:
            self._may_raise = False
            raise KeyboardInterrupt


SIGNALS = Signals()

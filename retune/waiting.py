"""Waits with a deadline that end soon after the run is told to stop.

`STOP` is one flag for the process, because a flow run has its process to itself. Every wait looks at it, and so does
every batch of work, through `pause(0)`: steps in threads cannot be interrupted by a signal, and an exception that a
signal raises may strike where a lock is taken.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from retune.errors import RetuneError, Stopped, WaitExpired

if TYPE_CHECKING:
    from azure.core.polling import LROPoller

T = TypeVar("T")

# The longest time that a wait does not look at the flag.
SLICE_SECONDS = 0.2


class Stop:
    """Whether steps are to end, and why the run was told to stop, if it was. It takes no lock: signal handlers set it.

    `requested_at` is by the monotonic clock.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """For a new run."""
        self.reason: RetuneError | None = None
        self.requested_at = 0.0
        self.ending = False

    def request(self, reason: RetuneError) -> None:
        """Tell the run to stop. The first reason counts."""
        if self.reason is None:
            self.reason, self.requested_at = reason, time.monotonic()
        self.ending = True

    def end_steps(self) -> None:
        """Let steps that still wait end: the run needs none of them any more."""
        self.ending = True


STOP = Stop()


def pause(seconds: float) -> None:
    """Sleep, or raise Stopped as soon as the run is told to stop."""
    deadline = time.monotonic() + seconds
    while not STOP.ending:
        if (left := deadline - time.monotonic()) <= 0:
            return
        time.sleep(min(left, SLICE_SECONDS))
    raise Stopped("Stopped", "The run was told to stop.", "")


def poll(look: Callable[[], T | None], *, seconds: float, every: float, stoppable: bool = True) -> T | None:
    """The first answer of `look` that is not None, or None after so many seconds; at least one look is taken.

    A teardown is not stoppable: it is what a stopped run still has to do.

    Raises:
        Stopped: the run was told to stop.
    """
    deadline = time.monotonic() + seconds
    while (answer := look()) is None and (left := deadline - time.monotonic()) > 0:
        pause(min(every, left)) if stoppable else time.sleep(min(every, left))
    return answer


def wait_until(
    look: Callable[[], T | None], *, seconds: float, every: float, subject: str, fix: str, stoppable: bool = True
) -> T:
    """The first answer of `look` that is not None.

    Raises:
        WaitExpired: `subject` took longer than `seconds`; `fix` says which limit to raise or where to look.
        Stopped: the run was told to stop.
    """
    answer = poll(look, seconds=seconds, every=every, stoppable=stoppable)
    if answer is None:
        raise WaitExpired("WaitExpired", f"{subject} timed out after {seconds:g} s.", fix)
    return answer


def wait_for_operation(poller: "LROPoller[T]", *, minutes: float, subject: str, limit: str) -> T:
    """The result of a long-running operation of the service; its own errors pass through.

    Raises:
        WaitExpired: it takes longer than `minutes`, which the setting `limit` gives.
        Stopped: the run was told to stop.
    """
    wait_until(
        lambda: poller.done() or None,
        seconds=minutes * 60,
        every=SLICE_SECONDS,
        subject=subject,
        fix=f"Raise {limit} (now {minutes:g}), or look at the resource in Azure ML studio.",
    )
    return poller.result()

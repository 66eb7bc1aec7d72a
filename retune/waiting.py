"""Waits with a deadline that end at once when the run is told to stop.

`STOP` is one event for the process, because a flow run has its process to itself: steps that wait in
threads cannot be interrupted by a signal, so they look here.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from retune.errors import Stopped, WaitExpired

if TYPE_CHECKING:
    from azure.core.polling import LROPoller

T = TypeVar("T")
STOP = threading.Event()


def wait_until(
    look: Callable[[], T | None], *, seconds: float, every: float, what: str, fix: str, stoppable: bool = True
) -> T:
    """The first answer of `look` that is not None, looking each `every` seconds.

    A teardown is not stoppable: it is what a stopped run still has to do.

    Raises:
        WaitExpired: `what` did not happen within `seconds`; `fix` says which limit to raise or where to look.
        Stopped: the run was told to stop.
    """
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() >= deadline:
            raise WaitExpired("WaitExpired", f"{what} did not happen within {seconds:g} s.", fix)
        rest = min(every, max(deadline - time.monotonic(), 0))
        pause(rest) if stoppable else time.sleep(rest)
    return found


def pause(seconds: float) -> None:
    """Sleep, or raise Stopped as soon as the run is told to stop."""
    if STOP.wait(seconds):
        raise Stopped("Stopped", "The run was told to stop.", "")


def finish(operation: "LROPoller[T]", *, minutes: float, what: str, limit: str) -> T:
    """The result of a long-running operation of the service; its own errors pass through.

    Raises:
        WaitExpired: it takes longer than `minutes`, which the setting `limit` gives.
        Stopped: the run was told to stop.
    """
    wait_until(
        lambda: operation.done() or None,
        seconds=minutes * 60,
        every=0.2,
        what=what,
        fix=f"Raise {limit} (now {minutes:g}), or look at the resource in Azure ML studio.",
    )
    return operation.result()

"""What a guard knows of the worker that started its run."""

import os
import select
import subprocess
import sys

import pytest

from flows.guard import _handle


def has_ended(handle: int | None) -> bool:
    """As the guard looks at it."""
    assert handle is not None
    return bool(select.select([handle], [], [], 0)[0])


def test_a_worker_that_has_ended_is_seen() -> None:
    """Before the guard looked, and while it looks."""
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with _handle(worker.pid) as handle:
        running = has_ended(handle)
        worker.communicate()
        assert (running, has_ended(handle)) == (False, True)

    with _handle(worker.pid) as handle:
        assert has_ended(handle)


def test_a_system_that_offers_no_handles_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard lives, and does not know when the worker ends."""

    def refuse(_: int) -> int:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with _handle(os.getpid()) as handle:
        assert handle is None
    with _handle(None) as handle:
        assert handle is None

"""Waits end at their deadline, or soon after a stop; of two signals the first asks and the second interrupts."""

import os
import signal
import threading
import time

import pytest

from flows import signals
from flows.signals import INTERRUPTED, SIGNALS, TERMINATED
from retune.errors import Stopped, WaitExpired
from retune.waiting import STOP, pause, poll, wait_until

NEVER = 60


def test_a_wait_looks_once_more_at_its_deadline() -> None:
    """And says what did not happen, and what to do."""
    looks = []
    with pytest.raises(WaitExpired, match=r"Rain timed out after 0\.05 s\. Wait longer\."):
        wait_until(lambda: looks.append(1), seconds=0.05, every=NEVER, subject="Rain", fix="Wait longer.")

    assert len(looks) == 2
    assert poll(lambda: None, seconds=0, every=NEVER) is None
    assert poll(lambda: False, seconds=NEVER, every=NEVER) is False


def test_a_stop_ends_every_wait_within_half_a_second() -> None:
    """In any thread, and also before a wait begins; a teardown's waits go on."""
    ended: list[float] = []

    def wait() -> None:
        try:
            pause(NEVER)
        except Stopped:
            ended.append(time.monotonic())

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    STOP.request(INTERRUPTED)
    for thread in threads:
        thread.join(NEVER)
    with pytest.raises(Stopped):
        pause(0)

    assert len(ended) == 3
    assert max(ended) - began < 0.5
    assert poll(lambda: None, seconds=0.05, every=0.01, stoppable=False) is None


def test_the_first_reason_counts() -> None:
    """A signal that comes after it changes nothing."""
    STOP.request(TERMINATED)
    STOP.request(INTERRUPTED)

    assert STOP.reason is TERMINATED


def test_the_second_signal_interrupts_what_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first only asks; the same one, passed on twice, counts once."""
    monkeypatch.setattr(signals, "SAME_SECONDS", 0.2)
    done = []
    with pytest.raises(KeyboardInterrupt), SIGNALS.watched():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("asked")
        time.sleep(0.25)
        signal.raise_signal(signal.SIGTERM)
        done.append("never")

    assert done == ["asked"]
    assert STOP.reason is INTERRUPTED


def test_no_signal_interrupts_a_clean_up(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor what comes after it; the terminal says what is going on."""
    monkeypatch.setattr(signals, "SAME_SECONDS", 0)
    with SIGNALS.watched():
        with SIGNALS.deferred("deleting endpoint e"):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    assert capfd.readouterr().err == "deleting endpoint e first; please wait\n" * 2


def test_a_run_that_does_not_stop_is_interrupted_from_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reason that comes without a signal reaches a call that does not look, too; never before patience ends."""
    monkeypatch.setattr(signals, "SAME_SECONDS", 0)
    monkeypatch.setattr(signals, "PATIENCE_SECONDS", 0.3)
    with SIGNALS.watched():
        SIGNALS.interrupt()
        STOP.request(Stopped("Cancelled", "The run was cancelled in Prefect.", ""))
        SIGNALS.interrupt()
        time.sleep(0.35)
        with pytest.raises(KeyboardInterrupt):
            SIGNALS.interrupt()
            time.sleep(NEVER)

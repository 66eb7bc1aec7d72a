"""Ctrl-C in each step: the job is cancelled, no endpoint and no process is left, and Prefect's state is honest."""

import re
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from commands import (
    REHEARSAL,
    Command,
    Ended,
    finetune,
    job_statuses,
    own_homes,
    state_in_prefect,
    wait_for,
    wait_for_end,
    without_prefect,
)
from conftest import Emulator
from processes import processes_of

KEY = "interrupt-tests"
ENDED = {"Completed", "Failed", "Canceled"}
LONG = ("training.training_seconds=20", *REHEARSAL)
# The command, signalled while Prefect begins the wait for the job; {end} is what becomes of the exception.
INSIDE_PREFECT = """
import os, signal, sys
from prefect import task_engine
from retune_cli.running import main

def interrupted(**named):
    if named["task"].name.startswith("wait_for_job"):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            {end}
    return make_key(**named)

make_key, task_engine.dynamic_key_for_task_run = task_engine.dynamic_key_for_task_run, interrupted
main(sys.argv[1:])
"""
# The command, signalled while Prefect's queue of events has just taken its lock, which the end of the run needs again.
IN_A_LOCK = """
import os, signal, sys, threading
from retune_cli.running import main

def __enter__(self):
    taken = take(self)
    handled = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    if handled and sys._getframe(1).f_code.co_name == "put" and "emit_event" in callers():
        threading.Condition.__enter__ = take
        os.kill(os.getpid(), signal.SIGINT)
    return taken

def callers():
    frame = sys._getframe(2)
    while frame := frame.f_back:
        yield frame.f_code.co_name

take, threading.Condition.__enter__ = threading.Condition.__enter__, __enter__
main(sys.argv[1:])
"""


def interrupt(environment: dict[str, str], at: str, *, number: int = signal.SIGINT, fresh: bool = False) -> Ended:
    """Run the command and signal its process group when a line of stderr matches `at`."""
    return finetune(environment, *LONG, fresh=fresh).read_until(at).signal(number).end()


@pytest.fixture(scope="module")
def trained(environment: dict[str, str]) -> str:
    """A key whose job is done, so that what follows it can be interrupted without training again."""
    assert finetune(environment, *REHEARSAL, key=KEY).end().code == 0
    return KEY


@pytest.mark.parametrize(
    ("at", "number"),
    [
        pytest.param("signed in as", signal.SIGINT, marks=pytest.mark.exhaustive),
        ("is made|is there", signal.SIGINT),
        pytest.param("  submitted ", signal.SIGINT, marks=pytest.mark.exhaustive),
        pytest.param("chat_completion_finetune Running", signal.SIGINT, marks=pytest.mark.exhaustive),
        ("chat_completion_finetune Running", signal.SIGTERM),
    ],
    ids=["reading", "submitting", "waiting", "training", "training, SIGTERM"],
)
def test_before_the_job_is_done_it_is_cancelled(
    at: str, number: int, environment: dict[str, str], emulator: Emulator
) -> None:
    """Exit 130, state Cancelled, the job Canceled, nothing deployed."""
    run = interrupt(environment, at, number=number)

    assert (run.code, run.report["status"]) == (130, "cancelled"), run.errors
    assert state_in_prefect(run.report["run"]["flow_run_id"]) == "CANCELLED"
    if run.report["job"]:
        assert wait_for_end(emulator, run.report["job"]["name"]) == "Canceled"
    assert wait_for(lambda: set(job_statuses(emulator).values()) <= ENDED, "the end of every job")
    assert list(emulator.client().online_endpoints.list()) == []


@pytest.mark.parametrize(
    "end",
    [pytest.param("raise ValueError('something else')", marks=pytest.mark.exhaustive), "pass"],
    ids=["changed", "swallowed"],
)
def test_a_signal_that_a_library_does_not_pass_on_counts(
    end: str, environment: dict[str, str], emulator: Emulator
) -> None:
    """It may strike anywhere, also where its exception is turned into another or lost."""
    sets = [word for assignment in LONG for word in ("--set", assignment)]
    run = Command(["-c", INSIDE_PREFECT.format(end=end), "--json", *sets], environment).end()

    assert (run.code, run.report["status"]) == (130, "cancelled"), run.errors
    assert run.report["error"]["code"] == "Interrupted"
    assert "Traceback" not in run.errors
    assert state_in_prefect(run.report["run"]["flow_run_id"]) == "CANCELLED"
    assert wait_for_end(emulator, run.report["job"]["name"]) == "Canceled"


def test_a_signal_leaves_no_lock_taken(environment: dict[str, str]) -> None:
    """An exception between a lock's taking and the work under it would leave it so, and the run would never end."""
    sets = [word for assignment in LONG for word in ("--set", assignment)]
    run = Command(["-c", IN_A_LOCK, "--json", *sets], environment).end()

    assert (run.code, run.report["status"]) == (130, "cancelled"), run.errors
    assert run.report["error"]["code"] == "Interrupted"
    assert state_in_prefect(run.report["run"]["flow_run_id"]) == "CANCELLED"


@pytest.mark.parametrize(
    ("at", "times"),
    [
        ("register  ", 1),
        pytest.param("is up$", 1, marks=pytest.mark.exhaustive),
        pytest.param("is ready", 1, marks=pytest.mark.exhaustive),
        ("is ready", 3),
        pytest.param("1/2 answered", 1, marks=pytest.mark.exhaustive),
    ],
    ids=["registering", "deploying", "scoring", "scoring, three times", "asking"],
)
def test_after_the_job_is_done_the_endpoint_is_deleted(
    at: str, times: int, environment: dict[str, str], trained: str, emulator: Emulator
) -> None:
    """Exit 130, state Cancelled, and the teardown ran to its end, also when Ctrl-C was pressed again."""
    run = finetune(environment, *REHEARSAL, key=trained).read_until(at).signal(signal.SIGINT, times).end()

    assert (run.code, run.report["status"]) == (130, "cancelled"), run.errors
    assert "is deleted (404)" in run.errors
    assert state_in_prefect(run.report["run"]["flow_run_id"]) == "CANCELLED"
    assert list(emulator.client().online_endpoints.list()) == []


def test_ctrl_c_during_the_teardown_does_not_stop_it(
    environment: dict[str, str], trained: str, emulator: Emulator
) -> None:
    """The deletion runs to its end, the screen says what it waits for, and the run counts as cancelled."""
    command = finetune(environment, *REHEARSAL, key=trained).read_until("asked for the deletion")
    run = command.signal(signal.SIGINT, times=2).end()

    assert (run.code, run.report["status"]) == (130, "cancelled"), run.errors
    assert re.search(
        r"deleting endpoint retune-[\w-]+-1, which costs money and expires \d\d:\d\d UTC, first", run.errors
    )
    assert run.report["score"] != []
    assert list(emulator.client().online_endpoints.list()) == []


@pytest.mark.exhaustive
def test_servers_of_the_command_s_own_survive_the_signal_and_end_with_it(empty_database: Path, tmp_path: Path) -> None:
    """Without a Prefect API or an emulator in the environment the command brings both, and takes both away."""
    plain = without_prefect() | own_homes(tmp_path, empty_database)
    run = interrupt(plain, "  submitted ", fresh=True)

    with sqlite3.connect(tmp_path / "prefect" / "prefect.db") as database:
        states = database.execute("select state_type from flow_run").fetchall()
    database.close()
    assert (run.code, run.report["status"]) == (130, "cancelled"), run.errors
    assert states == [("CANCELLED",)]
    assert processes_of(tmp_path) == []


def test_a_killed_command_leaves_no_process(empty_database: Path, tmp_path: Path) -> None:
    """The servers' standard input is a pipe of the command: it closes with it, and they end."""
    plain = without_prefect() | own_homes(tmp_path, empty_database)
    run = interrupt(plain, "Prefect's page", number=signal.SIGKILL, fresh=True)

    deadline = time.monotonic() + 20
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert run.code == -signal.SIGKILL
    assert processes_of(tmp_path) == []
    # The sign-in goes with its server.
    assert list((tmp_path / "retune").glob("prefect-*.toml")) == []

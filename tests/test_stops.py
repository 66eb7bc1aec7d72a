"""What stops a run without a signal of the terminal: Prefect's UI, time limits. The job ends, the state is honest."""

import os
import signal
import threading
import time

import pytest
from commands import REHEARSAL, Command, endpoints_left, finetune, job_statuses, state_in_prefect, wait_for
from conftest import Emulator

from flows.signals import SIGNALS
from retune.names import read_lease

LONG = ("training.training_seconds=120", *REHEARSAL)
# A flow with Prefect's own time limit, as somebody may give it.
WITH_TIMEOUT = """
import os, sys
from retune.request import load
from retune_cli.running import progress_on_stderr
from flows.finetune import finetune
key, seconds, *assignments = sys.argv[1:]
sys.stdout = open(os.devnull, "w")
with progress_on_stderr(False):
    limited = finetune.with_options(timeout_seconds=float(seconds))
    state = limited(**dict(load("local", assignments)), run_key=key, return_state=True)
print(state.name, state.state_details.flow_run_id, file=sys.stderr)
"""


def is_cancelled(emulator: Emulator, key: str) -> bool:
    """Whether the run has one job, which is then Canceled."""
    done = {f"retune-{key}-1": "Canceled"}
    return bool(wait_for(lambda: job_statuses(emulator, key) == done, f"cancellation of {key}"))


def test_cancel_in_prefect_reaches_a_run_without_worker(environment: dict[str, str], emulator: Emulator) -> None:
    """Nobody signals the process; the run sees its own state."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    run = finetune(environment, *LONG, key="ui-cancel").read_until("finetune Running")
    flow_run = read_lease(emulator.client().jobs.get("retune-ui-cancel-1").tags).holder.split("/")[1]
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run, Cancelling())
    ended = run.end()

    assert (ended.code, ended.report["error"]["code"]) == (130, "Cancelled"), ended.errors
    assert state_in_prefect(flow_run) == "CANCELLED"
    assert is_cancelled(emulator, "ui-cancel")


@pytest.mark.parametrize(
    ("limit", "faults", "code"),
    [
        ("limits.total_minutes=0.15", [], "RunTooLong"),
        ("limits.run_minutes=0.02", [], "JobTooSlow"),
        pytest.param(
            "limits.queue_minutes=0.03",
            [{"on": "step", "effect": "hang_queued", "name": "*"}],
            "JobTooSlow",
            marks=pytest.mark.exhaustive,
        ),
    ],
    ids=["whole run", "job's run", "job's queue"],
)
def test_a_time_limit_fails_the_run(
    limit: str, faults: list[dict], code: str, environment: dict[str, str], emulator: Emulator
) -> None:
    """The error names the limit, and the job is cancelled."""
    key = limit.partition("=")[0].replace("limits.", "").replace("_", "-")
    emulator.admin("PUT", "/admin/faults", faults)
    try:
        ended = finetune(environment, *LONG, limit, key=key).end()
    finally:
        emulator.admin("DELETE", "/admin/faults")

    assert (ended.code, ended.report["error"]["code"]) == (1, code), ended.errors
    assert limit.partition("=")[0] in ended.report["error"]["fix"]
    assert is_cancelled(emulator, key)


@pytest.mark.parametrize(
    ("key", "at", "assignments"),
    [
        pytest.param("timeout-training", "finetune Running", LONG, marks=pytest.mark.exhaustive),
        ("timeout-deleting", "asked for the deletion", REHEARSAL),
    ],
    ids=["training", "deleting"],
)
def test_prefect_s_own_time_limit_is_survived(
    key: str, at: str, assignments: tuple[str, ...], environment: dict[str, str], emulator: Emulator
) -> None:
    """It raises wherever the flow is: the job is cancelled, and a deletion under way ends first."""
    if key == "timeout-deleting":
        emulator.admin("PUT", "/admin/faults", [{"on": "delete", "effect": "hang", "seconds": 20, "calls": None}])
    run = Command(["-c", WITH_TIMEOUT, key, "25", *assignments], environment)
    run.read_until(at)
    if key == "timeout-deleting":
        run.read_until("is deleted|TimedOut")
    ended = run.end()
    emulator.admin("DELETE", "/admin/faults")

    name, flow_run = ended.errors.splitlines()[-1].split()
    assert name == "TimedOut", ended.errors
    assert state_in_prefect(flow_run) == "FAILED"
    assert endpoints_left(emulator) == [], ended.errors
    assert key != "timeout-training" or is_cancelled(emulator, key)


def test_a_time_limit_waits_for_the_end_of_a_clean_up() -> None:
    """Also when there are other threads, which may be given the signal, and when clean-ups are nested."""

    def strike(number: int, frame: object) -> None:
        raise TimeoutError

    done, over = [], threading.Event()
    thread = threading.Thread(target=over.wait)
    before = signal.signal(signal.SIGALRM, strike)
    thread.start()
    try:
        with pytest.raises(TimeoutError), SIGNALS.watched(), SIGNALS.deferred("deleting"):
            with SIGNALS.deferred("asking"):
                signal.raise_signal(signal.SIGALRM)
                os.kill(os.getpid(), signal.SIGALRM)
                time.sleep(0.2)  # for the signal to reach a thread
                done.append("asked")
            done.append("deleted")
    finally:
        signal.signal(signal.SIGALRM, before)
        over.set()
        thread.join()

    assert done == ["asked", "deleted"]


def test_a_step_beside_that_fails_ends_the_run(environment: dict[str, str], emulator: Emulator) -> None:
    """The endpoint is refused while the model is registered: nothing is left up."""
    fault = {"on": "request", "method": "PUT", "path": "/onlineEndpoints/[^/]+$", "status": 403, "calls": None}
    emulator.admin("PUT", "/admin/faults", [fault])
    try:
        ended = finetune(environment, *REHEARSAL, key="beside").end()
    finally:
        emulator.admin("DELETE", "/admin/faults")

    assert (ended.code, ended.report["error"]["code"]) == (1, "EndpointRefused"), ended.errors
    assert ended.report["registered_model"] is not None
    assert endpoints_left(emulator) == []

"""The job of a run is submitted once, belongs to its request, and is cancelled for that request only."""

from conftest import Emulator

from retune.request import load
from tasks.compute import inspect_compute
from tasks.data import pin, write_splits
from tasks.job import cancel_run, submit_job
from tasks.model import read_model


def test_a_job_is_cancelled_for_its_own_request_only(emulator: Emulator) -> None:
    """A start with the same key and another request is refused, and must not end the job that is under way."""
    request = load("local", ["compute.serverless=true"])
    other = load("local", ["compute.serverless=true", "training.seed=7"])
    facts = read_model.fn(request), inspect_compute.fn(request).used, write_splits.fn(pin(request.data))
    emulator.admin("PUT", "/admin/faults", [{"on": "step", "effect": "hang_queued", "name": "*validation"}])
    try:
        first = submit_job.fn(request, "owned", *facts)
        repeat = submit_job.fn(request, "owned", *facts)
        not_ours = cancel_run(other, "owned")
        still = emulator.client().jobs.get("retune-owned-1").status
        ours = cancel_run(request, "owned")
    finally:
        emulator.admin("DELETE", "/admin/faults")

    assert (first.job.attached, repeat.job.attached) == (False, True)
    assert (first.attempt, repeat.attempt) == (1, 1)
    assert not_ours is None
    assert still not in ("CancelRequested", "Canceled")
    assert ours == "CancelRequested"

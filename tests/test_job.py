"""The job of a run is submitted once, belongs to its request, and is cancelled by its holder only."""

import pytest
from conftest import Emulator

from chatdata.data_step import prepare
from retune.errors import CloudError
from retune.request import load
from retune_cloud import ledger
from retune_cloud.cleanup import Claim, cancel_job
from tasks.compute import inspect_compute
from tasks.data_assets import register_data
from tasks.job import submit_job
from tasks.model import read_model


def test_a_job_is_cancelled_by_its_holder_only(emulator: Emulator) -> None:
    """A start that has lost the job to another one, or never had it, must not end it; a repeat takes it over."""
    request = load("local", ["compute.serverless=true"])
    other = load("local", ["compute.serverless=true", "training.seed=7"])
    data = register_data.fn(request, prepare(request))
    facts = read_model.fn(request), inspect_compute.fn(request).used, data
    emulator.admin("PUT", "/admin/faults", [{"on": "step", "effect": "hang_queued", "name": "*validation"}])
    try:
        first = submit_job.fn(request, "owned", "1", *facts)
        repeat = submit_job.fn(request, "owned", "2", *facts)
        with pytest.raises(CloudError, match=r"training\.seed None \(this request: 7\)") as refusal:
            submit_job.fn(other, "owned", "3", *facts)
        job = ledger.last_job(request.workspace, "owned")
        claims = Claim("owned", "1", earlier=True), Claim("owned", "3")
        not_theirs = [cancel_job(request.workspace, claim, job) for claim in claims]
        still = emulator.client().jobs.get("retune-owned-1").status
        ours = cancel_job(request.workspace, Claim("owned", "2", earlier=True), job)
    finally:
        emulator.admin("DELETE", "/admin/faults")

    assert (first.job.attached, repeat.job.attached) == (False, True)
    assert (first.attempt, repeat.attempt) == (1, 1)
    assert refusal.value.code == "RunKeyTaken"
    assert not_theirs == [None, None]
    assert still not in ("CancelRequested", "Canceled")
    assert ours == "CancelRequested"

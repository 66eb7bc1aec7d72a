"""What a run's end is called, whatever the order of a failure and a stop; and what the run has cost."""

import pytest

from flows.outcome import calculate_cost, conclude
from flows.signals import INTERRUPTED
from retune.errors import BadRequest, CloudError, Stopped, WaitExpired
from retune.report import ComputeUsed, Endpoint, Job, Report

REFUSED = CloudError("JobRefused", "The job was refused.", "Correct it.")
BAD = BadRequest(["data.fraction is 7."])
TOO_LONG = WaitExpired("RunTooLong", "The run is not done after 1 minute.", "Raise limits.total_minutes.")
STOPPED = Stopped("Stopped", "The run was told to stop.", "")
UNKNOWN = ValueError("something else")
TIMED_OUT = BaseException("Prefect's time limit")


@pytest.mark.parametrize(
    ("error", "reason", "status", "shown"),
    [
        (None, None, "skipped", None),
        (None, INTERRUPTED, "cancelled", INTERRUPTED),
        (None, TOO_LONG, "failed", TOO_LONG),
        (STOPPED, INTERRUPTED, "cancelled", INTERRUPTED),
        (KeyboardInterrupt(), INTERRUPTED, "cancelled", INTERRUPTED),
        (UNKNOWN, INTERRUPTED, "cancelled", INTERRUPTED),
        (STOPPED, TOO_LONG, "failed", TOO_LONG),
        (REFUSED, INTERRUPTED, "failed", REFUSED),
        (REFUSED, None, "failed", REFUSED),
        (UNKNOWN, None, "failed", UNKNOWN),
        (BAD, None, "rejected", BAD),
        (BAD, INTERRUPTED, "rejected", BAD),
        (TIMED_OUT, None, "failed", TIMED_OUT),
        (TIMED_OUT, INTERRUPTED, "failed", TIMED_OUT),
    ],
    ids=str,
)
def test_status_and_error_of_a_run(
    error: BaseException | None, reason: Exception | None, status: str, shown: BaseException | None
) -> None:
    """A stop explains what a library makes of it, and no failure with a name of its own."""
    assert conclude("skipped", error, reason) == (status, shown)


def test_cost_is_list_price_by_time() -> None:
    """Training by the hour, an endpoint by the day; nothing without a job."""
    used = ComputeUsed(name="gpu", size="S", gpus_per_node=1, tier="dedicated", price_per_hour_usd=3.6)
    job = Job(
        name="j", display_name="j", experiment="e", status="Completed", created="2026-11-28T12:00:00Z", seconds=100
    )
    endpoint = Endpoint(
        name="e", deployment="d", instance_type="S", expires="2026-11-29T12:00:00Z", price_per_day_usd=86.4
    )
    cost = calculate_cost(Report(compute=used, job=job, endpoint=endpoint), 50)

    assert (cost.training_usd, cost.endpoint_usd) == (0.1, 0.05)
    assert calculate_cost(Report(compute=used), 50) is None

"""Who may end what: each of the six that end jobs and endpoints, against each thing that a workspace may hold."""

from datetime import UTC, datetime, timedelta

import pytest

from retune_cloud.cleanup import LEFTOVERS, Claim, leftover_reason, owns
from retune_cloud.ledger import OwnEndpoint, OwnJob

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
PAST, SOON = NOW - timedelta(minutes=20), NOW + timedelta(minutes=20)
FLOW_RUN = "11111111-1111-1111-1111-111111111111"
EARLIER = f"2026-11-28T10:00:00.000+00:00/{FLOW_RUN}/host/1"
HOLDER = f"2026-11-28T11:00:00.000+00:00/{FLOW_RUN}/host/2"
LATER = "2026-11-28T11:30:00.000+00:00/22222222-2222-2222-2222-222222222222/host/3"
CLAIMS = {
    "run": Claim("key", HOLDER),
    "run with its job": Claim("key", HOLDER, earlier=True),
    "run that took over": Claim("key", HOLDER, earlier=True, kept=True),
    "guard": Claim("key", HOLDER),
    "guard that waits": Claim("key", HOLDER, leftover=True),
    "hook": Claim("key", flow_run=FLOW_RUN),
    "person": Claim("key", kept=True),
    "sweep": LEFTOVERS,
}
LIVE = OwnJob("retune-key-1", "key", 1, "Running", PAST, SOON, HOLDER, {}, False, None)
ENDPOINT = OwnEndpoint("retune-0-0-1", "key", 1, HOLDER, "Succeeded", PAST, SOON, False)
ALL = set(CLAIMS)
WAITS = {"guard that waits", "sweep"}
# What it is, the job of its attempt, and whose it is.
RESOURCES = {
    "live job": (LIVE, None, ALL - WAITS),
    "job whose lease has expired": (LIVE._replace(alive_until=PAST), None, ALL),
    "job without a lease": (LIVE._replace(alive_until=None), None, ALL - WAITS),
    "job of an earlier execution": (
        LIVE._replace(holder=EARLIER),
        None,
        {"run with its job", "run that took over", "hook", "person"},
    ),
    "job that another flow run has taken over": (LIVE._replace(holder=LATER), None, {"person"}),
    "job that nobody has held": (
        LIVE._replace(holder="", alive_until=None),
        None,
        {"run with its job", "run that took over", "person"},
    ),
    "job of another run": (LIVE._replace(key="other"), None, set()),
    "dead job of another run": (LIVE._replace(key="other", alive_until=PAST), None, {"sweep"}),
    "endpoint": (ENDPOINT, LIVE, ALL - WAITS),
    "endpoint of an earlier execution": (
        ENDPOINT._replace(holder=EARLIER),
        LIVE,
        {"run with its job", "run that took over", "hook", "person", "sweep"},
    ),
    "endpoint of a later execution": (ENDPOINT._replace(holder=LATER), LIVE._replace(holder=LATER), {"person"}),
    "kept endpoint": (ENDPOINT._replace(kept=True), LIVE._replace(alive_until=PAST), {"run that took over", "person"}),
    "kept endpoint after its expiry": (
        ENDPOINT._replace(kept=True, expires=PAST),
        None,
        {"run that took over", "person", "sweep"},
    ),
    "endpoint after its expiry": (ENDPOINT._replace(expires=PAST), LIVE, ALL),
    "endpoint whose job has failed": (ENDPOINT, LIVE._replace(status="Failed"), ALL),
    "endpoint whose job's lease has expired": (ENDPOINT, LIVE._replace(alive_until=PAST), ALL),
    "endpoint without a job": (ENDPOINT, None, ALL),
    "new endpoint without a job": (ENDPOINT._replace(created=NOW), None, ALL - WAITS),
    "leftover endpoint of another run": (ENDPOINT._replace(key="other"), None, {"sweep"}),
}


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("claim", CLAIMS)
def test_who_may_end_what(claim: str, resource: str) -> None:
    """One rule for all: the run's key, the execution or flow run that holds it, kept or not, needed or not."""
    held, job, owners = RESOURCES[resource]

    assert owns(CLAIMS[claim], held, job, NOW) == (claim in owners)


@pytest.mark.parametrize("status", ["Completed", "Failed", "Canceled", "CancelRequested", "Finalizing"])
def test_a_job_that_ends_is_no_leftover(status: str) -> None:
    """Its lease expires, because nobody renews it."""
    assert leftover_reason(LIVE._replace(status=status, alive_until=PAST), None, NOW) is None

"""End what runs have left in the workspace: the one rule of who may end what, and the one way to do it.

| who | endpoints | job |
|---|---|---|
| a run, at its end | its own, unless it is kept | its own, unless the run has seen it end |
| a run that has taken over its job | those of earlier executions, kept ones too | none |
| the guard of a dead run | its own, unless kept | its own: after a stop, or when its lease has expired |
| Prefect's hook | those of every execution of the flow run, unless kept | the flow run's, if it was cancelled |
| a person, by run key | all of the run, kept ones too | the run's last one |
| the sweep | leftovers of every run, kept ones after their expiry | leftovers of every run |

A live run renews the lease in its job's tags. A job whose lease has expired is a leftover, and so is the endpoint that
goes with it; an endpoint also has an expiry of its own.
"""

import logging
import time
from datetime import UTC, datetime
from typing import NamedTuple

from retune import names
from retune.request import Workspace
from retune.waiting import wait_until
from retune_cloud import ledger
from retune_cloud import workspace as cloud
from retune_cloud.ledger import OwnEndpoint, OwnJob
from retune_cloud.sdk_errors import first_line, if_exists

log = logging.getLogger("retune.ledger")

LOOK_EVERY_SECONDS = 1.0
REPEAT_SECONDS = 5.0
# An endpoint this young may be older than what the service shows of its job.
GRACE_SECONDS = 300


class Claim(NamedTuple):
    """The resources that a caller may end: by default all of Retune's runs in the workspace, except kept endpoints."""

    # Only what belongs to this run.
    key: str | None = None
    # Only what this execution holds; with `earlier`, what executions before it hold too.
    holder: str | None = None
    earlier: bool = False
    # Only what executions of this flow run of Prefect's hold.
    flow_run: str | None = None
    # Endpoints that a run has kept on purpose, too.
    kept: bool = False
    # Only what no run needs any more.
    leftover: bool = False


LEFTOVERS = Claim(kept=True, leftover=True)


def owns(claim: Claim, resource: OwnJob | OwnEndpoint, job: OwnJob | None, now: datetime) -> bool:
    """Whether the claim covers the resource. `job`: for an endpoint, the job of its attempt, where leftovers count."""
    if claim.key not in (None, resource.key):
        return False
    if claim.flow_run is not None and names.holding_flow_run(resource.holder) != claim.flow_run:
        return False
    # Later executions have greater names.
    if claim.holder is not None and resource.holder > claim.holder:
        return False
    if claim.holder is not None and resource.holder < claim.holder and not claim.earlier:
        return False
    if isinstance(resource, OwnEndpoint) and resource.kept and not claim.kept:
        return False
    return not claim.leftover or leftover_reason(resource, job, now) is not None


def leftover_reason(resource: OwnJob | OwnEndpoint, job: OwnJob | None, now: datetime) -> str | None:
    """The reason why the resource is a leftover; None when it has ended, or a run may need it."""
    if isinstance(resource, OwnJob):
        return None if resource.status in ledger.ENDING else _silence(resource, now)
    if resource.expires and resource.expires < now:
        return f"its expiry {_text(resource.expires)} has passed"
    if resource.kept:
        return None
    if job is None:
        age = (now - resource.created).total_seconds() if resource.created else 0
        return "its run has no job" if age > GRACE_SECONDS else None
    if job.status in ledger.ENDED_BADLY:
        return f"its run's job ended {job.status}"
    if resource.holder < job.holder:
        return "a later execution of its run has its own endpoint"
    return _silence(job, now)


def find_leftover_reason(workspace: Workspace, resource: OwnJob | OwnEndpoint) -> str | None:
    """The reason, with an endpoint's job read where the reason depends on it."""
    return leftover_reason(resource, _read_job(workspace, resource), datetime.now(UTC))


def end(workspace: Workspace, claim: Claim, minutes: float, *, job: bool) -> None:
    """End the endpoints that the claim covers, and with `job` its run's last job, if the claim covers that too.

    All requests are sent before anything is waited for. The job's end is not waited for.

    Raises:
        WaitExpired: an endpoint is still there after `minutes`.
    """
    endpoints = request_deletions(workspace, claim)
    if job and claim.key is not None:
        cancel_job(workspace, claim, ledger.last_job(workspace, claim.key))
    for name in endpoints:
        delete_endpoint(workspace, name, minutes, requested=True)


def cancel_job(workspace: Workspace, claim: Claim, job: OwnJob | None) -> str | None:
    """Status of the job, after its cancellation was requested; None when the claim does not cover it."""
    if job is None or not owns(claim, job, None, datetime.now(UTC)):
        return None
    if job.status in ledger.ENDING:
        return job.status
    cloud.workspace_client(workspace).jobs.begin_cancel(job.name)
    log.warning("asked for the cancellation of %s", job.name)
    return "CancelRequested"


def request_deletions(workspace: Workspace, claim: Claim) -> list[str]:
    """Names of the endpoints that the claim covers; the deletion of each is requested, and not waited for."""
    endpoints = [
        endpoint.name
        for endpoint in ledger.list_endpoints(workspace, claim.key)
        if _owns_now(workspace, claim, endpoint)
    ]
    for name in endpoints:
        request_deletion(workspace, name)
    return endpoints


def request_deletion(workspace: Workspace, name: str) -> bool:
    """Whether the service took the request to delete the endpoint. Does not wait."""
    from azure.core.exceptions import AzureError

    try:
        cloud.workspace_client(workspace).online_endpoints.begin_delete(name)
    except AzureError as error:
        log.warning("endpoint %s is not deleted yet: %s", name, first_line(error))
        return False
    log.info("asked for the deletion of endpoint %s", name)
    return True


def delete_endpoint(
    workspace: Workspace, name: str, minutes: float, *, requested: bool = False, claim: Claim | None = None
) -> bool:
    """True once a GET of the endpoint answers 404, also when there never was one; False when `claim` does not cover it.

    The service refuses a deletion while it still changes the endpoint, so the request is repeated until it is taken.
    `requested`: it was sent a moment ago. `claim`: checked before each request, for endpoints that a run may have taken
    over since they were found.

    Raises:
        WaitExpired: it is still there after `minutes`; the message has the command that deletes it.
    """
    requested_at = time.monotonic() if requested else -REPEAT_SECONDS

    def deleted() -> bool | None:
        nonlocal requested_at
        if not _exists(workspace, name):
            log.info("endpoint %s is deleted (404)", name)
            return True
        if time.monotonic() - requested_at >= REPEAT_SECONDS:
            if claim and not _still_owns(workspace, claim, name):
                return False
            request_deletion(workspace, name)
            requested_at = time.monotonic()
        return None

    return wait_until(
        deleted,
        seconds=minutes * 60,
        every=LOOK_EVERY_SECONDS,
        subject=f"Deletion of endpoint '{name}'",
        fix=f"It costs money. Delete it: az ml online-endpoint delete --name {name} --yes",
        stoppable=False,
    )


def _still_owns(workspace: Workspace, claim: Claim, name: str) -> bool:
    endpoint = ledger.find_endpoint(workspace, name)
    return endpoint is not None and _owns_now(workspace, claim, endpoint)


def _owns_now(workspace: Workspace, claim: Claim, endpoint: OwnEndpoint) -> bool:
    job = _read_job(workspace, endpoint) if claim.leftover else None
    return owns(claim, endpoint, job, datetime.now(UTC))


def _read_job(workspace: Workspace, resource: OwnJob | OwnEndpoint) -> OwnJob | None:
    """The job of an endpoint's attempt, where it decides: an expiry needs no other reason."""
    if isinstance(resource, OwnJob) or resource.kept or (resource.expires and resource.expires < datetime.now(UTC)):
        return None
    return ledger.find_job(workspace, resource.key, resource.attempt)


def _silence(job: OwnJob, now: datetime) -> str | None:
    """Why no live run holds the job; None when its lease has not expired, or there is none."""
    if job.alive_until is None or job.alive_until >= now:
        return None
    return f"its run gave no sign of life since {_text(job.alive_until)}"


def _exists(workspace: Workspace, name: str) -> bool:
    """False when the service answers 404; what cannot be read now counts as there."""
    from azure.core.exceptions import AzureError

    client = cloud.workspace_client(workspace)
    try:
        return if_exists(lambda: client.online_endpoints.get(name)) is not None
    except AzureError as error:
        log.warning("endpoint %s could not be read: %s", name, first_line(error))
        return True


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"

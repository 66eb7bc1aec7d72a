"""What the workspace holds of Retune's runs, and the few ways to end it. The cloud is the only ledger.

A job or an endpoint is Retune's own when its tags name a run key and an attempt AND its name is the one that this key
and attempt give in this workspace. Nothing else is ever touched here.

A live run renews the lease in its job's tags. A job whose lease has lapsed belongs to no one, and so does the endpoint
that goes with it; an endpoint also has an expiry of its own.
Knows nothing of Prefect; used by the flow, its guard, the sweep and the command line.
"""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from retune import names
from retune.report import Decision, RegisteredModel
from retune.request import Workspace
from retune.waiting import wait_until
from retune_cloud import workspace as cloud
from retune_cloud.sdk_errors import first_line

if TYPE_CHECKING:
    from azure.ai.ml.entities import Job, OnlineEndpoint

log = logging.getLogger("retune.ledger")

ENDED_BADLY = ("Failed", "Canceled")
ENDED = ("Completed", *ENDED_BADLY)
ENDING = (*ENDED, "CancelRequested", "Finalizing")
ATTEMPTS = 20
LOOK_EVERY_SECONDS = 1.0
ASK_AGAIN_SECONDS = 5.0
# An endpoint this young may be older than what the service shows of its job.
GRACE_SECONDS = 300


class OwnJob(NamedTuple):
    """A training job of Retune's."""

    name: str
    key: str
    attempt: int
    status: str
    created: datetime
    alive_until: datetime | None
    holder: str
    properties: dict[str, str]
    # Its model has answered.
    good: bool
    decision: Decision | None

    @property
    def lapsed(self) -> bool:
        """Whether no live run holds it."""
        return self.alive_until is not None and self.alive_until < datetime.now(UTC)


class OwnEndpoint(NamedTuple):
    """An endpoint of Retune's, made by the start `holder`."""

    name: str
    key: str
    attempt: int
    holder: str
    state: str
    created: datetime | None
    expires: datetime | None
    kept: bool


def job_status(job: "Job") -> str:
    """The status as the service spells it: the SDK gives an enum for some kinds of jobs and a text for others."""
    return job.status.value if isinstance(job.status, Enum) else str(job.status)


def find_job(workspace: Workspace, key: str, attempt: int) -> OwnJob | None:
    """The job of one attempt, if it is there and Retune's own."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return _own_job(cloud.workspace_client(workspace).jobs.get(names.job_name(key, attempt)))
    except ResourceNotFoundError:
        return None


def jobs_of(workspace: Workspace, key: str) -> Iterator[OwnJob]:
    """The jobs of a run, by attempt."""
    for attempt in range(1, ATTEMPTS + 1):
        job = find_job(workspace, key, attempt)
        if job is None:
            return
        yield job


def last_job(workspace: Workspace, key: str) -> OwnJob | None:
    """The job of a run's last attempt."""
    return next(reversed(list(jobs_of(workspace, key))), None)


def find_endpoint(workspace: Workspace, name: str) -> OwnEndpoint | None:
    """The endpoint of that name, if it is there and Retune's own."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        found = cloud.workspace_client(workspace).online_endpoints.get(name)
    except ResourceNotFoundError:
        return None
    return _own_endpoint(found, cloud.find_address(workspace).id)


def list_jobs(workspace: Workspace) -> Iterator[OwnJob]:
    """All jobs of Retune in the workspace."""
    for job in cloud.workspace_client(workspace).jobs.list(tag=f"owner={names.OWNER}"):
        own = _own_job(job)
        if own:
            yield own


def list_endpoints(workspace: Workspace, key: str | None = None) -> Iterator[OwnEndpoint]:
    """All endpoints of Retune in the workspace, or those of one run."""
    place = cloud.find_address(workspace).id
    for endpoint in cloud.workspace_client(workspace).online_endpoints.list():
        own = _own_endpoint(endpoint, place)
        if own and key in (None, own.key):
            yield own


def why_leftover(workspace: Workspace, endpoint: OwnEndpoint) -> str | None:
    """Why nobody needs the endpoint any more; None while somebody may."""
    now = datetime.now(UTC)
    if endpoint.expires and endpoint.expires < now:
        return f"its expiry {_text(endpoint.expires)} has passed"
    if endpoint.kept:
        return None
    job = find_job(workspace, endpoint.key, endpoint.attempt)
    if job is None:
        age = (now - endpoint.created).total_seconds() if endpoint.created else 0
        return "its run has no job" if age > GRACE_SECONDS else None
    if job.status in ENDED_BADLY:
        return f"its run's job ended {job.status}"
    if endpoint.holder < job.holder:
        return "a later start of its run has an endpoint of its own"
    return f"its run gave no sign of life since {_text(job.alive_until)}" if job.lapsed else None


def why_orphaned(job: OwnJob) -> str | None:
    """Why the job is to be cancelled; None when it has ended or a live run holds it."""
    if job.status in ENDING or not job.lapsed:
        return None
    return f"its run gave no sign of life since {_text(job.alive_until)}"


def renew_lease(workspace: Workspace, job: str, minutes: float, holder: str) -> None:
    """Write into the job's tags that `holder` follows it, for so long."""
    cloud.workspace_client(workspace).jobs.update(job, tags=names.lease_tags(minutes, holder))


def mark_good(workspace: Workspace, job: str, moment: datetime) -> None:
    """Write into the job's tags that its model has answered."""
    cloud.workspace_client(workspace).jobs.update(job, tags={names.ANSWERED_TAG: moment.isoformat()})


def note_decision(workspace: Workspace, job: str, decision: Decision, model: RegisteredModel | None) -> None:
    """Write a person's answer into the tags of the job, and of the model when it is registered already."""
    client, tags = cloud.workspace_client(workspace), names.decision_tags(decision)
    client.jobs.update(job, tags=tags)
    if model:
        registered = client.models.get(model.name, version=model.version)
        registered.tags |= tags
        client.models.create_or_update(registered)


def ask_cancellation(workspace: Workspace, job: str) -> None:
    """Ask for a job's cancellation, without waiting for it."""
    cloud.workspace_client(workspace).jobs.begin_cancel(job)
    log.warning("asked for the cancellation of %s", job)


def ask_deletion(workspace: Workspace, name: str) -> bool:
    """Ask for an endpoint's deletion, without waiting for it; False when the service did not take the request."""
    from azure.core.exceptions import AzureError

    try:
        cloud.workspace_client(workspace).online_endpoints.begin_delete(name)
    except AzureError as error:
        log.warning("endpoint %s is not deleted yet: %s", name, first_line(error))
        return False
    log.info("asked for the deletion of endpoint %s", name)
    return True


def delete_endpoint(
    workspace: Workspace,
    name: str,
    minutes: float,
    *,
    asked: bool = False,
    wanted: Callable[[], bool] = lambda: True,
) -> bool:
    """True once a GET of the endpoint answers 404, also when there never was one; False when it is no longer `wanted`.

    The service refuses a deletion while it still changes the endpoint, so the request is repeated until it is taken.
    `asked`: the request was sent a moment ago. `wanted` is called before each request: a run may have
    given a sign of life since the endpoint was found.

    Raises:
        WaitExpired: it is still there after `minutes`; the message has the command that deletes it.
    """
    asked_at = time.monotonic() if asked else -ASK_AGAIN_SECONDS

    def gone() -> bool | None:
        nonlocal asked_at
        if not _exists(workspace, name):
            log.info("endpoint %s is deleted (404)", name)
            return True
        if time.monotonic() - asked_at >= ASK_AGAIN_SECONDS:
            if not wanted():
                return False
            ask_deletion(workspace, name)
            asked_at = time.monotonic()
        return None

    return wait_until(
        gone,
        seconds=minutes * 60,
        every=LOOK_EVERY_SECONDS,
        what=f"Deletion of endpoint '{name}'",
        fix=f"It costs money. Delete it: az ml online-endpoint delete --name {name} --yes",
        stoppable=False,
    )


def _own_job(job: "Job") -> OwnJob | None:
    run = names.read_tags(job.tags)
    if run is None or job.name != names.job_name(*run):
        return None
    lease, created = names.read_lease(job.tags), job.creation_context.created_at
    return OwnJob(
        job.name,
        *run,
        status=job_status(job),
        created=created,
        alive_until=lease and lease.alive_until(created),
        holder=lease.holder if lease else "",
        properties=job.properties or {},
        good=names.read_moment(job.tags, names.ANSWERED_TAG) is not None,
        decision=names.read_decision(job.tags),
    )


def _own_endpoint(endpoint: "OnlineEndpoint", place: str) -> OwnEndpoint | None:
    run = names.read_tags(endpoint.tags)
    holder = (endpoint.tags or {}).get(names.HOLDER_TAG, "")
    if run is None or endpoint.name != names.endpoint_name(place, *run, holder):
        return None
    return OwnEndpoint(
        endpoint.name,
        *run,
        holder=holder,
        state=str(endpoint.provisioning_state),
        created=names.read_moment(endpoint.properties, "createdAt"),
        expires=names.read_moment(endpoint.tags, names.EXPIRES_TAG),
        kept=endpoint.tags.get(names.KEPT_TAG) == "true",
    )


def _exists(workspace: Workspace, name: str) -> bool:
    """False when the service answers 404; what cannot be read now counts as there."""
    from azure.core.exceptions import AzureError, ResourceNotFoundError

    try:
        cloud.workspace_client(workspace).online_endpoints.get(name)
    except ResourceNotFoundError:
        return False
    except AzureError as error:
        log.warning("endpoint %s could not be read: %s", name, first_line(error))
    return True


def _text(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "ever"

"""What the workspace holds of Retune's runs, and what is written into their tags. The cloud is the only ledger.

A job or an endpoint is Retune's own when its tags name a run key and an attempt AND its name is the one that this key
and attempt give in this workspace. Nothing else is ever read or changed here; `retune_cloud.cleanup` ends it.
Knows nothing of Prefect; used by the flow, its guard, the sweep and the command line.
"""

from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from retune import names
from retune.report import Decision, RegisteredModel
from retune.request import Workspace
from retune_cloud import workspace as cloud
from retune_cloud.answers import required
from retune_cloud.sdk_errors import if_exists

if TYPE_CHECKING:
    from azure.ai.ml.entities import Job, Model, OnlineEndpoint

ENDED_BADLY = ("Failed", "Canceled")
ENDED = ("Completed", *ENDED_BADLY)
ENDING = (*ENDED, "CancelRequested", "Finalizing")
ATTEMPTS = 20


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
    verified: bool
    decision: Decision | None


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


def creation_time(resource: "Job | Model") -> datetime:
    """When the service created the job or the model version."""
    context = resource.creation_context
    return required(context and context.created_at, f"the creation time of '{resource.name}'")


def find_job(workspace: Workspace, key: str, attempt: int) -> OwnJob | None:
    """The job of one attempt, if it exists and is Retune's own."""
    client, name = cloud.workspace_client(workspace), names.job_name(key, attempt)
    job = if_exists(lambda: client.jobs.get(name))
    return None if job is None else _own_job(job)


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
    """The endpoint of that name, if it exists and is Retune's own."""
    client = cloud.workspace_client(workspace)
    endpoint = if_exists(lambda: client.online_endpoints.get(name))
    return None if endpoint is None else _own_endpoint(endpoint, cloud.find_address(workspace).id)


def find_model(workspace: Workspace, name: str, version: str) -> "Model | None":
    """A version of a registered model, if it exists."""
    client = cloud.workspace_client(workspace)
    return if_exists(lambda: client.models.get(name, version=version))


def list_jobs(workspace: Workspace) -> Iterator[OwnJob]:
    """All jobs of Retune in the workspace."""
    for job in cloud.workspace_client(workspace).jobs.list(tag=f"owner={names.OWNER}"):
        own = _own_job(job)
        if own:
            yield own


def list_endpoints(workspace: Workspace, key: str | None = None) -> Iterator[OwnEndpoint]:
    """All endpoints of Retune in the workspace, or those of one run."""
    workspace_id = cloud.find_address(workspace).id
    for endpoint in cloud.workspace_client(workspace).online_endpoints.list():
        own = _own_endpoint(endpoint, workspace_id)
        if own and key in (None, own.key):
            yield own


def renew_lease(workspace: Workspace, job: str, minutes: float, holder: str) -> None:
    """Write into the job's tags that `holder` follows it, for so long."""
    cloud.workspace_client(workspace).jobs.update(job, tags=names.lease_tags(minutes, holder))


def mark_verified(workspace: Workspace, job: str, moment: datetime) -> None:
    """Write into the job's tags that its model has answered."""
    cloud.workspace_client(workspace).jobs.update(job, tags={names.ANSWERED_TAG: moment.isoformat()})


def note_decision(workspace: Workspace, job: str, decision: Decision, model: RegisteredModel | None) -> None:
    """Write a person's answer into the tags of the job, and of the model when it is registered already."""
    client, tags = cloud.workspace_client(workspace), names.decision_tags(decision)
    client.jobs.update(job, tags=tags)
    if model:
        registered = client.models.get(model.name, version=model.version)
        registered.tags = (registered.tags or {}) | tags
        client.models.create_or_update(registered)


def _own_job(job: "Job") -> OwnJob | None:
    run = names.read_tags(job.tags)
    if run is None or job.name != names.job_name(*run):
        return None
    lease, created = names.read_lease(job.tags), creation_time(job)
    return OwnJob(
        names.job_name(*run),
        *run,
        status=job_status(job),
        created=created,
        alive_until=lease and lease.alive_until(created),
        holder=lease.holder if lease else "",
        properties=job.properties or {},
        verified=names.read_moment(job.tags, names.ANSWERED_TAG) is not None,
        decision=names.read_decision(job.tags),
    )


def _own_endpoint(endpoint: "OnlineEndpoint", workspace_id: str) -> OwnEndpoint | None:
    run = names.read_tags(endpoint.tags)
    tags = endpoint.tags or {}
    holder = tags.get(names.HOLDER_TAG, "")
    if run is None or endpoint.name != names.endpoint_name(workspace_id, *run, holder):
        return None
    return OwnEndpoint(
        names.endpoint_name(workspace_id, *run, holder),
        *run,
        holder=holder,
        state=str(endpoint.provisioning_state),
        created=names.read_moment(endpoint.properties, "createdAt"),
        expires=names.read_moment(endpoint.tags, names.EXPIRES_TAG),
        kept=tags.get(names.KEPT_TAG) == "true",
    )

"""What a workspace holds of one run, for `retune status`, `attach` and `cancel`."""

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field
from rich.table import Table

from retune import names
from retune.errors import CloudError
from retune.printing import for_terminal, screen
from retune.report import Part
from retune.request import Request, Workspace
from retune.texts import escape_json
from retune_cloud import cleanup, ledger
from retune_cloud.workspace import find_address


class RunJob(Part):
    """The job of one attempt."""

    name: str = Field(description="Name of the job.")
    attempt: int = Field(description="Attempt, from 1.")
    status: str = Field(description="Status that the service gives.")
    created: datetime = Field(description="When the service accepted it.")
    alive_until: datetime | None = Field(description="When its lease expires.")
    holder: str = Field(description="Flow run, machine and process of its latest holder.")
    registered_model: str | None = Field(default=None, description="Model registered from it, `name:version`.")


class RunEndpoint(Part):
    """An endpoint of the run."""

    name: str = Field(description="Name of the endpoint.")
    attempt: int = Field(description="Attempt that created it.")
    state: str = Field(description="Provisioning state.")
    expires: datetime | None = Field(description="When the sweep deletes it at the latest.")
    kept: bool = Field(description="Kept by `serving.keep`.")


class RunResources(Part):
    """What the workspace holds of a run."""

    model_config = ConfigDict(populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema", description="Version of this document's form.")
    workspace: str = Field(description="Name of the workspace.")
    key: str = Field(description="Key of the run.")
    jobs: list[RunJob] = Field(description="Its jobs, by attempt.")
    endpoints: list[RunEndpoint] = Field(description="Its endpoints.")

    @property
    def exists(self) -> bool:
        """Whether the workspace holds anything of the run."""
        return bool(self.jobs or self.endpoints)

    @property
    def is_active(self) -> bool:
        """Whether anything of it may still cost money."""
        return bool(self.endpoints) or any(job.status not in ledger.ENDED for job in self.jobs)

    def describe(self) -> str:
        """What is about to be ended, in one line."""
        last = self.jobs[-1] if self.jobs else None
        begun = f", begun {_minute(last.created)} by {last.holder or 'an unknown holder'}" if last else ""
        return f"Ending run {self.key} in workspace {self.workspace}{begun}."

    def to_json(self) -> str:
        """The document, indented, with the key `schema` first."""
        return escape_json(self.model_dump_json(by_alias=True, indent=2))


def read_resources(workspace: Workspace, key: str) -> RunResources:
    """The run's jobs and endpoints in the workspace; empty lists for an unknown key."""
    jobs = list(ledger.jobs_of(workspace, key))
    return RunResources(
        workspace=find_address(workspace).name,
        key=key,
        jobs=[
            RunJob(
                name=job.name,
                attempt=job.attempt,
                status=job.status,
                created=job.created,
                alive_until=job.alive_until,
                holder=job.holder,
                registered_model=_registered_model(workspace, job),
            )
            for job in jobs
        ],
        endpoints=[
            RunEndpoint(
                name=endpoint.name,
                attempt=endpoint.attempt,
                state=endpoint.state,
                expires=endpoint.expires,
                kept=endpoint.kept,
            )
            for endpoint in ledger.list_endpoints(workspace, key)
        ],
    )


def read_submitted_request(workspace: Workspace, key: str) -> Request:
    """What the run was asked to do, as its last job says.

    Raises:
        CloudError: `RunNotFound`, the workspace has no job of the run, or one without a readable request.
    """
    job = ledger.last_job(workspace, key)
    request = job and names.read_request(job.properties)
    if request is None:
        name = find_address(workspace).name
        reason = f"job '{job.name}' has no readable request" if job else f"workspace {name} has no job of it"
        raise CloudError(
            "RunNotFound", f"Run '{key}': {reason}.", f"Start it: python -m flows.finetune --run-key {key}"
        )
    return request


def end_resources(workspace: Workspace, key: str, minutes: float) -> None:
    """Ask for the cancellation of the run's job; return when its endpoints are gone.

    Raises:
        WaitExpired: an endpoint is still there after `minutes`.
    """
    cleanup.end(workspace, cleanup.Claim(key, kept=True), minutes, job=True)


def render_resources(resources: RunResources) -> None:
    """Print them for a person, on stdout."""
    resources = for_terminal(resources)
    console = screen()
    if not (resources.jobs or resources.endpoints):
        console.print(f"Run {resources.key}: workspace {resources.workspace} holds nothing of it.")
        return
    table = Table(title=f"Run {resources.key}", title_justify="left", box=None, pad_edge=False)
    for heading in ("attempt", "kind", "name", "state", "until", ""):
        table.add_column(heading, overflow="fold")
    for job in resources.jobs:
        lease_end = None if job.status in ledger.ENDED else job.alive_until
        until = f"held until {_minute(lease_end)}" if lease_end else ""
        model = f"model {job.registered_model}" if job.registered_model else ""
        table.add_row(str(job.attempt), "job", job.name, job.status, until, model)
    for endpoint in resources.endpoints:
        note = "kept on purpose" if endpoint.kept else ""
        expires = f"expires {_minute(endpoint.expires)}" if endpoint.expires else ""
        table.add_row(str(endpoint.attempt), "endpoint", endpoint.name, endpoint.state, expires, note)
    console.print(table)


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _registered_model(workspace: Workspace, job: ledger.OwnJob) -> str | None:
    request = names.read_request(job.properties)
    if request is None:
        return None
    name = names.registered_model_name(request)
    version = names.model_version(job.created, job.key, job.attempt)
    return f"{name}:{version}" if ledger.find_model(workspace, name, version) else None

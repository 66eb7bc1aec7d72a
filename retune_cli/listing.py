"""The runs that a workspace holds, for `retune list`, and their steps' logs, for `retune logs`."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Literal, TextIO

import click
from pydantic import ConfigDict, Field
from rich.table import Table

from retune import names
from retune.printing import for_terminal, screen
from retune.report import Part
from retune.request import Workspace
from retune.texts import escape_json, visible
from retune.units import duration
from retune.waiting import wait_until
from retune_cloud import ledger
from retune_cloud.workspace import find_address, workspace_client

if TYPE_CHECKING:
    from tasks.steplogs import StepLine

FOLLOWED_SECONDS, LOOK_SECONDS = 30 * 24 * 3600, 2


class RunSummary(Part):
    """A run in a workspace."""

    key: str = Field(description="Key of the run.")
    model: str | None = Field(description="Foundation model; null when its job does not say.")
    data: str | None = Field(description="Source of its data; null when its job does not say.")
    status: str | None = Field(description="Status of its last job; null when only an endpoint is left.")
    attempts: int = Field(description="Jobs that it has had.")
    created: datetime | None = Field(description="When its last job was created.")
    endpoints: list[str] = Field(description="Its endpoints, which cost money.")


class RunList(Part):
    """What `retune list --json` prints."""

    model_config = ConfigDict(populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema", description="Version of this document's form.")
    workspace: str = Field(description="Name of the workspace.")
    runs: list[RunSummary] = Field(description="Its runs, newest first.")

    def to_json(self) -> str:
        """The document, indented, with the key `schema` first."""
        return escape_json(self.model_dump_json(by_alias=True, indent=2))


def read_runs(workspace: Workspace) -> RunList:
    """The runs of a workspace, newest first."""
    jobs = sorted(ledger.list_jobs(workspace), key=lambda job: (job.key, job.attempt))
    endpoints = sorted(ledger.list_endpoints(workspace), key=lambda endpoint: endpoint.key)
    up = {key: [each.name for each in group] for key, group in groupby(endpoints, lambda endpoint: endpoint.key)}
    runs = [summarize(list(attempts), up.pop(key, [])) for key, attempts in groupby(jobs, lambda job: job.key)]
    runs += [
        RunSummary(key=key, model=None, data=None, status=None, attempts=0, created=None, endpoints=left)
        for key, left in up.items()
    ]
    oldest = datetime.min.replace(tzinfo=UTC)
    runs.sort(key=lambda run: run.created or oldest, reverse=True)
    return RunList(workspace=find_address(workspace).name, runs=runs)


def summarize(attempts: list[ledger.OwnJob], endpoints: list[str]) -> RunSummary:
    """A run by its jobs, the last of which says what it is about."""
    last = attempts[-1]
    request = names.read_request(last.properties)
    return RunSummary(
        key=last.key,
        model=request and request.model.name,
        data=request and request.data.source,
        status=last.status,
        attempts=len(attempts),
        created=last.created,
        endpoints=endpoints,
    )


def render_runs(runs: RunList) -> None:
    """Print them for a person, on stdout."""
    runs = for_terminal(runs)
    console = screen()
    if not runs.runs:
        console.print(f"Workspace {runs.workspace} holds no runs.")
        return
    table = Table(title=f"Runs in workspace {runs.workspace}", title_justify="left", box=None, pad_edge=False)
    for heading in ("run", "status", "age", "model", "data", "up now"):
        table.add_column(heading, overflow="fold")
    now = datetime.now(UTC)
    for run in runs.runs:
        age = duration((now - run.created).total_seconds()) if run.created else ""
        row = (run.key, run.status or "", age, run.model or "", run.data or "", ", ".join(run.endpoints))
        table.add_row(*row)
    console.print(table)


def print_logs(workspace: Workspace, key: str, file: TextIO, *, follow: bool, as_json: bool) -> bool:
    """Print the lines of the steps of a run's last job to a file; whether it has one."""
    from tasks.steplogs import StepLogs, read_steps

    client, job = workspace_client(workspace), ledger.last_job(workspace, key)
    if job is None:
        click.echo(f"Run {key}: workspace {find_address(workspace).name} holds no job of it.", err=True)
        return False
    logs = StepLogs(client)

    def print_new() -> bool | None:
        """True when the job has ended."""
        current = ledger.find_job(workspace, key, job.attempt)
        ended = current is None or current.status in ledger.ENDED
        for step in read_steps(client, job.name):
            print_lines(logs.read_new(step, to_the_end=ended or not follow), file, as_json)
        return True if ended or not follow else None

    wait_until(
        print_new,
        seconds=FOLLOWED_SECONDS,
        every=LOOK_SECONDS,
        subject=f"Job '{job.name}'",
        fix="Run the command again.",
    )
    return True


def print_lines(lines: "Iterator[StepLine]", file: TextIO, as_json: bool) -> None:
    """Print lines as they come, one JSON object each if so wanted."""
    for step, line in lines:
        text = json.dumps({"step": step, "line": line}) if as_json else visible(f"{step}: {line}")
        click.echo(text, file=file)

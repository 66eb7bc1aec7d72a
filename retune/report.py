"""What a run says at the end, as one JSON document (schema 1) and as text.

Each task returns the section of the report that it answers for. docs/report.md is generated from these models.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from retune.errors import RetuneError
from retune.request import ParameterValue
from retune.texts import escape_json

Status = Literal["completed", "failed", "cancelled", "rejected", "skipped", "declined"]
# Share of a file's chosen rows whose loss a person should hear of.
NOTABLE_SHARE = 0.05
EXIT_CODES: dict[Status, int] = {
    "completed": 0,
    "skipped": 0,
    "failed": 1,
    "rejected": 2,
    "declined": 3,
    "cancelled": 130,
}


class Part(BaseModel):
    """A frozen section of the report."""

    model_config = ConfigDict(frozen=True, protected_namespaces=(), defer_build=True)


class Run(Part):
    """Which run this was."""

    key: str | None = Field(default=None, description="Key of the run; Azure names derive from it.")
    attempt: int = Field(default=1, description="Attempt under this key, from 1.")
    flow_run_id: str | None = Field(default=None, description="Prefect's id of the flow run.")
    began: datetime | None = Field(default=None, description="Start of the execution, UTC.")
    seconds: float = Field(default=0, description="Duration of the flow, seconds.")


class Identity(Part):
    """Who ran it and in which workspace."""

    principal: str = Field(description="Object id or application id in the token.")
    tenant: str = Field(description="Tenant id in the token.")
    subscription_id: str = Field(description="Subscription of the workspace.")
    resource_group: str = Field(description="Resource group of the workspace.")
    workspace: str = Field(description="Name of the workspace.")
    location: str = Field(description="Region of the workspace.")
    found_in: str = Field(description="Where the workspace's address was found.")
    cloud: str = Field(description="Address of the resource manager.")
    portal: str | None = Field(
        default=None, description="Portal that the cloud's metadata names; null for an emulator, whose portal is local."
    )


class FoundationModel(Part):
    """The model that was fine-tuned."""

    name: str = Field(description="Name in the registry.")
    version: str = Field(description="Version that `latest` or the request stood for.")
    id: str = Field(description="Full asset id.")
    component: str = Field(description="Pipeline component, `name:version`.")
    archived: bool = Field(description="The registry has archived this model.")
    retirement_date: str | None = Field(
        default=None, description="Date after which fine-tuning is not offered, ISO 8601."
    )
    weights: str | None = Field(default=None, description="Base weights that the training step loaded, if logged.")
    warnings: list[str] = Field(default=[], description="Problems of the model and of its defaults.")


class ComputeUsed(Part):
    """The compute that trained."""

    name: str = Field(description="Cluster, or `serverless`.")
    size: str = Field(description="VM size of a node.")
    gpus_per_node: int = Field(description="GPUs of one node.")
    tier: str = Field(default="dedicated", description="`dedicated` or `low_priority`.")
    created: bool = Field(default=False, description="The run made the cluster.")
    price_per_hour_usd: float | None = Field(
        default=None, description="List price of one node, US$ per hour, if known."
    )


class Parameter(Part):
    """One input of the component and where its value came from."""

    name: str = Field(description="The component's own name for it.")
    value: ParameterValue = Field(description="Value passed.")
    source: Literal["component", "guide", "model", "user"] = Field(description="Whose value it is.")


class Spread(Part):
    """How a number is distributed over the rows."""

    mean: float = Field(description="Mean.")
    p50: float = Field(description="Median.")
    p90: float = Field(description="90th percentile.")
    p99: float = Field(description="99th percentile.")
    maximum: float = Field(description="Largest.")


class SplitStatistics(Part):
    """What the rows of one file look like."""

    turns: Spread = Field(description="Messages of a row.")
    characters: Spread = Field(description="Characters of a row's messages.")
    tokens: Spread | None = Field(default=None, description="Tokens of a row's messages, where a tokenizer was named.")
    token_rows: int = Field(
        default=0, description="Rows whose tokens were counted, evenly spread; 0 without a tokenizer."
    )
    roles: dict[str, int] = Field(description="Messages by role.")
    histogram_edges: list[float] = Field(description="Bounds of the histogram's bins, characters.")
    histogram_rows: list[int] = Field(description="Rows in each bin; one fewer than bounds.")
    preview: list[str] = Field(description="The first rows, as JSON text cut to a few hundred characters.")


class BadRows(Part):
    """Rows of one split that are unfit for one reason."""

    kind: str = Field(description="Why, as docs/data.md names it.")
    rows: int = Field(description="How many.")
    examples: list[str] = Field(description="The first of them as `file:row`, with what was found.")


class Split(Part):
    """One prepared file of chat data."""

    rows: int = Field(description="Rows written.")
    source_split: str = Field(default="", description="Split of the source, or file, that the rows come from.")
    held_out: str = Field(
        default="", description="How the rows were held out of the split to train on, where they were."
    )
    format: str = Field(default="", description="Shape of the source's rows as recognised, and its columns.")
    source_row: str = Field(
        default="", description="The first row as it is in the source, cut to a few hundred characters."
    )
    tool_rows: int = Field(default=0, description="Rows with tools, tool calls or tool messages.")
    selected: int = Field(default=0, description="Rows that data.fraction chose.")
    dropped: dict[str, int] = Field(default={}, description="Rows left out, by reason.")
    noted: dict[str, int] = Field(default={}, description="Rows kept though something is notable about them, by kind.")
    bad_rows: list[BadRows] = Field(default=[], description="What was found, with examples.")
    redacted: dict[str, int] = Field(default={}, description="Personal data and secrets that were replaced, by kind.")
    bytes: int = Field(default=0, description="Size of the file, bytes.")
    sha256: str = Field(description="Digest of the file.")
    path: str = Field(description="The file, one JSON object a line.")
    statistics: SplitStatistics | None = Field(default=None, description="What the rows look like.")


class PreparedData(Part):
    """The data that was trained on."""

    source: str = Field(description="Data set id, folder, URL or data asset.")
    revision: str = Field(description="Commit of the data set, or digest of the files' content.")
    selection: str = Field(default="head", description="How rows were chosen.")
    key: str = Field(
        default="", description="Digest of everything that decides the files' content; names them in the cache."
    )
    splits: dict[str, Split] = Field(description="By role: train, validation, test.")
    unused: list[str] = Field(default=[], description="Splits of the source, or files, that nothing is read from.")
    notes: list[str] = Field(default=[], description="What somebody should know of the data though it is usable.")
    cached: bool = Field(
        default=False, description="The files of an earlier run were used, after a check of their digests."
    )
    fetched_bytes: int = Field(default=0, description="Bytes of content that this run fetched from elsewhere.")
    seconds: float = Field(default=0, description="Time of the preparation, seconds.")
    assets: dict[str, str] = Field(default={}, description="Data assets that the job reads, by role: full asset ids.")

    @property
    def warnings(self) -> list[str]:
        """What somebody should know; a sentence for each file of which so much was left out that they should look."""
        return self.notes + [
            f"{sum(split.dropped.values()):,} of {split.selected:,} chosen rows were left out of the {role} file: "
            f"{', '.join(f'{count:,} {kind}' for kind, count in split.dropped.items())}."
            for role, split in self.splits.items()
            if sum(split.dropped.values()) > NOTABLE_SHARE * split.selected
        ]


class Job(Part):
    """The training job."""

    name: str = Field(description="Name of the job.")
    display_name: str = Field(description="Display name.")
    experiment: str = Field(description="Experiment.")
    status: str = Field(description="Last status seen.")
    attached: bool = Field(default=False, description="The job was already there and was taken over.")
    seconds: float = Field(default=0, description="From submission to the end, seconds.")
    created: datetime | None = Field(default=None, description="When the service accepted it.")
    studio_url: str | None = Field(
        default=None, description="Page of the job in Azure ML studio; null for an emulator."
    )


class Curve(Part):
    """How a metric of the job went on."""

    metric: str = Field(description="Name of the metric.")
    steps: list[int] = Field(description="Training steps at which it was logged.")
    values: list[float] = Field(description="Its values there.")


class Cost(Part):
    """What the run has cost at list prices; what was there before it, and storage, are left out."""

    training_usd: float | None = Field(
        default=None, description="The job's nodes from submission to end, US$, if known."
    )
    endpoint_usd: float | None = Field(
        default=None, description="The endpoint's instances while it was up, US$, if known."
    )


class Decision(Part):
    """A person's answer on the trained model."""

    answer: Literal["approved", "rejected", "none in time"] = Field(description="What was decided.")
    by: str = Field(default="", description="Who, as they gave their name; empty when nobody answered.")
    note: str = Field(default="", description="Why, in their words.")
    at: datetime = Field(description="When the answer was read.")
    attached: bool = Field(default=False, description="An earlier start of this run was given it.")


class RegisteredModel(Part):
    """The result."""

    name: str = Field(description="Name.")
    version: str = Field(description="Version.")
    id: str = Field(description="Full asset id.")
    attached: bool = Field(default=False, description="An earlier start of this run had registered it.")


class Endpoint(Part):
    """The endpoint that was made for the check."""

    name: str = Field(description="Name.")
    deployment: str = Field(description="Deployment on it.")
    instance_type: str = Field(description="VM size of the deployment.")
    expires: datetime = Field(description="After this moment the sweep deletes it, whatever else happens.")
    deleted: bool = Field(default=False, description="A GET after the deletion answered 404.")
    kept_until: datetime | None = Field(
        default=None, description="Left up on purpose; the sweep deletes it after this moment."
    )
    scoring_uri: str | None = Field(default=None, description="Where a kept endpoint is asked.")
    price_per_day_usd: float | None = Field(
        default=None, description="List price of the deployment, US$ per day, if known."
    )


class Answer(Part):
    """One question to the endpoint."""

    prompt: str = Field(description="Last user turn of the row.")
    expected: str = Field(description="The row's own answer; empty when it has none.")
    output: str = Field(description="What the endpoint answered.")
    seconds: float = Field(description="Time of the request, seconds.")


class Step(Part):
    """One task of the flow."""

    name: str = Field(description="Name of the task.")
    state: str = Field(description="Final state in Prefect.")
    seconds: float = Field(description="Run time, seconds.")


class Problem(Part):
    """Why the run did not complete."""

    step: str = Field(description="Step that failed; `request` when it was refused before the flow.")
    code: str = Field(description="Stable name of the error.")
    message: str = Field(description="What was attempted and found.")
    fix: str = Field(default="", description="What to do next.")


class Report(BaseModel):
    """The whole report."""

    model_config = ConfigDict(validate_assignment=True, protected_namespaces=(), defer_build=True)

    schema_version: Literal[1] = Field(default=1, alias="schema", description="Version of this document's form.")
    status: Status = Field(default="failed", description="How the run ended.")
    run: Run = Field(default=Run(), description="Which run this was.")
    identity: Identity | None = Field(default=None, description="Who ran it, where.")
    model: FoundationModel | None = Field(default=None, description="What was fine-tuned.")
    compute: ComputeUsed | None = Field(default=None, description="What trained it.")
    parameters: list[Parameter] = Field(default=[], description="Inputs of the component.")
    data: PreparedData | None = Field(default=None, description="What it was trained on.")
    job: Job | None = Field(default=None, description="The training job.")
    metrics: dict[str, float] = Field(default={}, description="Last value of each metric of the job.")
    curves: list[Curve] = Field(default=[], description="Losses of the job over its steps.")
    decision: Decision | None = Field(default=None, description="A person's answer; null when none was asked.")
    registered_model: RegisteredModel | None = Field(default=None, description="The result.")
    endpoint: Endpoint | None = Field(default=None, description="The endpoint of the check.")
    score: list[Answer] = Field(default=[], description="Questions and answers.")
    cost: Cost | None = Field(default=None, description="What the run has cost.")
    steps: list[Step] = Field(default=[], description="Tasks in the order of their start.")
    warnings: list[str] = Field(default=[], description="Problems that did not stop the run.")
    error: Problem | None = Field(default=None, description="Why it did not complete; null when it did.")

    def to_json(self) -> str:
        """The document, indented, with the key `schema` first."""
        return escape_json(self.model_dump_json(by_alias=True, indent=2))


class Leftover(Part):
    """An endpoint or a job that outlived its run."""

    name: str = Field(description="Name of the endpoint or job.")
    key: str = Field(description="Key of its run.")
    attempt: int = Field(description="Attempt under this key.")
    reason: str = Field(description="Why nobody needs it.")
    action: Literal["found", "deleted", "cancelled", "spared", "failed"] = Field(
        default="found", description="What was done; `spared` when a run has taken it over in the meantime."
    )
    error: str | None = Field(default=None, description="Why it is still there.")


class Swept(Part):
    """What a sweep found and did."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema", description="Version of this document's form.")
    workspace: str | None = Field(default=None, description="Name of the workspace.")
    dry_run: bool = Field(default=False, description="Nothing was changed.")
    endpoints: list[Leftover] = Field(default=[], description="Endpoints that outlived their runs.")
    jobs: list[Leftover] = Field(default=[], description="Jobs that still ran or waited without a run.")
    error: Problem | None = Field(default=None, description="Why the workspace could not be swept.")

    @property
    def clean(self) -> bool:
        """Whether nothing is left that a sweep should have ended."""
        return self.error is None and all(leftover.action != "failed" for leftover in [*self.endpoints, *self.jobs])

    @property
    def summary(self) -> str:
        """One sentence, with every failure."""
        counts = f"{len(self.endpoints)} endpoint(s) and {len(self.jobs)} job(s) in workspace {self.workspace} outlived"
        counts += " their runs"
        leftovers = [leftover for leftover in [*self.endpoints, *self.jobs] if leftover.error]
        failed = ", ".join(f"{leftover.name}: {leftover.error}" for leftover in leftovers)
        change = "; nothing was changed" if self.dry_run else ""
        return f"{counts}{change}{f'; not ended: {failed}' if failed else ''}."

    def to_json(self) -> str:
        """The document, indented, with the key `schema` first."""
        return escape_json(self.model_dump_json(by_alias=True, indent=2))


def refused(error: RetuneError) -> Report:
    """The report of a run whose flow did not begin."""
    statuses: dict[str, Status] = {"BadRequest": "rejected", "Interrupted": "cancelled"}
    problem = Problem(step="request", code=error.code, message=error.message, fix=error.fix)
    return Report(status=statuses.get(error.code, "failed"), error=problem)

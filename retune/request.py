"""What a run is asked to do: the flow's parameter, the preset's sections and the `--set` keys are these models.

One preset file is one complete request. `parse` reports every problem of a file at once, with its line.
Nothing here talks to a network.
"""

import contextlib
import difflib
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from retune.data_settings import Data
from retune.errors import BadRequest
from retune.section import Section
from retune.texts import check_text, find_invisible, quoted, quoted_if_odd

PRESETS = Path(__file__).resolve().parent.parent / "deployments" / "presets"

ParameterValue = bool | int | float | str
RUN_KEY_OPTION = "--run-key"
# What commands call the run that this machine started last.
LAST = "last"
# Azure ML resource rules; the service refuses others. Source: resource-limits documentation, SDK validators.
ComputeName = Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]$")]
DeploymentName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,30}[a-z0-9])$")]
AssetName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,254}$")]
RUN_KEY_PATTERN = r"^[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}$"
RUN_KEY = re.compile(RUN_KEY_PATTERN)
RunKey = Annotated[str, Field(pattern=RUN_KEY_PATTERN)]
LARGEST_PRESET_BYTES = 1 << 20


class Workspace(Section):
    """Where: the Azure ML workspace and the registries."""

    subscription_id: str | None = Field(
        default=None, description="Subscription id. Unset: AZURE_SUBSCRIPTION_ID, then config.json."
    )
    resource_group: str | None = Field(
        default=None, description="Resource group. Unset: AZURE_RESOURCE_GROUP, then config.json."
    )
    name: str | None = Field(
        default=None,
        pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_-]{2,32}$",
        description="Workspace name. Unset: AZURE_WORKSPACE_NAME, then config.json.",
    )
    registry: AssetName = Field(default="azureml", description="Registry that holds the foundation model.")
    component_registry: AssetName = Field(default="azureml", description="Registry that holds the pipeline component.")
    emulator: bool = Field(
        default=False,
        description="Require that ARM_CLOUD_METADATA_URL points to an emulator on this machine. "
        "If it is unset, the command line starts one.",
    )
    interactive: bool = Field(
        default=False,
        description="Offer the browser sign-in when no other credential works and a terminal is attached.",
    )


class Model(Section):
    """What to fine-tune, with which pipeline component, and the name of the result."""

    name: AssetName = Field(default="Phi-4", description="Foundation model in the registry.")
    version: str = Field(default="latest", min_length=1, description="Model version, or `latest`.")
    component: AssetName = Field(default="chat_completion_pipeline", description="Pipeline component that fine-tunes.")
    component_version: str = Field(default="latest", min_length=1, description="Component version, or `latest`.")
    path_input: Literal["mlflow_model_path", "pytorch_model_path"] = Field(
        default="mlflow_model_path", description="The component's input that takes the foundation model."
    )
    registered_name: AssetName | None = Field(
        default=None, description="Name of the registered model. Unset: the model's name and the data's."
    )


class Compute(Section):
    """The cluster that trains, or serverless instances."""

    name: ComputeName = Field(default="gpu-cluster-big", description="Cluster; created if it does not exist.")
    size: str = Field(default="Standard_NC24ads_A100_v4", min_length=1, description="VM size of the nodes.")
    serverless: bool = Field(default=False, description="Use serverless instances of `size` instead of a cluster.")
    tier: Literal["dedicated", "low_priority"] = Field(default="dedicated", description="Priority of a new cluster.")
    low_priority_fallback: bool = Field(
        default=False, description="Try a low-priority cluster when a dedicated one is refused. It can be pre-empted."
    )
    min_nodes: int = Field(default=0, ge=0, le=100, description="Nodes that a new cluster keeps when idle.")
    max_nodes: int = Field(default=1, ge=1, le=100, description="Nodes that a new cluster may grow to.")
    idle_seconds: int = Field(
        default=120, ge=60, le=86_400, description="Idle time before a node is released, seconds."
    )


class Serving(Section):
    """The managed online endpoint that proves the model answers. It is deleted, unless `keep` is set."""

    instance_type: str = Field(
        default="Standard_NC24ads_A100_v4", min_length=1, description="VM size of the deployment."
    )
    instance_count: int = Field(default=1, ge=1, le=50, description="Instances of the deployment.")
    deployment: DeploymentName = Field(default="demo", description="Name of the deployment.")
    request_timeout_seconds: int = Field(
        default=90, ge=1, le=180, description="Time limit of one scoring request, seconds."
    )
    probe_initial_delay_seconds: int = Field(
        default=600, ge=1, le=3600, description="Time before the first liveness probe, seconds."
    )
    expiry_hours: float = Field(
        default=4,
        gt=0,
        le=72,
        description="Hours from deployment to expiry (a tag on the endpoint). Before it is deployed, queue_minutes and "
        "run_minutes come on top.",
    )
    keep: bool = Field(
        default=False,
        description="Keep the endpoint after a completed run, until `keep_hours` have passed. It costs money.",
    )
    keep_hours: float = Field(
        default=24, gt=0, le=720, description="Time after which the sweep deletes a kept endpoint, hours."
    )


class Score(Section):
    """The questions for the endpoint, from the test split."""

    rows: int = Field(default=3, ge=1, le=100, description="Rows of the test split to ask.")
    seed: int = Field(default=0, ge=0, description="Seed of the choice of rows.")
    payload: Literal["nested", "flat"] = Field(
        default="nested", description="Body of the request: a list of conversations, or one conversation."
    )
    temperature: float = Field(
        default=0.6, ge=0, le=2, description="Sampling temperature; 0 only where `do_sample` is false."
    )
    top_p: float = Field(default=0.9, gt=0, le=1, description="Nucleus sampling threshold.")
    do_sample: bool = Field(default=True, description="Sample; otherwise the most likely token is taken.")
    max_new_tokens: int = Field(default=200, ge=1, le=4096, description="Length limit of an answer, tokens.")

    @model_validator(mode="after")
    def _sampling_needs_a_temperature(self) -> Self:
        if self.do_sample and self.temperature == 0:
            raise ValueError("temperature 0 leaves nothing to sample from; set do_sample to false, or raise it")
        return self


class Approval(Section):
    """Whether a person approves the trained model before it is used. Nothing that costs money runs meanwhile."""

    required: bool = Field(
        default=False, description="Require approval (`retune approve`). No answer within `hours` means declined."
    )
    before: Literal["registration", "traffic"] = Field(
        default="registration",
        description="Ask before the model is registered, or after that, before its endpoint is created.",
    )
    hours: float = Field(default=24, gt=0, le=720, description="Timeout of the approval, hours.")


class Limits(Section):
    """Timeouts, and how often the job's status is requested."""

    poll_seconds: float = Field(
        default=30, ge=0.2, le=600, description="Interval between requests for the job's status, seconds."
    )
    queue_minutes: float = Field(default=240, gt=0, description="Timeout of the job's start, minutes.")
    run_minutes: float = Field(default=1440, gt=0, description="Timeout of the job from its start, minutes.")
    compute_minutes: float = Field(default=30, gt=0, description="Timeout of the cluster's creation, minutes.")
    deploy_minutes: float = Field(
        default=60, gt=0, description="Timeout of each creation or update of endpoint or deployment, minutes."
    )
    delete_minutes: float = Field(default=20, gt=0, description="Timeout of the endpoint's deletion, minutes.")
    total_minutes: float = Field(
        default=2880,
        gt=0,
        description="Timeout of the whole run, minutes. Endpoint deletion and approval time do not count.",
    )
    lease_minutes: float = Field(
        default=15,
        ge=0.05,
        description="Lease duration, minutes. Until a dead run's lease expires, an execution with the same key can "
        "take over its job; then the job is cancelled.",
    )


class Request(Section):
    """One complete run."""

    workspace: Workspace = Field(default=Workspace(), description="Where to run.")
    model: Model = Field(default=Model(), description="What to fine-tune.")
    data: Data = Field(default=Data(), description="What to train on.")
    compute: Compute = Field(default=Compute(), description="What to train with.")
    training: dict[str, ParameterValue] = Field(
        default={}, description="Inputs of the pipeline component, under the component's own names."
    )
    serving: Serving = Field(default=Serving(), description="How the model is served for the check.")
    score: Score = Field(default=Score(), description="How the endpoint is tested.")
    approval: Approval = Field(default=Approval(), description="Whether a person approves the model.")
    limits: Limits = Field(default=Limits(), description="Timeouts.")

    @field_validator("data")
    @classmethod
    def _splits_differ(cls, data: Data) -> Data:
        if data.train_split != "auto" and data.train_split in (data.validation_split, data.test_split):
            raise ValueError(f"train_split '{data.train_split}' must differ from the splits that judge the model")
        return data

    @field_validator("compute")
    @classmethod
    def _cluster_is_possible(cls, compute: Compute) -> Compute:
        if compute.min_nodes > compute.max_nodes:
            raise ValueError(f"min_nodes {compute.min_nodes} is above max_nodes {compute.max_nodes}")
        if re.search(r"-\d+$", compute.name):
            raise ValueError(f"name '{compute.name}' must not end in a hyphen and digits")
        return compute


def load(preset: str | None, assignments: list[str], source: str | None = None) -> Request:
    """The request of a preset with `section.key=value` assignments applied over it; without a preset, of the defaults.

    `preset` is a name in deployments/presets or a path of a YAML file. A `source` takes the place of the preset's
    section `data`.

    Raises:
        BadRequest: with every problem at once, file and line included.
    """
    document, positions = ({}, {}) if preset is None else read_preset(find_preset(preset))
    if source is not None:
        document["data"] = {"source": source}
    problems = _apply(document, assignments)
    assigned = {assignment.partition("=")[0] for assignment in assignments}
    return parse(document, positions | dict.fromkeys(assigned, "--set"), problems)


def read_preset(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The sections of a preset, and where each key stands, as `file:line`.

    Raises:
        BadRequest: it is too large, or no YAML of sections.
    """
    if (size := path.stat().st_size) > LARGEST_PRESET_BYTES:
        raise BadRequest([f"{path} has {size} bytes; a preset has at most {LARGEST_PRESET_BYTES}."])
    try:
        text = path.read_text(encoding="utf-8")
        document = read_yaml(text) or {}
        node = yaml.compose(text)
    except yaml.MarkedYAMLError as error:
        # Its full text quotes the file, and may cut a secret so that it is not known as one.
        position = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else str(path)
        raise BadRequest([f"{position}: not readable as YAML: {error.problem or error.context}."]) from error
    except BROKEN_YAML as error:
        raise BadRequest([f"{path}: not readable as YAML: {type(error).__name__}."]) from error
    lines = dict(_lines(node)) if node else {}
    if not isinstance(document, dict):
        raise BadRequest([f"{path}: expected sections such as `model:` and `data:`, found {quoted(document)}."])
    return document, {key: f"{path}:{line}" for key, line in lines.items()}


# What PyYAML raises for texts that are none, or whose tags do not fit their values.
BROKEN_YAML = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


class _PlainLoader(yaml.SafeLoader):
    """YAML as a preset needs it: a key stands once, and nothing refers to another part, which could multiply itself."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"*{alias.anchor} refers to another part; write it out", problem_mark=alias.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is a list or an object", problem_mark=key.start_mark)
            if key.value in seen:
                problem = f"the key '{key.value}' occurs here for the second time"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> object:
    """The document of a preset, or the value of a `--set`.

    Raises: one of BROKEN_YAML when it is none or too deep, a key stands twice, or a part refers to another.
    """
    return yaml.load(text, _PlainLoader)


def find_preset(preset: str) -> Path:
    """The path of a preset given by name or path."""
    for path in (PRESETS / f"{preset}.yaml", Path(preset)):
        # A name that is too long for a file is that of none.
        with contextlib.suppress(OSError, ValueError):
            if path.is_file():
                return path
    known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.yaml")))
    raise BadRequest([f"Preset {quoted(preset)} is neither a preset nor a file. Presets: {known}."])


def parse(
    document: Mapping[str, object], positions: Mapping[str, str] | None = None, problems: Sequence[str] = ()
) -> Request:
    """The request that a document describes; `positions` says where each dotted key was written."""
    request, problems = None, list(problems)
    try:
        request = Request.model_validate(document)
    except ValidationError as error:
        problems += [_explain(item, positions or {}) for item in error.errors(include_url=False)]
    if problems or request is None:
        raise BadRequest(list(dict.fromkeys(problems)))
    return request


def _apply(document: dict[str, object], assignments: list[str]) -> list[str]:
    """Set each `section.key=value` in the document; the problems of those that cannot be."""
    problems = []
    for assignment in assignments:
        # YAML would fold a line end into a space.
        if invisible := find_invisible(assignment):
            problems.append(
                f"--set {quoted_if_odd(assignment)}: holds the invisible character {invisible!r}; remove it."
            )
            continue
        key, equals, text = assignment.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot and section and name):
            problems.append(
                f"--set {quoted_if_odd(assignment)}: write it as section.key=value, e.g. data.fraction=0.1."
            )
            continue
        group = document.get(section) or {}
        try:
            value = read_yaml(text) if text else ""
        # Too deep, or a number of too many digits: no value of ours.
        except BROKEN_YAML:
            value = text
        if isinstance(group, dict):
            document[section] = group | {name: value}
    return problems


def _lines(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            yield dotted, key.start_mark.line + 1
            yield from _lines(value, f"{dotted}.")


def _explain(error: ErrorDetails, positions: Mapping[str, str]) -> str:
    """One validation problem as place, key, what was found and what to write."""
    location, message = [str(part) for part in error["loc"]], error["msg"].removeprefix("Value error, ")
    if location[:1] == ["training"] and len(location) > 1:
        # A union reports each of its members; one sentence says it all.
        location, message = location[:2], "Expected a text, a number, true or false"
    key = quoted_if_odd(".".join(location))
    position = positions.get(key) or positions.get(location[0] if location else "", "")
    prefix = f"{position}: " if position else ""
    if error["type"] == "extra_forbidden":
        return f"{prefix}unknown key '{key}'.{_suggestion(location)}"

    value = f" = {quoted(error['input'])}" if isinstance(error["input"], str | int | float | list | None) else ""
    return f"{prefix}{key}{value}: {message}.{_meaning(location)}"


def _fields(location: list[str]) -> dict[str, FieldInfo]:
    """The fields of the section that a dotted key belongs to."""
    if len(location) > 1 and location[0] in Request.model_fields:
        section = Request.model_fields[location[0]].annotation
        return section.model_fields if isinstance(section, type) and issubclass(section, Section) else {}
    return Request.model_fields


def _suggestion(location: list[str]) -> str:
    names = list(_fields(location))
    close = difflib.get_close_matches(location[-1], names, n=1)
    return f" Did you mean '{close[0]}'?" if close else f" Known keys: {', '.join(names)}."


def _meaning(location: list[str]) -> str:
    field = _fields(location).get(location[-1]) if location else None
    return f" It is: {field.description}" if field is not None and len(location) > 1 else ""


def parse_run_key(key: str | None, option: str = RUN_KEY_OPTION) -> str | None:
    """The key, checked; a flow run's id is one too. `option` names it in the refusal.

    Raises:
        BadRequest: it holds characters that Azure's names do not take, or is too long.
    """
    if key is not None and not RUN_KEY.fullmatch(key):
        raise BadRequest(
            [f"{option} {quoted(key)}: use 1 to 64 letters, digits, '-' and '_', a letter or digit first."]
        )
    if key == LAST and option == RUN_KEY_OPTION:
        raise BadRequest([f"{option} '{LAST}': that is how commands call the run that was started last."])
    if key is not None:
        try:
            check_text("", key)
        except ValueError as error:
            raise BadRequest([f"{option} {quoted(key)}: {error}."]) from error
    return key

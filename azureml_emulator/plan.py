"""A job's body to the steps that run: pipelines are unfolded, inputs bound, computes and sizes read. Runs nothing.

A node runs a command component, or holds another pipeline. A plan is a function of the job's body and of components,
which never change, so it comes out the same after a restart. Bodies are read by job_body.py.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import NAMESPACE_URL, uuid5

from azureml_emulator.command_line import EXPRESSION, render
from azureml_emulator.job_body import (
    Asset,
    AssetName,
    Literal,
    check_sizes,
    entries,
    is_optional,
    output_type,
    outputs_of,
    read_asset_name,
    read_inputs,
    refuse_timeout,
    text_of,
    variables_of,
)
from azureml_emulator.json_types import Json, JsonValue
from azureml_emulator.names import JOB_MEMBER, check_address, check_name, refuse_settings
from azureml_emulator.wire import ServiceError


@dataclass(frozen=True)
class NodeOutput:
    """An output of a node: the node's path and the output's name. The path of the job itself is ""."""

    path: str
    output: str


Value = Literal | Asset | NodeOutput


@dataclass
class Step:
    """One command to run. `path` is the node names from the job down, joined by `/`; empty for a command job itself."""

    path: str
    component: Json
    inputs: dict[str, Value]
    outputs: dict[str, str]
    compute: str | None = None
    instance_type: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    code: str | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass
class Plan:
    """All steps of a job by path, the pipelines within it, and where outputs come from.

    `sources` maps an output of a pipeline (the job's own has the path "") to the node's output that fills it;
    `asset_names` holds the outputs that are registered as assets.
    """

    job: str
    steps: dict[str, Step] = field(default_factory=dict)
    pipelines: list[str] = field(default_factory=list)
    sources: dict[NodeOutput, NodeOutput] = field(default_factory=dict)
    output_types: dict[str, str] = field(default_factory=dict)
    asset_names: dict[NodeOutput, AssetName] = field(default_factory=dict)

    def run_id(self, path: str) -> str:
        """The name of a node's run: the job's own for the path "", else an id that is the same in every start."""
        return str(uuid5(NAMESPACE_URL, f"{self.job}/{path}")) if path else self.job

    def parent_path(self, path: str) -> str:
        return path.rpartition("/")[0]

    def source(self, output: NodeOutput) -> NodeOutput:
        """The step's output behind an output of a pipeline."""
        while output in self.sources:
            output = self.sources[output]
        return output

    def asset_name(self, output: NodeOutput) -> AssetName | None:
        """The name under which a step's output is registered; the outermost pipeline that names it wins."""
        named = [outer for outer in self.asset_names if self.source(outer) == output]
        return self.asset_names[min(named, key=lambda outer: len(outer.path))] if named else None

    def needs(self, step: Step) -> set[str]:
        """The paths of the steps whose outputs a step reads."""
        return {self.source(value).path for value in step.inputs.values() if isinstance(value, NodeOutput)}

    def folder(self, output: NodeOutput) -> str:
        """The folder of a step's output in the default datastore; that of a job's output is named after the job."""
        for outer in self.sources:
            if outer.path == "" and self.source(outer) == output:
                return f"azureml/{self.job}/{outer.output}"
        return f"azureml/{self.run_id(output.path)}/{output.output}"


Components = Callable[[str], Json]
DEEPEST_PIPELINE, MOST_NODES = 8, 500


def make_plan(job: str, body: Json, components: Components) -> Plan:
    """The plan of a job's `properties`. Raises: ServiceError 400 for what cannot run, naming the node."""
    plan = Plan(job)
    bound: dict[str, Value] = {name: value for name, value in read_inputs(body).items() if value is not None}
    plan.output_types = {name: output_type(value) for name, value in outputs_of(body)}
    for name, value in outputs_of(body):
        if name != "default" and (asset := read_asset_name(name, value, "assetName", "assetVersion")):
            plan.asset_names[NodeOutput("", name)] = asset
    refuse_settings("job", body, "distribution", "queueSettings", "notificationSetting", "autologgerSettings")
    refuse_timeout("job", body)
    if str(body["jobType"]).lower() == "command":
        plan.steps[""] = command_step(body, bound, plan.output_types)
        check(plan)
        return plan
    component_id = str(body.get("componentId") or "")
    pipeline = dict(components(component_id)) if component_id else {}
    pipeline["jobs"] = body.get("jobs") or pipeline.get("jobs") or {}
    settings = body.get("settings")
    compute = settings.get("default_compute") if isinstance(settings, dict) else None
    unfold(plan, "", pipeline, component_id, bound, str(body.get("computeId") or compute or "") or None, components)
    check(plan)
    return plan


def command_step(body: Json, inputs: dict[str, Value], outputs: dict[str, str]) -> Step:
    """The one step of a command job."""
    resources = body.get("resources")
    size = resources.get("instanceType") if isinstance(resources, dict) else None
    return Step(
        path="",
        component={"command": str(body.get("command") or ""), "inputs": {}, "name": "command"},
        inputs=inputs,
        outputs={name: kind for name, kind in outputs.items() if name != "default"},
        compute=str(body.get("computeId") or "") or None,
        instance_type=str(size) if size else None,
        environment=variables_of(body, "environmentVariables"),
        code=str(body.get("codeId") or "") or None,
    )


def unfold(
    plan: Plan,
    path: str,
    pipeline: Json,
    owner: str,
    inputs: dict[str, Value],
    compute: str | None,
    components: Components,
) -> None:
    """Adds the nodes of one pipeline. `owner`: the id of its component, in whose registry short names are looked up."""
    inputs = with_defaults(pipeline, inputs)
    if path.count("/") >= DEEPEST_PIPELINE or len(plan.steps) + len(plan.pipelines) > MOST_NODES:
        text = f"The pipeline has more than {MOST_NODES} nodes, or pipelines in more than {DEEPEST_PIPELINE} levels."
        raise ServiceError(400, "UserError", text)
    for name, node in entries(pipeline, "jobs"):
        if not isinstance(node, dict):
            raise ServiceError(400, "UserError", f"Node '{name}' of the pipeline is not an object.")
        check_name("node", name, JOB_MEMBER)
        refuse_timeout(f"node '{name}'", node)
        node_path = f"{path}/{name}".strip("/")
        component_id = component_reference(node, name, owner)
        component = components(component_id)
        bound = {key: bind(value, path, inputs) for key, value in read_inputs(node).items()}
        given = {key: value for key, value in bound.items() if value is not None}
        own_compute = resolve_text(node.get("computeId") or node.get("compute"), path, inputs)
        kind = component.get("type")
        if kind not in ("pipeline", "command"):
            text = f"Node '{node_path}' is of type '{kind}'. The emulator runs command and pipeline components."
            raise ServiceError(400, "UserError", text)
        plan.sources |= outputs_bound(path, node_path, node, component)
        for output, value in outputs_of(node):
            if asset := read_asset_name(output, value, "name", "version"):
                plan.asset_names[NodeOutput(node_path, output)] = asset
        if kind == "pipeline":
            plan.pipelines.append(node_path)
            unfold(plan, node_path, component, component_id, given, own_compute or compute, components)
        else:
            plan.steps[node_path] = component_step(
                node_path, node, component, given, own_compute or compute, path, inputs
            )


def outputs_bound(path: str, node_path: str, node: Json, component: Json) -> dict[NodeOutput, NodeOutput]:
    """The outputs of the pipeline at `path` that a node fills. Raises: ServiceError 400 for a name that cannot be."""
    bound = {}
    for key, value in outputs_of(node):
        match = EXPRESSION.fullmatch(text_of(value).strip())
        if not (match and match[1].startswith("parent.outputs.")):
            continue
        outer = match[1].removeprefix("parent.outputs.")
        check_name("output", outer, JOB_MEMBER)
        if key not in dict(entries(component, "outputs")):
            raise ServiceError(400, "UserError", f"The component of node '{node_path}' has no output '{key}'.")
        bound[NodeOutput(path, outer)] = NodeOutput(node_path, key)
    return bound


def component_step(
    node_path: str,
    node: Json,
    component: Json,
    given: dict[str, Value],
    compute: str | None,
    path: str,
    outer: dict[str, Value],
) -> Step:
    missing = [name for name, spec in entries(component, "inputs") if not is_optional(spec) and name not in given]
    if missing:
        raise ServiceError(400, "UserError", f"Node '{node_path}' lacks the required inputs: {', '.join(missing)}.")
    resources = node.get("resources")
    size = resources.get("instance_type") if isinstance(resources, dict) else None
    return Step(
        path=node_path,
        component=component,
        inputs=with_defaults(component, given),
        outputs={name: output_type(spec) for name, spec in outputs_of(component)},
        compute=compute,
        instance_type=resolve_text(size, path, outer),
        environment=variables_of(node, "environment_variables"),
        code=str(component.get("code") or "") or None,
    )


def component_reference(node: Json, name: str, owner: str) -> str:
    """The id of a node's component; `azureml:name:version` within a registry's component is of the same registry."""
    reference = str(node.get("componentId") or node.get("component") or "")
    if not reference:
        raise ServiceError(400, "UserError", f"Node '{name}' names no component (type '{node.get('type')}').")
    short = re.fullmatch(r"azureml:([^:/]+):([^:/]+)", reference)
    registry = re.match(r"azureml://registries/[^/]+", owner)
    if short and registry:
        return f"{registry[0]}/components/{short[1]}/versions/{short[2]}"
    return reference


def bind(value: Value | None, path: str, inputs: dict[str, Value]) -> Value | None:
    """The value with its expressions resolved among the pipeline's inputs and nodes; None when it stays unset."""
    if not isinstance(value, Literal):
        return value
    whole = EXPRESSION.fullmatch(value.text.strip())
    if whole:
        return look_up(whole[1], path, inputs)

    def insert(match: re.Match[str]) -> str:
        value = look_up(match[1], path, inputs)
        return value.text if isinstance(value, Literal) else ""

    return Literal(EXPRESSION.sub(insert, value.text))


def look_up(expression: str, path: str, inputs: dict[str, Value]) -> Value | None:
    """`parent.inputs.x` or `parent.jobs.node.outputs.x`. Raises: ServiceError 400 for anything else."""
    parts = expression.split(".")
    if parts[:2] == ["parent", "inputs"] and len(parts) >= 3:
        return inputs.get(".".join(parts[2:]))
    if parts[:2] == ["parent", "jobs"] and len(parts) == 5 and parts[3] == "outputs":
        return NodeOutput(f"{path}/{parts[2]}".strip("/"), parts[4])
    raise ServiceError(400, "UserError", f"The expression '${{{{{expression}}}}}' cannot be resolved.")


def resolve_text(value: JsonValue, path: str, inputs: dict[str, Value]) -> str | None:
    """A setting of a node that may be an expression, as text."""
    bound = bind(Literal(str(value)), path, inputs) if value else None
    return bound.text if isinstance(bound, Literal) and bound.text else None


def with_defaults(component: Json, given: dict[str, Value]) -> dict[str, Value]:
    """The given inputs, and the defaults of a component's inputs that were not given."""
    specs = [(name, spec) for name, spec in entries(component, "inputs") if isinstance(spec, dict)]
    defaults = {name: Literal(str(spec["default"])) for name, spec in specs if spec.get("default") is not None}
    return {**defaults, **given}


def check(plan: Plan) -> None:
    """Raises: ServiceError 400 for a command that cannot be rendered, an input that no step makes, a circle."""
    for step in plan.steps.values():
        command = str(step.component.get("command") or "")
        if not command:
            raise ServiceError(400, "UserError", f"Step '{step.path or plan.job}' has no command.")
        texts = {f"input '{name}'": value.text for name, value in step.inputs.items() if isinstance(value, Literal)}
        check_sizes({"the command": command, **texts, **step.environment})
        render(command, dict.fromkeys(step.inputs, ""), dict.fromkeys(step.outputs, ""))
        if step.code:
            check_address("code", step.code)
        for source in [plan.source(value) for value in step.inputs.values() if isinstance(value, NodeOutput)]:
            if source.path not in plan.steps or source.output not in plan.steps[source.path].outputs:
                text = f"Node '{step.path}' reads '{source.path}.{source.output}', which no node makes."
                raise ServiceError(400, "UserError", text)
    for named in plan.asset_names:
        source = plan.source(named)
        if source.path not in plan.steps or source.output not in plan.steps[source.path].outputs:
            text = f"No node makes the output '{named.output}' of '{named.path or plan.job}', which has an asset name."
            raise ServiceError(400, "UserError", text)
    waiting = dict(plan.steps)
    while waiting:
        ready = [path for path, step in waiting.items() if not plan.needs(step) & waiting.keys()]
        if not ready:
            raise ServiceError(400, "UserError", f"The nodes {', '.join(waiting)} wait for each other.")
        for path in ready:
            del waiting[path]

"""Job bodies become plans: bindings, defaults, optional parts of commands, and what is refused."""

import pytest

from azureml_emulator.command_line import render
from azureml_emulator.job_body import Asset, AssetName, Literal
from azureml_emulator.plan import NodeOutput, make_plan
from azureml_emulator.wire import Json, ServiceError

REGISTRY = "azureml://registries/azureml/components"
COMPONENTS: dict[str, Json] = {
    f"{REGISTRY}/both/versions/1": {
        "type": "pipeline",
        "inputs": {"data": {"type": "uri_file"}, "rate": {"type": "number", "default": 0.1}},
        "outputs": {"model": {"type": "mlflow_model"}},
        "jobs": {
            "train": {
                "component": "azureml:train:2",
                "compute": "${{parent.inputs.compute}}",
                "inputs": {"data": "${{parent.inputs.data}}", "rate": "${{parent.inputs.rate}}"},
            },
            "convert": {
                "component": "azureml:train:2",
                "inputs": {"data": "${{parent.jobs.train.outputs.model}}", "rate": "rate ${{parent.inputs.rate}}"},
                "outputs": {"model": "${{parent.outputs.model}}"},
            },
        },
    },
    f"{REGISTRY}/train/versions/2": {
        "type": "command",
        "command": "train",
        "inputs": {"data": {"type": "uri_file"}, "rate": {"type": "number"}, "seed": {"optional": "True"}},
        "outputs": {"model": {"type": "mlflow_model"}},
    },
    "sweep": {"type": "sweep"},
}


def body(**changes: object) -> Json:
    node: Json = {
        "componentId": f"{REGISTRY}/both/versions/1",
        "inputs": {
            "data": {"job_input_type": "uri_file", "uri": "azureml://datastores/d/paths/f"},
            "compute": {"job_input_type": "literal", "value": "gpu"},
        },
        "outputs": {"model": {"type": "literal", "value": "${{parent.outputs.trained}}"}},
    }
    return {"jobType": "Pipeline", "inputs": {}, "outputs": {}, "jobs": {"node": {**node, **changes}}}


def test_pipeline_component_is_unfolded() -> None:
    """Steps of a pipeline component get the node's inputs, the component's defaults and each other's outputs."""
    plan = make_plan("job", body(), COMPONENTS.__getitem__)
    train, convert = plan.steps["node/train"], plan.steps["node/convert"]

    assert plan.pipelines == ["node"]
    assert train.inputs == {"data": Asset("azureml://datastores/d/paths/f"), "rate": Literal("0.1")}
    assert convert.inputs == {"data": NodeOutput("node/train", "model"), "rate": Literal("rate 0.1")}
    assert (train.compute, convert.compute) == ("gpu", None)
    assert plan.needs(convert) == {"node/train"}


def test_output_of_the_job_lies_under_its_name() -> None:
    """An output that is bound up to the job lies under the job's name, another under the name of its step's run."""
    plan = make_plan("job", body(), COMPONENTS.__getitem__)

    assert plan.folder(NodeOutput("node/convert", "model")) == "azureml/job/trained"
    assert plan.folder(NodeOutput("node/train", "model")) == f"azureml/{plan.run_id('node/train')}/model"


def test_outermost_asset_name_wins() -> None:
    """An output is registered under the name that the job gives it, else under the name that its node gives it."""
    bound = {"type": "literal", "value": "${{parent.outputs.trained}}", "name": "of-the-node", "version": "2"}
    named = body(outputs={"model": bound})
    alone = make_plan("job", named, COMPONENTS.__getitem__)
    named["outputs"] = {"trained": {"jobOutputType": "mlflow_model", "assetName": "of-the-job"}}
    both = make_plan("job", named, COMPONENTS.__getitem__)

    assert alone.asset_name(NodeOutput("node/convert", "model")) == AssetName("of-the-node", "2")
    assert both.asset_name(NodeOutput("node/convert", "model")) == AssetName("of-the-job", None)
    assert both.asset_name(NodeOutput("node/train", "model")) is None


def test_plan_is_the_same_again() -> None:
    """The ids of a job's runs do not depend on when the plan is made."""
    plans = [make_plan("job", body(), COMPONENTS.__getitem__) for _ in range(2)]

    assert plans[0].run_id("node/train") == plans[1].run_id("node/train")
    assert plans[0] == plans[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {}}, "Node 'node/train' lacks the required inputs: data"),
        ({"componentId": "sweep"}, "Node 'node' is of type 'sweep'"),
        ({"componentId": None}, "Node 'node' names no component"),
        ({"inputs": {"data": "${{parent.jobs.other.outputs.x}}"}}, "reads 'other.x', which no node makes"),
        ({"inputs": {"data": "${{search_space.x}}"}}, "'${{search_space.x}}' cannot be resolved"),
        ({"outputs": {"model": {"version": "1"}}}, "'model' has the asset version '1' without an asset name"),
        ({"outputs": {"model": {"name": "../etc"}}}, "The asset name '../etc' is invalid"),
        ({"outputs": {"other": {"name": "model"}}}, "No node makes the output 'other' of 'node'"),
        ({"outputs": {"model": {"path": "azureml://datastores/d/paths/x"}}}, "does not support 'path' of the output"),
        ({"limits": {"timeout": "PT1H"}}, "does not support 'timeout' of the node 'node'"),
        ({"outputs": {"model": {"autoDeleteSetting": {"value": "1"}}}}, "does not support 'autoDeleteSetting'"),
    ],
    ids=[
        "missing-input",
        "other-type",
        "no-component",
        "unknown-output",
        "unknown-expression",
        "version-without-name",
        "impossible-name",
        "name-of-nothing",
        "own-path",
        "time-limit",
        "auto-delete",
    ],
)
def test_what_cannot_run_is_refused(changes: Json, message: str) -> None:
    """A body that cannot run is refused with the node's name before anything starts."""
    with pytest.raises(ServiceError) as refused:
        make_plan("job", body(**changes), COMPONENTS.__getitem__)

    assert refused.value.status == 400
    assert message in refused.value.message


def test_command_is_rendered() -> None:
    """Variables stand in the places of values, and an optional part with an unset input is left out."""
    command = "run --a ${{inputs.a}} $[[--b ${{inputs.b}}]] $[[--c 'x ${{inputs.c}}']] --out \"${{outputs.o}}\""

    text, values = render(command, {"a": "1", "c": "x y"}, {"o": "/out"})

    wanted = """run --a "${AZUREML_VALUE_0}"  --c 'x '"${AZUREML_VALUE_1}"'' --out "${AZUREML_VALUE_2}\""""
    assert text == wanted
    assert values == {"AZUREML_VALUE_0": "1", "AZUREML_VALUE_1": "x y", "AZUREML_VALUE_2": "/out"}

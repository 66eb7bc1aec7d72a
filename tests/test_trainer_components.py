"""The component files of the training pipeline: Azure's inputs, and bindings and commands that resolve."""

import re
from pathlib import Path

import pytest
import yaml

COMPONENTS = Path(__file__).parent.parent / "azureml_emulator" / "registry" / "components"
PIPELINE = yaml.safe_load((COMPONENTS / "chat_completion_pipeline" / "0.0.82.yaml").read_text())
STEPS = list(PIPELINE["jobs"])


def component_of(step: str) -> dict:
    _, name, version = PIPELINE["jobs"][step]["component"].split(":")
    return yaml.safe_load((COMPONENTS / name / f"{version}.yaml").read_text())


def test_the_pipeline_has_azures_69_inputs() -> None:
    """Every input is described; only task_name must have a value, and each default is one of the allowed values."""
    inputs = PIPELINE["inputs"]

    assert len(inputs) == 69
    assert [name for name, value in inputs.items() if not value["optional"]] == ["task_name"]
    assert all(value["description"] for value in inputs.values())
    assert all(value["default"] in value["enum"] for value in inputs.values() if "enum" in value)
    assert inputs["learning_rate"] == {
        "type": "number",
        "optional": True,
        "default": 2e-05,
        "description": "Peak learning rate.",
    }


def test_the_pipeline_has_azures_outputs_and_steps() -> None:
    """Five steps in their order, and the two outputs that a run registers from."""
    assert {name: value["type"] for name, value in PIPELINE["outputs"].items()} == {
        "pytorch_model_folder": "uri_folder",
        "mlflow_model_folder": "mlflow_model",
    }
    assert STEPS == [
        "ft_nlp_common_validation",
        "chat_completion_model_import",
        "chat_completion_datapreprocess",
        "chat_completion_finetune",
        "ft_nlp_model_converter",
    ]


@pytest.mark.parametrize("step", STEPS)
def test_every_binding_resolves(step: str) -> None:
    """Bindings name the pipeline's inputs, outputs of earlier steps, and inputs and outputs of the step's component."""
    job, component = PIPELINE["jobs"][step], component_of(step)
    text = yaml.safe_dump(job)
    earlier = STEPS[: STEPS.index(step)]

    assert set(re.findall(r"parent\.inputs\.(\w+)", text)) <= set(PIPELINE["inputs"])
    for source, output in re.findall(r"parent\.jobs\.(\w+)\.outputs\.(\w+)", text):
        assert source in earlier
        assert output in component_of(source)["outputs"]
    assert set(job["inputs"]) == set(component["inputs"])
    assert set(job.get("outputs", {})) <= set(component["outputs"])


@pytest.mark.parametrize("step", STEPS)
def test_every_command_names_each_input_and_output_once(step: str) -> None:
    """Optional inputs stand in $[[ ]], required ones do not, and the program takes exactly these options."""
    component = component_of(step)
    command = component["command"]
    optional = re.findall(r"\$\[\[--(\w+) '\$\{\{inputs\.\1\}\}'\]\]", command)
    required = re.findall(r"(?<!\[)--(\w+) '\$\{\{inputs\.\1\}\}'", command)
    outputs = re.findall(r"--(\w+) '\$\{\{outputs\.\1\}\}'", command)

    assert sorted(optional) == sorted(name for name, value in component["inputs"].items() if value["optional"])
    assert sorted(required) == sorted(name for name, value in component["inputs"].items() if not value["optional"])
    assert outputs == list(component["outputs"])
    assert set(optional + required + outputs) == options_of(command)


def options_of(command: str) -> set[str]:
    import dataclasses
    import importlib

    module = re.search(r"python -m (trainer\.\w+)", command)
    assert module
    return {field.name for field in dataclasses.fields(importlib.import_module(module[1]).Settings)}

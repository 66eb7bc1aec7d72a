"""Training parameters: precedence, conversion to the component's types, and the three forms of a model's tag."""

from pathlib import Path

import pytest
import yaml

from retune.bounds import BOUNDS
from retune.parameters import ComponentInput, convert, merge, read_defaults, read_tag

INPUTS = {
    "num_train_epochs": ComponentInput(type="integer", default=1, minimum=1),
    "learning_rate": ComponentInput(type="number", default=2e-05),
    "apply_lora": ComponentInput(type="string", default="false", enum=["true", "false"]),
    "precision": ComponentInput(type="string", default="32", enum=["32", "16"]),
    "train_file_path": ComponentInput(type="uri_file"),
}


def test_a_model_s_defaults_are_plain_values() -> None:
    """A null is no default, and a tag that holds something else has none."""
    assert read_defaults('{"apply_ort": false, "precision": 16, "seed": null}') == {"apply_ort": False, "precision": 16}
    assert read_defaults("Standard_NC24ads_A100_v4, Standard_ND96asr_v4") == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"apply_lora": "true", "precision": 16}', {"apply_lora": "true", "precision": 16}),
        ("{'apply_lora': 'true', 'deepspeed_stage': 2}", {"apply_lora": "true", "deepspeed_stage": 2}),
        ('{"apply_ort": false, "x": null}', {"apply_ort": False, "x": None}),
        ("['Standard_NC24ads_A100_v4', 'Standard_ND96asr_v4']", ["Standard_NC24ads_A100_v4", "Standard_ND96asr_v4"]),
        ("Standard_NC24ads_A100_v4, Standard_ND96asr_v4", ["Standard_NC24ads_A100_v4", "Standard_ND96asr_v4"]),
        ("", None),
        (None, None),
    ],
    ids=["json", "python", "json words", "python list", "comma text", "empty", "missing"],
)
def test_a_tag_is_read_in_each_form_that_registries_hold(text: str | None, value: object) -> None:
    """JSON, Python literals and comma text mean the same."""
    assert read_tag(text) == value


def test_the_user_wins_over_the_model_over_the_guide_over_the_component() -> None:
    """Every value says where it came from."""
    merged, warnings, problems = merge(INPUTS, {"apply_lora": "false", "precision": 16}, {"num_train_epochs": 7})

    assert {(p.name, p.value, p.source) for p in merged} == {
        ("num_train_epochs", 7, "user"),
        ("learning_rate", 5e-6, "guide"),
        ("apply_lora", "false", "model"),
        ("precision", "16", "model"),
    }
    assert (warnings, problems) == ([], [])


def test_a_model_s_default_that_is_no_input_is_left_out_with_a_warning() -> None:
    """`learning_rate_min` stands in the tag and not in the component; the guide's notebook crashes on it."""
    merged, notes, problems = merge(INPUTS, {"learning_rate_min": 5e-7}, {})

    assert notes == ["Ignored the model's default 'learning_rate_min': the component has no such input."]
    assert "learning_rate_min" not in {parameter.name for parameter in merged}
    assert problems == []


def test_a_user_s_parameter_that_is_no_input_is_refused_with_a_suggestion() -> None:
    """A typing error does not cost a training run."""
    _, _, problems = merge(INPUTS, {}, {"learning_rat": 1e-3})

    assert problems == ["training.learning_rat is not an input of the component. Did you mean 'learning_rate'?"]


def test_an_input_that_the_flow_sets_is_refused() -> None:
    """Files and computes have sections of their own."""
    _, _, problems = merge(INPUTS, {}, {"train_file_path": "x.jsonl"})

    assert problems == ["training.train_file_path is set by the flow; use the section `data`."]


@pytest.mark.parametrize(
    ("name", "value", "converted"),
    [
        ("apply_lora", True, "true"),
        ("precision", 16, "16"),
        ("learning_rate", "5e-6", 5e-06),
        ("num_train_epochs", "3", 3),
        ("num_train_epochs", 3.0, 3),
    ],
)
def test_a_value_takes_the_input_s_own_type(name: str, value: object, converted: object) -> None:
    """YAML and tags write numbers as text and truth as booleans."""
    assert convert(value, INPUTS[name]) == converted


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("apply_lora", "yes", "one of true, false"),
        ("precision", 8, "one of 32, 16"),
        ("num_train_epochs", 0, "at least 1"),
        ("num_train_epochs", 1.5, "whole number"),
        ("num_train_epochs", True, "whole number"),
        ("learning_rate", "fast", "a number"),
    ],
)
def test_a_value_that_the_component_would_not_take_is_refused(name: str, value: object, message: str) -> None:
    """The SDK checks neither enum nor minimum of a registry component."""
    with pytest.raises(ValueError, match=message):
        convert(value, INPUTS[name])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("learning_rate", -1, "above 0"),
        ("learning_rate", 0, "above 0"),
        ("learning_rate", "nan", "a number"),
        ("gradient_accumulation_steps", 0, "1 or more"),
        ("max_steps", 0, "1 or more, or -1"),
        ("warmup_steps", -5, "0 or more"),
        ("lora_dropout", 1, "below 1"),
        ("adam_epsilon", 0, "above 0"),
    ],
)
@pytest.mark.parametrize("source", ["model", "user"])
def test_a_value_without_a_meaning_is_refused(name: str, value: int | str, words: str, source: str) -> None:
    """Where the component's contract leaves it open, and a job would fail on it."""
    kind = "number" if name in ("learning_rate", "lora_dropout", "adam_epsilon") else "integer"
    given = {name: value}
    model, user = (given, {}) if source == "model" else ({}, given)

    _, _, problems = merge({name: ComponentInput(type=kind)}, model, user)

    assert problems == [f"training.{name} = {value!r} ({source}): expected {problems[0].partition('expected ')[2]}"]
    assert words in problems[0]


def test_the_component_s_own_default_is_taken_at_its_word() -> None:
    """Whatever it is."""
    merged, _, problems = merge({"warmup_steps": ComponentInput(type="integer", default=-1)}, {}, {})

    assert (problems, merged[0].value) == ([], -1)


def test_every_bounded_parameter_is_an_input_of_the_component() -> None:
    """A misspelt name would bound nothing; the component's contract is the registry's."""
    registry = Path(__file__).resolve().parent.parent / "azureml_emulator" / "registry" / "components"
    (file,) = (registry / "chat_completion_pipeline").glob("*.yaml")
    contract = yaml.safe_load(file.read_text(encoding="utf-8"))

    assert BOUNDS.keys() - contract["inputs"].keys() == set()

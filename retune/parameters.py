"""Training parameters: where each value comes from, checked against the live component's own inputs.

Precedence: component default < guide's default < model's default < the user's. A model's default that the
component does not know is left out with a note; a user's is refused with a suggestion.
Nothing here talks to a network.
"""

import ast
import difflib
import json
import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from retune.bounds import BOUNDS
from retune.report import Parameter
from retune.request import ParameterValue

Source = Literal["component", "guide", "model", "user"]
COMPONENT: Source = "component"
# Source: the training and optimisation parameters of Microsoft's chat-completion fine-tuning notebook.
GUIDE_DEFAULTS: dict[str, ParameterValue] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "learning_rate": 5e-6,
    "lr_scheduler_type": "cosine",
    "apply_lora": "true",
    "apply_deepspeed": "true",
    "deepspeed_stage": 2,
}
# Set by the flow from other sections of the request.
RESERVED = {
    "train_file_path": "data",
    "validation_file_path": "data",
    "test_file_path": "data",
    "mlflow_model_path": "model",
    "pytorch_model_path": "model",
    "compute_model_import": "compute",
    "compute_preprocess": "compute",
    "compute_finetune": "compute",
    "compute_model_evaluation": "compute",
    "instance_type_model_import": "compute",
    "instance_type_preprocess": "compute",
    "instance_type_finetune": "compute",
    "instance_type_model_evaluation": "compute",
    "number_of_gpu_to_use_finetuning": "compute",
}


class ComponentInput(BaseModel):
    """One input of the pipeline component, as the registry describes it."""

    model_config = ConfigDict(frozen=True)

    type: str
    default: ParameterValue | None = None
    enum: list[str] | None = None
    minimum: float | None = None
    maximum: float | None = None


def read_tag(text: str | None) -> object:
    """The value of a model's tag: JSON, Python literal or comma-separated text; None when empty or missing.

    The registry holds all three forms, depending on which tool published the model.
    """
    text = (text or "").strip()
    if not text:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError):
            continue
    return [part.strip() for part in text.split(",") if part.strip()]


def read_defaults(text: str | None) -> dict[str, ParameterValue]:
    """The parameters in a model's tag with its own defaults; none when the tag is empty or holds something else."""
    defaults = read_tag(text)
    if not isinstance(defaults, dict):
        return {}
    values = {str(name): value for name, value in defaults.items() if value is not None}
    return {name: value if isinstance(value, bool | int | float) else str(value) for name, value in values.items()}


def merge(
    inputs: dict[str, ComponentInput], model_defaults: dict[str, ParameterValue], user: dict[str, ParameterValue]
) -> tuple[list[Parameter], list[str], list[str]]:
    """The parameters to pass, notes, and the problems that make the request unusable."""
    problems = [_unknown(name, inputs) for name in user if name not in inputs]
    problems += [
        f"training.{name} is set by the flow; use the section `{RESERVED[name]}`." for name in user if name in RESERVED
    ]
    notes = [
        f"Ignored the model's default '{name}': the component has no such input."
        for name in model_defaults
        if name not in inputs
    ]
    layers: list[tuple[Source, dict[str, ParameterValue]]] = [
        ("guide", GUIDE_DEFAULTS),
        ("model", model_defaults),
        ("user", user),
    ]
    chosen: dict[str, tuple[ParameterValue, Source]] = {}
    for source, layer in layers:
        chosen |= {name: (value, source) for name, value in layer.items() if name in inputs}
    merged = []
    for name, spec in inputs.items():
        if name in RESERVED:
            continue
        value, source = chosen.get(name, (spec.default, COMPONENT))
        if value is None:
            continue
        try:
            converted = convert(value, spec)
            # What the component itself gives is right by its own word.
            if source != COMPONENT:
                check_bound(name, converted)
            merged.append(Parameter(name=name, value=converted, source=source))
        except ValueError as error:
            problems.append(f"training.{name} = {value!r} ({source}): {error}")
    return merged, notes, problems


def convert(value: ParameterValue, spec: ComponentInput) -> ParameterValue:
    """The value in the input's own type, e.g. True -> 'true' for a text, '5e-6' -> 5e-06 for a number.

    Raises:
        ValueError: it is not of that type, not one of the allowed values, or out of range.
    """
    match spec.type:
        case "integer":
            converted = _number(value, "a whole number")
            if converted != int(converted):
                raise ValueError("expected a whole number.")
            converted = int(converted)
        case "number":
            converted = _number(value, "a number")
        case "boolean":
            converted = str(value).lower() == "true"
            if str(value).lower() not in ("true", "false"):
                raise ValueError("expected true or false.")
        case _:
            converted = str(value).lower() if isinstance(value, bool) else str(value)
    if spec.enum and str(converted) not in spec.enum:
        raise ValueError(f"expected one of {', '.join(spec.enum)}.")
    if isinstance(converted, str):
        return converted
    if spec.minimum is not None and converted < spec.minimum:
        raise ValueError(f"expected at least {spec.minimum:g}.")
    if spec.maximum is not None and converted > spec.maximum:
        raise ValueError(f"expected at most {spec.maximum:g}.")
    return converted


def check_bound(name: str, value: ParameterValue) -> None:
    """Raises: ValueError, the value makes no sense for this parameter."""
    bound = BOUNDS.get(name)
    if bound and isinstance(value, int | float) and not bound.holds(value):
        raise ValueError(f"expected {bound.words}.")


def _number(value: ParameterValue, expected: str) -> float:
    if isinstance(value, bool):
        raise ValueError(f"expected {expected}.")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"expected {expected}.") from None
    if not math.isfinite(number):
        raise ValueError(f"expected {expected}.")
    return number


def _unknown(name: str, inputs: dict[str, ComponentInput]) -> str:
    close = difflib.get_close_matches(name, inputs, n=1)
    return f"training.{name} is not an input of the component." + (f" Did you mean '{close[0]}'?" if close else "")

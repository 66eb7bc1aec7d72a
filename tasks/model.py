"""The foundation model, the pipeline component and the training parameters, read and checked; creates nothing.

Source: the guide's model and parameter cells; the traps of tags that moved and defaults that are no inputs.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from retune import names
from retune.errors import BadRequest
from retune.parameters import ComponentInput, merge, read_defaults, read_tag
from retune.report import FoundationModel, Parameter, Part
from retune.request import Request
from retune_cloud import workspace as cloud
from retune_cloud.answers import member, required
from tasks.showing import show_parameters
from tasks.step import repeatable_step

if TYPE_CHECKING:
    from azure.ai.ml import Input, MLClient
    from azure.ai.ml.entities import Component, Model

log = logging.getLogger("retune.model")

T = TypeVar("T")

OUTPUT = "mlflow_model_folder"
# What the guide calls its data.
GUIDE_NAMES = {"ultrachat_200k": "ultrachat"}


class ModelFacts(Part):
    """What the registry says about the model and the component, and the merged parameters."""

    model: FoundationModel
    component_version: str
    inputs: list[str]
    parameters: list[Parameter]
    finetune_sizes: list[str] | None
    inference_sizes: list[str] | None


@repeatable_step
def read_model(request: Request) -> ModelFacts:
    """The model by version or label `latest`, its allowed sizes and defaults, and the parameters to train with.

    Raises:
        BadRequest: model or component do not exist, the component lacks what the flow needs, or parameters are wrong.
    """
    workspace, settings = request.workspace, request.model
    registry = cloud.registry_client(workspace, workspace.registry)
    components = cloud.registry_client(workspace, workspace.component_registry).components
    model = _get(registry.models.get, "Model", settings.name, settings.version, workspace.registry)
    component = _get(
        components.get, "Component", settings.component, settings.component_version, workspace.component_registry
    )
    inputs = {name: _component_input(spec) for name, spec in component.inputs.items()}
    defaults = read_defaults((model.tags or {}).get("model_specific_defaults"))
    parameters, notes, problems = merge(inputs, defaults, request.training)
    problems += _contract_problems(request, component)
    if problems:
        raise BadRequest(problems)
    about = _registry_properties(registry, model)
    archived = bool(member(about, "isArchived")) or str(member(about, "stage")).lower() == "archived"
    retirement = _retirement_date(about)
    warnings = _age_warnings(model, archived, retirement)
    for warning in warnings:
        log.warning(warning)
    # Nobody but the model's publisher can change them.
    for note in notes:
        log.info(note)
    log.info("%s:%s with %s:%s", model.name, model.version, component.name, component.version)
    show_parameters(parameters)
    return ModelFacts(
        model=FoundationModel(
            name=required(model.name, "the model's name"),
            version=required(model.version, "the model's version"),
            id=required(model.id, "the model's id"),
            component=f"{component.name}:{component.version}",
            archived=archived,
            retirement_date=retirement,
            warnings=warnings,
        ),
        component_version=required(component.version, "the component's version"),
        inputs=list(inputs),
        parameters=parameters,
        finetune_sizes=_sizes(about, "finetune_compute_allow_list", "finetuneComputes"),
        inference_sizes=_sizes(about, "inference_compute_allow_list", "inferenceComputes"),
    )


def display_name(model: str, source: str, parameters: list[Parameter], gpus_per_node: int, nodes: int) -> str:
    """The guide's display name, e.g. `Phi-3-mini-4k-instruct-ultrachat-bs8-cosine-ds2-lora-save_limit1-seqlen-1`.

    Other data has its own name in the place of `ultrachat`.
    """
    data = names.data_name(source)
    value = {parameter.name: parameter.value for parameter in parameters}
    batch = (
        int(value.get("per_device_train_batch_size", 1))
        * int(value.get("gradient_accumulation_steps", 1))
        * max(gpus_per_node, 1)
        * nodes
    )
    deepspeed = f"ds{value.get('deepspeed_stage', 2)}" if value.get("apply_deepspeed") == "true" else "nods"
    lora = "lora" if value.get("apply_lora") == "true" else "nolora"
    return (
        f"{model}-{GUIDE_NAMES.get(data, data)}-bs{batch}-{value.get('lr_scheduler_type', 'linear')}-{deepspeed}-{lora}"
        f"-save_limit{value.get('save_total_limit', -1)}-seqlen{value.get('max_seq_length', -1)}"
    )


def _get(read: Callable[..., T], kind: str, name: str, version: str, registry: str) -> T:
    """The model or component of that version, which may be `latest`."""
    from azure.ai.ml.exceptions import ValidationException
    from azure.core.exceptions import ResourceNotFoundError

    selector = {"label": "latest"} if version == "latest" else {"version": version}
    try:
        return read(name, **selector)
    except (ResourceNotFoundError, ValidationException) as error:
        keys = "model.name and model.version" if kind == "Model" else "model.component and model.component_version"
        raise BadRequest([f"{kind} '{name}' ({version}) is not in registry '{registry}'. Check {keys}."]) from error


def _component_input(spec: "Input") -> ComponentInput:
    return ComponentInput(
        type=spec.type,
        default=spec.default,
        enum=[str(value) for value in spec.enum] if spec.enum else None,
        minimum=spec.min,
        maximum=spec.max,
    )


def _contract_problems(request: Request, component: "Component") -> list[str]:
    """What the flow needs of the component and does not find."""
    needed = [request.model.path_input, "train_file_path", "validation_file_path", "test_file_path"]
    version = f"{component.name}:{component.version}"
    problems = [
        f"Component '{version}' has no input '{name}'. Choose another model.component_version."
        for name in needed
        if name not in component.inputs
    ]
    if OUTPUT not in component.outputs:
        problems.append(
            f"Component '{version}' has no output '{OUTPUT}' "
            f"(it has {', '.join(component.outputs)}). Choose another model.component_version."
        )
    return problems


def _registry_properties(client: "MLClient", model: "Model") -> object:
    """The properties of a model version as the registry sends them, `systemMetadata` and `isArchived` included.

    In 2026 allow lists and dates moved there from the tags; `Model`, which `models.get` returns, has room for neither.
    """
    return dict(client.models._get(model.name, model.version)["properties"])


def _system_metadata(about: object) -> object:
    return member(about, "systemMetadata") or member(about, "system_metadata")


def _sizes(about: object, tag: str, key: str) -> list[str] | None:
    """The VM sizes that the model may use, lower case; None when neither the tag nor the metadata says."""
    text = member(about, "tags", tag)
    sizes = read_tag(text if isinstance(text, str) else None)
    sizes = sizes or member(_system_metadata(about), "supportedComputes", key)
    return [str(size).lower() for size in sizes] if isinstance(sizes, list) and sizes else None


def _retirement_date(about: object) -> str | None:
    """The day after which fine-tuning is not offered, `YYYY-MM-DD`; None when the registry gives none."""
    date = member(_system_metadata(about), "deprecation", "finetuneRetirementDate")
    text = date or member(about, "tags", "FinetuneRetirementDate")
    return str(text)[:10] if text else None


def _age_warnings(model: "Model", archived: bool, retirement: str | None) -> list[str]:
    warnings = []
    if archived:
        warnings.append(f"Model '{model.name}:{model.version}' is archived. Plan a move to another model.")
    if retirement and retirement < datetime.now(UTC).date().isoformat():
        warnings.append(f"Model '{model.name}:{model.version}' is past its retirement date {retirement}.")
    return warnings

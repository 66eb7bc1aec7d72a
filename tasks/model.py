"""The foundation model, the pipeline component and the training parameters, read and checked; creates nothing.

Source: the guide's model and parameter cells; the traps of tags that moved and defaults that are no inputs.
"""

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from retune import names
from retune.errors import BadRequest
from retune.parameters import ComponentInput, merge, read_tag
from retune.report import FoundationModel, Parameter, Part
from retune.request import Request
from retune_cloud import workspace as cloud
from tasks.showing import show_parameters
from tasks.step import repeatable_step

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Model, PipelineComponent

log = logging.getLogger("retune.model")

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
    where = request.workspace
    asked = request.model
    model = _get(cloud.registry_client(where, where.registry), "models", asked.name, asked.version, where.registry)
    component = _get(
        cloud.registry_client(where, where.component_registry),
        "components",
        asked.component,
        asked.component_version,
        where.component_registry,
    )
    inputs = {name: _component_input(spec) for name, spec in component.inputs.items()}
    defaults = read_tag(model.tags.get("model_specific_defaults")) or {}
    parameters, warnings, problems = merge(inputs, defaults, request.training)
    problems += _contract_problems(request, component)
    if problems:
        raise BadRequest(problems)
    about = _registry_properties(cloud.registry_client(where, where.registry), model)
    archived = bool(about.get("isArchived")) or str(about.get("stage")).lower() == "archived"
    retirement = _retirement_date(about)
    warnings = _age_warnings(model, archived, retirement) + warnings
    for warning in warnings:
        log.warning(warning)
    log.info("%s:%s with %s:%s", model.name, model.version, component.name, component.version)
    show_parameters(parameters)
    return ModelFacts(
        model=FoundationModel(
            name=model.name,
            version=model.version,
            id=model.id,
            component=f"{component.name}:{component.version}",
            archived=archived,
            retirement_date=retirement,
            warnings=warnings,
        ),
        component_version=component.version,
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


def _get(client: "MLClient", kind: str, name: str, version: str, registry: str) -> "Model | PipelineComponent":
    from azure.ai.ml.exceptions import ValidationException
    from azure.core.exceptions import ResourceNotFoundError

    wanted = {"label": "latest"} if version == "latest" else {"version": version}
    try:
        return getattr(client, kind).get(name, **wanted)
    except (ResourceNotFoundError, ValidationException) as error:
        section = "model.name and model.version" if kind == "models" else "model.component and model.component_version"
        raise BadRequest(
            [f"{kind[:-1].capitalize()} '{name}' ({version}) is not in registry '{registry}'. Check {section}."]
        ) from error


def _component_input(spec: object) -> ComponentInput:
    enum = getattr(spec, "enum", None)
    return ComponentInput(
        type=spec.type,
        default=spec.default,
        enum=[str(value) for value in enum] if enum else None,
        minimum=getattr(spec, "min", None),
        maximum=getattr(spec, "max", None),
    )


def _contract_problems(request: Request, component: "PipelineComponent") -> list[str]:
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


def _registry_properties(client: "MLClient", model: "Model") -> dict[str, object]:
    """The properties of a model version as the registry sends them, `systemMetadata` and `isArchived` included.

    In 2026 allow lists and dates moved there from the tags; `Model`, which `models.get` returns, has room for neither.
    """
    return dict(client.models._get(model.name, model.version)["properties"])


def _system_metadata(about: dict[str, object]) -> dict[str, dict]:
    return about.get("systemMetadata") or about.get("system_metadata") or {}


def _sizes(about: dict[str, object], tag: str, key: str) -> list[str] | None:
    """The VM sizes that the model may use, lower case; None when neither the tag nor the metadata says."""
    computes = _system_metadata(about).get("supportedComputes") or {}
    sizes = read_tag((about.get("tags") or {}).get(tag)) or computes.get(key)
    return [size.lower() for size in sizes] if sizes else None


def _retirement_date(about: dict[str, object]) -> str | None:
    """The day after which fine-tuning is not offered, `YYYY-MM-DD`; None when the registry gives none."""
    deprecation = _system_metadata(about).get("deprecation") or {}
    text = deprecation.get("finetuneRetirementDate") or (about.get("tags") or {}).get("FinetuneRetirementDate")
    return str(text)[:10] if text else None


def _age_warnings(model: "Model", archived: bool, retirement: str | None) -> list[str]:
    warnings = []
    if archived:
        warnings.append(f"Model '{model.name}:{model.version}' is archived. Plan a move to one that is not.")
    if retirement and retirement < datetime.now(UTC).date().isoformat():
        warnings.append(f"Model '{model.name}:{model.version}' is past its retirement date {retirement}.")
    return warnings

"""Build, and submit or take over, the training job; `tasks.job_end` waits for it.

The job's name is derived from the run's key and attempt, so a repeated submission finds the job instead of making a
second one.
"""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from retune import names
from retune.errors import CloudError
from retune.report import ComputeUsed, Part, PreparedData
from retune.report import Job as JobReport
from retune.request import ParameterValue, Request
from retune.waiting import poll
from retune_cloud import ledger
from retune_cloud import workspace as cloud
from retune_cloud.answers import required
from retune_cloud.ledger import job_status
from retune_cloud.sdk_errors import first_line, if_exists, is_transient
from tasks.compute import SERVERLESS
from tasks.model import OUTPUT, ModelFacts, display_name
from tasks.step import repeatable_step

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Component, Job, PipelineJob

log = logging.getLogger("retune.job")

NODE, TRAINED_MODEL = "chat_completion", "trained_model"
# A job that another execution has just submitted may take a moment to be visible.
VISIBLE_SECONDS = 10
STEPS = ("model_import", "preprocess", "finetune", "model_evaluation")


class Submission(Part):
    """A job that the service has accepted."""

    job: JobReport
    key: str
    attempt: int
    # The start of the run that follows the job.
    holder: str
    # As far as the job's parameters say.
    epochs: float | None = None


@repeatable_step
def submit_job(
    request: Request, key: str, holder: str, model: ModelFacts, compute: ComputeUsed, data: PreparedData
) -> Submission:
    """The run's job, newly submitted or already there, held by `holder` from now on.

    A job that failed or was cancelled makes the next attempt.

    Raises:
        CloudError: `JobRefused`, with the service's words, or `RunKeyTaken`, with what differs, when the key stands for
            another request.
    """
    client = cloud.workspace_client(request.workspace)
    attempt, present = _next_attempt(client, key)
    attached = present is not None
    if present is None:
        present, attached = _create(client, request, key, attempt, holder, model, compute, data)
    if attached:
        _check_same(present, request, key, data)
        if job_status(present) not in ledger.ENDED:
            log.info("%s is %s", present.name, job_status(present))
        ledger.renew_lease(request.workspace, names.job_name(key, attempt), request.limits.lease_minutes, holder)
    log.info("%s %s", "took over" if attached else "submitted", present.name)
    epochs = next((float(item.value) for item in model.parameters if item.name == "num_train_epochs"), None)
    return Submission(job=_report(present, attached), key=key, attempt=attempt, holder=holder, epochs=epochs)


def build_pipeline(
    request: Request, model: ModelFacts, compute: ComputeUsed, data: PreparedData, component: "Component"
) -> "PipelineJob":
    """The guide's pipeline: one node of the registry component, its inputs, and the output `trained_model`."""
    from azure.ai.ml import Input, Output
    from azure.ai.ml.entities import PipelineJob

    inputs: dict[str, ParameterValue | Input] = {
        parameter.name: parameter.value for parameter in model.parameters if parameter.source != "component"
    }
    inputs[request.model.path_input] = Input(type=component.inputs[request.model.path_input].type, path=model.model.id)
    kind, value = ("instance_type", compute.size) if compute.name == SERVERLESS else ("compute", compute.name)
    inputs |= {f"{kind}_{step}": value for step in STEPS if f"{kind}_{step}" in model.inputs}
    if "number_of_gpu_to_use_finetuning" in model.inputs:
        inputs["number_of_gpu_to_use_finetuning"] = compute.gpus_per_node
    # As inputs of the job itself, the data assets lead from their own pages to the job.
    files: dict[str, Input | str | bool | int | float] = {
        f"{role}_file_path": Input(type="uri_file", path=asset) for role, asset in data.assets.items()
    }
    node = component(**inputs, **{name: f"${{{{parent.inputs.{name}}}}}" for name in files})
    node.name = NODE
    node.outputs[OUTPUT] = f"${{{{parent.outputs.{TRAINED_MODEL}}}}}"
    # Not the decorator `dsl.pipeline`, which looks its caller up in the source of every loaded module.
    pipeline = PipelineJob(
        jobs={NODE: node}, inputs=files, outputs={TRAINED_MODEL: Output(type=component.outputs[OUTPUT].type)}
    )
    assert pipeline.settings is not None
    pipeline.settings.force_rerun = True
    pipeline.settings.continue_on_step_failure = False
    return pipeline


def _next_attempt(client: "MLClient", key: str) -> "tuple[int, Job | None]":
    """The number of the attempt to make, and its job when there is one to take over."""
    for attempt in range(1, ledger.ATTEMPTS + 1):
        job = _find(client, names.job_name(key, attempt))
        if job is None or job_status(job) not in ledger.ENDED_BADLY:
            return attempt, job
    raise CloudError(
        "TooManyAttempts",
        f"All {ledger.ATTEMPTS} attempts of run '{key}' failed or were cancelled.",
        "Look at the last one's error, then start a run with another key.",
    )


def _check_same(job: "Job", request: Request, key: str, data: PreparedData) -> None:
    """Raise RunKeyTaken, with what differs, when the job was submitted for another request or other data."""
    before = names.read_request(job.properties)
    if before is None:
        different = ["a request that cannot be read"]
    else:
        submitted, requested = (dict(_training_settings(each)) for each in (before, request))
        different = [
            f"{name} {submitted.get(name)!r} (this request: {requested.get(name)!r})"
            for name in sorted(submitted.keys() | requested.keys())
            if submitted.get(name) != requested.get(name)
        ]
    content = ((job.tags or {}).get(names.DATA_TAG), data.splits["train"].sha256)
    if not different and content[0] != content[1]:
        different = [f"training rows with sha256 {str(content[0])[:12]} (this request: {content[1][:12]})"]
    if different:
        raise CloudError(
            "RunKeyTaken",
            f"Run key '{key}' was used for a different request: job '{job.name}' has {'; '.join(different)}.",
            "Use another run key, or repeat the first request unchanged.",
        )


def _training_settings(request: Request) -> Iterator[tuple[str, object]]:
    """What decides the trained model, as dotted key and value."""
    for section, values in request.model_dump(mode="json", include={"model", "data", "compute", "training"}).items():
        for name, value in values.items():
            yield f"{section}.{name}", value


def _create(
    client: "MLClient",
    request: Request,
    key: str,
    attempt: int,
    holder: str,
    model: ModelFacts,
    compute: ComputeUsed,
    data: PreparedData,
) -> "tuple[Job, bool]":
    """The job and whether another submission was first."""
    from azure.core.exceptions import HttpResponseError

    workspace = request.workspace
    component = cloud.registry_client(workspace, workspace.component_registry).components.get(
        request.model.component, version=model.component_version
    )
    pipeline = build_pipeline(request, model, compute, data, component)
    name = pipeline.name = names.job_name(key, attempt)
    nodes = next((int(p.value) for p in model.parameters if p.name == "num_nodes_finetune"), 1)
    pipeline.display_name = display_name(
        model.model.name, request.data.source, model.parameters, compute.gpus_per_node, nodes
    )
    pipeline.tags = (
        names.tags(key, attempt)
        | names.lease_tags(request.limits.lease_minutes, holder)
        | {names.DATA_TAG: data.splits["train"].sha256}
    )
    pipeline.properties = names.request_properties(request)
    try:
        # The service checks all that the SDK would check first, for half a second of processor time.
        created = client.jobs.create_or_update(
            pipeline, experiment_name=f"chat_completion_{model.model.name}", skip_validation=True
        )
        return created, False
    except HttpResponseError as error:
        if is_transient(error):
            raise
        taken = error.status_code in (400, 409)
        if taken and (present := poll(lambda: _find(client, name), seconds=VISIBLE_SECONDS, every=1)):
            return present, True
        raise CloudError(
            "JobRefused",
            f"Job '{name}' was refused: {first_line(error)}",
            "Correct the request as the service says.",
        ) from error


def _find(client: "MLClient", name: str) -> "Job | None":
    return if_exists(lambda: client.jobs.get(name))


def _report(job: "Job", attached: bool) -> JobReport:
    name = required(job.name, "the job's name")
    return JobReport(
        name=name,
        display_name=job.display_name or name,
        experiment=required(job.experiment_name, f"the experiment of job '{name}'"),
        status=job_status(job),
        attached=attached,
        created=ledger.creation_time(job),
        studio_url=job.studio_url if cloud.portal() else None,
    )

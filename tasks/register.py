"""The job's output becomes a version of a model, with its lineage in tags."""

import logging

from retune import names
from retune.report import Decision, PreparedData, RegisteredModel
from retune.request import Request
from retune_cloud import ledger
from retune_cloud import workspace as cloud
from retune_cloud.answers import required
from retune_cloud.sdk_errors import refusal
from tasks.job import TRAINED_MODEL, Submission
from tasks.model import ModelFacts
from tasks.step import repeatable_step
from tasks.unchanged import training_digest

log = logging.getLogger("retune.register")


@repeatable_step
def register_model(
    request: Request,
    submission: Submission,
    model: ModelFacts,
    data: PreparedData,
    decision: Decision | None = None,
) -> RegisteredModel:
    """The model version of this job; a repeat finds the existing one.

    Raises:
        CloudError: `RegistrationRefused`, with the service's words.
    """
    from azure.ai.ml.entities import Model

    job = submission.job
    name = names.registered_model_name(request)
    created = required(job.created, "the creation time of the job")
    version = names.model_version(created, submission.key, submission.attempt)
    lineage = names.tags(submission.key, submission.attempt) | {
        names.TRAINING_DIGEST_TAG: training_digest(request, model, data),
        "job": job.name,
        "base_model": f"{model.model.name}:{model.model.version}",
        "component": model.model.component,
        "data": data.source,
        "data_revision": data.revision,
        "data_train_sha256": data.splits["train"].sha256,
    }
    lineage |= {f"data_{role}_asset": names.asset_reference(asset) for role, asset in data.assets.items()}
    if decision:
        lineage |= names.decision_tags(decision)
    present = ledger.find_model(request.workspace, name, version)
    if present is None:
        registered = Model(
            name=name,
            version=version,
            type="mlflow_model",
            path=f"azureml://jobs/{job.name}/outputs/{TRAINED_MODEL}",
            description=f"{model.model.name} fine-tuned on {data.source} by job {job.name}.",
            tags=lineage,
        )
        with refusal(
            "RegistrationRefused",
            f"Model '{name}' version '{version}' was refused",
            "Correct model.registered_name, or look at the job's output in Azure ML studio.",
        ):
            registered = cloud.workspace_client(request.workspace).models.create_or_update(registered)
    else:
        registered = present
    log.info("%s:%s", name, version)
    asset_id = required(registered.id, f"the id of model '{name}'")
    return RegisteredModel(name=name, version=version, id=asset_id, attached=present is not None)

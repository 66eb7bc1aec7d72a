"""The job's output becomes a version of a model, with its lineage in tags."""

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE

from retune import names
from retune.errors import CloudError
from retune.report import Decision, PreparedData, RegisteredModel
from retune.request import Request
from retune_cloud import sdk_errors
from retune_cloud import workspace as cloud
from retune_cloud.sdk_errors import first_line
from tasks.job import TRAINED_MODEL, Submission
from tasks.model import ModelFacts
from tasks.retrying import HARMLESS, is_transient
from tasks.unchanged import made_from

log = logging.getLogger("retune.register")


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=is_transient, **HARMLESS)
def register_model(
    request: Request,
    submission: Submission,
    model: ModelFacts,
    data: PreparedData,
    decision: Decision | None = None,
) -> RegisteredModel:
    """The model version of this job: a repeat finds the one that is there.

    Raises:
        CloudError: `RegistrationRefused`, with the service's words.
    """
    from azure.ai.ml.entities import Model
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    client = cloud.workspace_client(request.workspace)
    job = submission.job
    name = names.registered_model_name(request)
    version = names.model_version(job.created, submission.key, submission.attempt)
    lineage = names.tags(submission.key, submission.attempt) | {
        names.MADE_FROM_TAG: made_from(request, model, data),
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
    attached = True
    try:
        made = client.models.get(name, version=version)
    except ResourceNotFoundError:
        attached = False
        try:
            made = client.models.create_or_update(
                Model(
                    name=name,
                    version=version,
                    type="mlflow_model",
                    path=f"azureml://jobs/{job.name}/outputs/{TRAINED_MODEL}",
                    description=f"{model.model.name} fine-tuned on {data.source} by job {job.name}.",
                    tags=lineage,
                )
            )
        except HttpResponseError as error:
            if sdk_errors.is_transient(error):
                raise
            raise CloudError(
                "RegistrationRefused",
                f"Model '{name}' version '{version}' was refused: {first_line(error)}",
                "Correct model.registered_name, or look at the job's output in Azure ML studio.",
            ) from error
    log.info("%s:%s", made.name, made.version)
    return RegisteredModel(name=made.name, version=made.version, id=made.id, attached=attached)

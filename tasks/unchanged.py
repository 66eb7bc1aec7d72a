"""Whether the last verified model was trained from the same inputs: then there is nothing to train.

A model is verified when its endpoint has answered: its job has a tag for that. The digest of its inputs is a tag of the
model. Only the workspace is read, so the answer is the same on any machine.
"""

import hashlib
import inspect
import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from retune import names, parameters
from retune.report import PreparedData, RegisteredModel
from retune.request import Request
from retune_cloud import ledger
from retune_cloud import workspace as cloud
from retune_cloud.answers import required
from retune_cloud.sdk_errors import first_line, if_exists
from tasks import job, model
from tasks.job import Submission
from tasks.model import ModelFacts
from tasks.step import repeatable_step

if TYPE_CHECKING:
    from azure.ai.ml.entities import Model

log = logging.getLogger("retune.unchanged")

# The code that decides what is trained; that which prepares the data shows in the data's content.
TRAINING_CODE = (job, model, parameters)


def training_digest(request: Request, model: ModelFacts, data: PreparedData) -> str:
    """Digest of everything that decides what the trained model will be."""
    ingredients = {
        "data": {role: split.sha256 for role, split in data.splits.items()},
        "model": model.model.id,
        "component": [request.workspace.component_registry, model.model.component],
        "parameters": {parameter.name: parameter.value for parameter in model.parameters},
        "code": [inspect.getsource(module) for module in TRAINING_CODE],
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:32]


@repeatable_step
def find_same_model(request: Request, model: ModelFacts, data: PreparedData) -> RegisteredModel | None:
    """The last verified model, if it was trained from the same inputs; creates nothing."""
    client = cloud.workspace_client(request.workspace)
    listed = if_exists(lambda: list(client.models.list(name=names.registered_model_name(request))))
    versions = sorted(listed or [], key=ledger.creation_time, reverse=True)
    last = next((version for version in versions if _is_verified(request, version)), None)
    if last is None or (last.tags or {}).get(names.TRAINING_DIGEST_TAG) != training_digest(request, model, data):
        return None
    log.info("nothing has changed since %s:%s", last.name, last.version)
    return RegisteredModel(
        name=required(last.name, "the model's name"),
        version=required(last.version, "the model's version"),
        id=required(last.id, "the model's id"),
        attached=True,
    )


@repeatable_step
def mark_verified(request: Request, submission: Submission) -> None:
    """Write into the job's tags that its model has answered. Without the tag the next run trains in any case."""
    from azure.core.exceptions import AzureError

    try:
        ledger.mark_verified(request.workspace, submission.job.name, datetime.now(UTC))
    except AzureError as error:
        log.warning("%s could not be marked as verified: %s", submission.job.name, first_line(error))


def _is_verified(request: Request, version: "Model") -> bool:
    """Whether a run of Retune made the model and its endpoint has answered."""
    run = names.read_tags(version.tags)
    job = ledger.find_job(request.workspace, *run) if run else None
    return job is not None and job.verified

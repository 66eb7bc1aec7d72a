"""Endpoint, deployment and traffic: the model behind a managed online endpoint, for the smoke test only.

Whoever calls `create_endpoint` calls `retune_cloud.cleanup.delete_endpoint` in a `finally`, whatever happened between.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from retune import names
from retune.errors import CloudError
from retune.report import Endpoint, RegisteredModel
from retune.request import Request
from retune.waiting import poll, wait_for_operation
from retune_cloud import workspace as cloud
from retune_cloud.sdk_errors import first_line, refusal
from tasks.compute import ComputeFacts
from tasks.job import Submission
from tasks.step import repeatable_step

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import OnlineEndpoint
    from azure.core.polling import LROPoller

log = logging.getLogger("retune.deploy")

LOG_LINES = 20
# Source: azure-cli-extensions issue 7660. A name that stays taken belongs to somebody else.
TAKEN = "already an endpoint with this name"
BUSY_SECONDS = 300
BUSY_LOOK_SECONDS = 2
T = TypeVar("T")


@repeatable_step
def create_endpoint(request: Request, endpoint: Endpoint, submission: Submission) -> None:
    """Make the endpoint, ready for a deployment; it carries owner, run key and expiry from its first request.

    Raises:
        CloudError: `EndpointRefused`, with the service's words.
        WaitExpired: it is not ready within limits.deploy_minutes.
    """
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    tags = names.tags(submission.key, submission.attempt) | names.expiry_tag(endpoint.expires)
    tags[names.HOLDER_TAG] = submission.holder
    new_endpoint = ManagedOnlineEndpoint(
        name=endpoint.name, auth_mode="key", tags=tags, description=f"Smoke test of job {submission.job.name}."
    )
    try:
        with refusal(
            "EndpointRefused",
            f"Endpoint '{endpoint.name}' was refused",
            "Correct what the service says; for quota, delete unused endpoints or ask for more.",
        ):
            _put_endpoint(request, new_endpoint, "Creation")
    except CloudError as error:
        # Where nobody waits for this step yet, its failure shows late.
        log.warning("endpoint %s is refused: %s", endpoint.name, first_line(error.__cause__ or error))
        raise
    log.info("endpoint %s is up", endpoint.name)


def plan_endpoint(request: Request, submission: Submission, compute: ComputeFacts) -> Endpoint:
    """The endpoint that the run is going to make, under the name that its deletion will use.

    Where nobody is asked before it is made, it is there while the job waits and runs.
    """
    serving, price, limits = request.serving, compute.serving_price_per_hour_usd, request.limits
    ahead = timedelta(minutes=0 if request.approval.required else limits.queue_minutes + limits.run_minutes)
    workspace_id = cloud.find_address(request.workspace).id
    return Endpoint(
        name=names.endpoint_name(workspace_id, submission.key, submission.attempt, submission.holder),
        deployment=serving.deployment,
        instance_type=serving.instance_type,
        expires=datetime.now(UTC) + ahead + timedelta(hours=serving.expiry_hours),
        price_per_day_usd=price and round(price * serving.instance_count * 24, 2),
    )


@repeatable_step
def keep_endpoint(request: Request, endpoint: Endpoint) -> Endpoint:
    """The endpoint, marked as kept, with the later expiry that serving.keep_hours gives."""
    until = datetime.now(UTC) + timedelta(hours=request.serving.keep_hours)
    current = cloud.workspace_client(request.workspace).online_endpoints.get(endpoint.name)
    current.tags = (current.tags or {}) | names.expiry_tag(until) | {names.KEPT_TAG: "true"}
    _put_endpoint(request, current, "Marking")
    log.warning("endpoint %s stays up until %s UTC", endpoint.name, f"{until:%Y-%m-%d %H:%M}")
    return endpoint.model_copy(update={"kept_until": until, "expires": until, "scoring_uri": current.scoring_uri})


@repeatable_step
def deploy(request: Request, endpoint: Endpoint, model: RegisteredModel) -> Endpoint:
    """The endpoint, with the model deployed and given all traffic; its expiry counts from now.

    Raises:
        CloudError: `DeploymentFailed`, with the service's words and the last lines of the container's log.
        WaitExpired: it is not ready within limits.deploy_minutes.
    """
    from azure.ai.ml.entities import ManagedOnlineDeployment, OnlineRequestSettings, ProbeSettings

    serving = request.serving
    client = cloud.workspace_client(request.workspace)
    deployment = ManagedOnlineDeployment(
        name=endpoint.deployment,
        endpoint_name=endpoint.name,
        model=model.id,
        instance_type=serving.instance_type,
        instance_count=serving.instance_count,
        liveness_probe=ProbeSettings(initial_delay=serving.probe_initial_delay_seconds),
        request_settings=OnlineRequestSettings(request_timeout_ms=serving.request_timeout_seconds * 1000),
    )
    with refusal(
        "DeploymentFailed",
        f"Deployment '{endpoint.deployment}' of {model.name}:{model.version} on {serving.instance_type} failed",
        "Read the log above; for quota, choose another serving.instance_type or ask for more.",
        details=lambda: _last_log_lines(client, endpoint),
    ):
        wait_for_operation(
            _begin_when_idle(lambda: client.online_deployments.begin_create_or_update(deployment)),
            minutes=request.limits.deploy_minutes,
            subject=f"Deployment '{endpoint.deployment}' on endpoint '{endpoint.name}'",
            limit="limits.deploy_minutes",
        )
        log.info("deployment %s is ready", endpoint.deployment)
        expires = datetime.now(UTC) + timedelta(hours=serving.expiry_hours)
        current = client.online_endpoints.get(endpoint.name)
        current.traffic = {endpoint.deployment: 100}
        current.tags = (current.tags or {}) | names.expiry_tag(expires)
        _put_endpoint(request, current, "Traffic update")
    return endpoint.model_copy(update={"expires": expires})


def _put_endpoint(request: Request, endpoint: "OnlineEndpoint", change: str) -> None:
    client = cloud.workspace_client(request.workspace)
    wait_for_operation(
        _begin_when_idle(lambda: client.online_endpoints.begin_create_or_update(endpoint)),
        minutes=request.limits.deploy_minutes,
        subject=f"{change} of endpoint '{endpoint.name}'",
        limit="limits.deploy_minutes",
    )


def _begin_when_idle(begin: "Callable[[], LROPoller[T]]") -> "LROPoller[T]":
    """The operation, begun as soon as the service takes it.

    It answers 409 while an earlier change of the endpoint goes on, and 400 with `TAKEN` for a name that was deleted a
    moment ago.
    """
    from azure.core.exceptions import HttpResponseError

    def begin_unless_busy() -> "LROPoller[T] | None":
        try:
            return begin()
        except HttpResponseError as error:
            if not (error.status_code == 409 or (error.status_code == 400 and TAKEN in str(error))):
                raise
            log.info("the endpoint is busy, trying again: %s", first_line(error))
            return None

    # The last try says what the service says.
    return poll(begin_unless_busy, seconds=BUSY_SECONDS, every=BUSY_LOOK_SECONDS) or begin()


def _last_log_lines(client: "MLClient", endpoint: Endpoint) -> str:
    from azure.core.exceptions import HttpResponseError

    try:
        text = client.online_deployments.get_logs(endpoint.deployment, endpoint.name, lines=LOG_LINES)
    except HttpResponseError:
        return " (no log: the container was not started)"
    return f"\n{text.strip()}" if text.strip() else " (the container's log is empty)"

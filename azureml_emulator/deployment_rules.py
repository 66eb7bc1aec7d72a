"""The limits and defaults of deployments, and the resource that the service shows.

Functions on the stored document: name, endpoint, state, properties, capacity, tags, created, modified, operation.
"""

import math
import re
import time

from azureml_emulator.job_body import variables_of
from azureml_emulator.json_types import Json, number_at, object_at, optional_object, whole_at
from azureml_emulator.names import check_address, refuse_settings
from azureml_emulator.servers import Probe
from azureml_emulator.store import Store
from azureml_emulator.wire import PROVIDER, ServiceError, now
from azureml_emulator.world import World

DURATION = re.compile(r"PT(?:([0-9]{1,6})H)?(?:([0-9]{1,6})M)?(?:([0-9]{1,6}(?:\.[0-9]{1,7})?)S)?")
MOST_TRIES = 1000
# Limits and sizes: https://learn.microsoft.com/azure/machine-learning/how-to-manage-quotas
LONGEST_REQUEST_SECONDS = 180.0
MOST_INSTANCES = 50
# Sizes for which the service keeps no fifth for upgrades.
EXEMPT = re.compile(r"A100|H100|^Standard_ND", re.IGNORECASE)
DEFAULT_PROBE: Json = {
    "failureThreshold": 30,
    "successThreshold": 1,
    "timeout": "PT2S",
    "period": "PT10S",
    "initialDelay": "PT10S",
}
DEFAULT_REQUESTS: Json = {"maxQueueWait": "PT0S", "requestTimeout": "PT5S", "maxConcurrentRequestsPerInstance": 1}


def key_of(endpoint: str, deployment: str) -> str:
    """The key of a deployment's document."""
    return f"{endpoint}/{deployment}".lower()


def checked(body: Json, endpoint: str, name: str) -> Json:
    """The document of a requested deployment, with the service's defaults. Raises: ServiceError 400."""
    requested = dict(optional_object(body, "properties"))
    capacity = whole_at(optional_object(body, "sku"), "capacity") or 1
    kind = requested.get("endpointComputeType")
    if kind != "Managed":
        raise ServiceError(400, "BadArgument", f"endpointComputeType '{kind}' is not served here; use Managed.")
    if not requested.get("model"):
        raise ServiceError(400, "BadArgument", "A deployment needs a model; none was given.")
    if not 1 <= capacity <= MOST_INSTANCES:
        raise ServiceError(400, "BadArgument", f"Instance count {capacity} is not between 1 and {MOST_INSTANCES}.")
    refuse_settings(
        "deployment", requested, "codeConfiguration", "appInsightsEnabled", "modelMountPath", "dataCollector"
    )
    scaling = optional_object(requested, "scaleSettings").get("scaleType") or "Default"
    if scaling != "Default":
        raise ServiceError(400, "BadArgument", f"scaleType '{scaling}' is not served here; use Default.")
    requests = DEFAULT_REQUESTS | non_null(optional_object(requested, "requestSettings"))
    timeout, longest = seconds(requests["requestTimeout"]), LONGEST_REQUEST_SECONDS
    if not 0 < timeout <= longest:
        text = f"Request timeout {timeout * 1000:.0f} ms is not allowed; choose 1 to {longest * 1000:.0f} ms."
        raise ServiceError(400, "BadArgument", text)
    check_address("model", str(requested["model"]))
    settings: Json = {"requestSettings": requests}
    if requested.get("environmentVariables") is not None:
        settings["environmentVariables"] = variables_of(requested, "environmentVariables")
    for side in ("livenessProbe", "readinessProbe"):
        probe_settings = DEFAULT_PROBE | non_null(optional_object(requested, side))
        probe(probe_settings)
        settings[side] = probe_settings
    document: Json = {"name": name, "endpoint": endpoint, "properties": requested | settings, "capacity": capacity}
    return document | {"tags": optional_object(body, "tags"), "modified": now()}


def non_null(settings: Json) -> Json:
    """The settings that have a value."""
    return {name: value for name, value in settings.items() if value is not None}


def seconds(duration: object) -> float:
    """Seconds of an ISO 8601 duration such as PT1M30S. Raises: ServiceError 400 when it is none."""
    match = DURATION.fullmatch(str(duration))
    if match is None or not any(match.groups()):
        raise ServiceError(400, "BadArgument", f"'{duration}' is no duration; write it as PT90S or PT1M30S.")
    hours, minutes, rest = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + rest


def probe(settings: Json) -> Probe:
    """A probe's settings as numbers. Raises: ServiceError 400."""
    for name in ("successThreshold", "failureThreshold"):
        if not 1 <= whole_at(settings, name) <= MOST_TRIES:
            raise ServiceError(400, "BadArgument", f"{name} must be from 1 to {MOST_TRIES}.")
    return Probe(
        initial_delay=seconds(settings["initialDelay"]),
        period=seconds(settings["period"]),
        timeout=seconds(settings["timeout"]),
        success_threshold=whole_at(settings, "successThreshold"),
        failure_threshold=whole_at(settings, "failureThreshold"),
    )


def cores(instance_type: str, size: Json, capacity: int) -> int:
    """Cores of quota that so many instances need, with the fifth that the service keeps for upgrades."""
    instances = capacity if EXEMPT.search(instance_type) else math.ceil(1.2 * capacity)
    return instances * whole_at(size, "vCPUs")


def refused(reason: str) -> ServiceError:
    """A refusal of the inferencing back end, as it reaches the caller."""
    detail = f'{{"errors":{{"VmSize":["{reason}"]}},"title":"One or more validation errors occurred.","status":400}}'
    text = f"The request is invalid. InferencingClient HttpRequest error, error detail: {detail}"
    return ServiceError(400, "BadRequest", text)


def out_of_quota(instance_type: str, subscription: str, usage: int, limit: int, needed: int) -> ServiceError:
    return refused(
        f"Not enough quota available for {instance_type} in SubscriptionId {subscription}. "
        f"Current usage/limit: {usage}/{limit}. Additional needed: {needed} "
        "Please see troubleshooting guide, available here: https://aka.ms/oe-tsg#error-outofquota"
    )


def endpoint_missing(name: str, workspace: str) -> ServiceError:
    text = f"Online endpoint {name} not found in workspace {workspace}"
    return ServiceError(404, "UserError", text, inner_error="NotFoundError")


def find_endpoint(store: Store, name: str) -> Json | None:
    """The stored document of an endpoint (state, keys, lower-case traffic); Updating while a fault keeps it busy."""
    document = store.get("endpoints", name.lower())
    if document and is_busy(document):
        document["state"] = "Updating"
    return document


def is_busy(endpoint: Json) -> bool:
    """Whether a fault keeps the endpoint Updating although its operation has ended."""
    return number_at(endpoint, "busy_until") > time.time()


def in_transition(kind: str, name: str, state: str) -> ServiceError:
    text = f"{kind} {name} is in {state} provisioning state; wait until that operation has ended."
    return ServiceError(409, "Conflict", text)


def canceled(key: str) -> ServiceError:
    return ServiceError(409, "OperationCanceled", f"The operation was canceled: {key} was deleted meanwhile.")


def no_code_variables(model_id: str) -> dict[str, str]:
    """The variables that the service adds to a deployment of an MLflow model without a scoring script."""
    parts = model_id.split("/")
    name, version = (parts[-3], parts[-1]) if len(parts) > 3 else (model_id, "1")
    return {
        "AZUREML_MODEL_DIR": f"/var/azureml-app/azureml-models/{name}/{version}",
        "AZUREML_ENTRY_SCRIPT": "mlflow_score_script.py",
        "AML_APP_ROOT": "/var/mlflow_resources",
    }


def resource(document: Json, world: World, api_version: str, operation_url: str) -> Json:
    """The deployment as the service shows it in that api-version."""
    requested, succeeded = object_at(document, "properties"), document["state"] == "Succeeded"
    added = no_code_variables(str(requested["model"])) if succeeded else {}
    only = {"privateNetworkConnection": False} if api_version == "2022-02-01-preview" else {"dataCollector": None}
    return {
        "id": f"{world.workspace_id}/onlineEndpoints/{document['endpoint']}/deployments/{document['name']}",
        "name": document["name"],
        "type": f"{PROVIDER}/workspaces/onlineEndpoints/deployments",
        "properties": {
            "description": requested.get("description"),
            "properties": {**(optional_object(requested, "properties")), "AzureAsyncOperationUri": operation_url},
            "codeConfiguration": None,
            "environmentId": requested.get("environmentId"),
            "environmentVariables": {**added, **(optional_object(requested, "environmentVariables"))},
            "scaleSettings": {"scaleType": "Default"},
            "requestSettings": requested["requestSettings"],
            "modelMountPath": None,
            "appInsightsEnabled": False,
            "livenessProbe": requested["livenessProbe"],
            "readinessProbe": requested["readinessProbe"],
            "provisioningState": document["state"],
            "instanceType": requested["instanceType"],
            "model": requested["model"],
            "egressPublicNetworkAccess": requested.get("egressPublicNetworkAccess") or "Enabled",
            "endpointComputeType": "Managed",
            **only,
        },
        "systemData": {
            "createdAt": document["created"],
            "createdBy": "local user",
            "lastModifiedAt": document["modified"],
        },
        "tags": document["tags"],
        "location": world.settings.location,
        "kind": "Managed",
        "sku": {"name": "Default", "tier": "Standard", "capacity": document["capacity"]},
    }

"""The types of request bodies, by route. They are checked before a handler runs, so that the handler can trust them.

A member that is not listed may have any type, and every member may be absent or null. Handlers check the values.
"""

from collections.abc import Mapping

from azureml_emulator.json_types import JsonValue
from azureml_emulator.wire import Call, Route, ServiceError

# A type; an object whose listed members have types; a list whose entries do; an object whose every member does.
Types = type | Mapping[str, "Types"] | list["Types"] | tuple["Types"]

WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "an object"}
PROBE: Types = {
    **dict.fromkeys(("initialDelay", "period", "timeout"), str),
    **dict.fromkeys(("successThreshold", "failureThreshold"), int),
}
ABOUT: Mapping[str, Types] = {"description": str, "tags": dict, "properties": dict}
CLUSTER: Types = {
    "vmSize": str,
    "vmPriority": str,
    "osType": str,
    "remoteLoginPortPublicAccess": str,
    "scaleSettings": {"minNodeCount": int, "maxNodeCount": int, "nodeIdleTimeBeforeScaleDown": str},
}
RESOURCE: Mapping[str, Types] = {"location": str, "tags": dict, "identity": dict, "kind": str}
BODIES: Mapping[tuple[str, str], Types] = {
    ("PUT", "/computes/{compute}"): RESOURCE | {"properties": {"computeType": str, "properties": CLUSTER}},
    ("PUT", "/jobs/{job}"): {
        "properties": {
            **ABOUT,
            **dict.fromkeys(("jobType", "displayName", "experimentName", "command", "componentId", "computeId"), str),
            **dict.fromkeys(("inputs", "outputs", "jobs", "settings", "resources", "environmentVariables"), dict),
        }
    },
    ("PUT", "/models/{asset}/versions/{version}"): {
        "properties": {**ABOUT, "modelUri": str, "modelType": str, "jobName": str, "flavors": (dict,)}
    },
    ("PUT", "/data/{asset}/versions/{version}"): {"properties": {**ABOUT, "dataUri": str, "dataType": str}},
    ("PUT", "/codes/{asset}/versions/{version}"): {"properties": {**ABOUT, "codeUri": str}},
    ("PUT", "/components/{asset}/versions/{version}"): {"properties": {**ABOUT, "componentSpec": dict}},
    ("PUT", "/environments/{asset}/versions/{version}"): {"properties": {**ABOUT, "image": str, "condaFile": str}},
    ("PUT", "/{asset}"): {"properties": ABOUT},
    ("PUT", "/onlineEndpoints/{endpoint}"): RESOURCE
    | {
        "properties": {
            "description": str,
            "properties": dict,
            "authMode": str,
            "traffic": (int,),
            "mirrorTraffic": (int,),
        }
    },
    ("PUT", "/deployments/{deployment}"): RESOURCE
    | {
        "sku": {"capacity": int},
        "properties": {
            **dict.fromkeys(("endpointComputeType", "model", "instanceType", "description", "environmentId"), str),
            **dict.fromkeys(("properties", "environmentVariables", "scaleSettings"), dict),
            "requestSettings": {"requestTimeout": str, "maxQueueWait": str, "maxConcurrentRequestsPerInstance": int},
            "livenessProbe": PROBE,
            "readinessProbe": PROBE,
        },
    },
    ("POST", "/getLogs"): {"containerType": str},
    ("POST", "/regenerateKeys"): {"keyType": str, "keyValue": str},
    ("POST", "/startPendingUpload"): {"pendingUploadType": str, "pendingUploadId": str},
    ("POST", "/rundata"): {"runId": str},
    ("POST", "/batchGetResolvedUris"): {"values": [str]},
    ("PATCH", "/runs/{run}"): {"tags": dict, "properties": dict, "displayName": str, "description": str},
}


def check_types(call: Call, route: Route) -> None:
    """Raises: ServiceError 400 for a body one of whose parts has another type than the route's, naming the part."""
    for (method, end), types in BODIES.items():
        if route.method == method and route.full_template.endswith(end):
            _check(call.json(), types, "the request body")
            return


def _check(value: JsonValue, types: Types, where: str) -> None:
    if value is None:
        return
    kind = types if isinstance(types, type) else list if isinstance(types, list) else dict
    # True and false are whole numbers to Python, but not to JSON.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ServiceError(400, "UserError", f"In {where}, {WORDS.get(kind, 'a list')} is expected.")
    if isinstance(types, Mapping) and isinstance(value, dict):
        for name, member in types.items():
            _check(value.get(name), member, f"'{name}' of {where}")
    elif isinstance(types, tuple) and isinstance(value, dict):
        for name, entry in value.items():
            _check(entry, types[0], f"'{name}' of {where}")
    elif isinstance(types, list) and isinstance(value, list):
        for number, entry in enumerate(value):
            _check(entry, types[0], f"'{number}' of {where}")

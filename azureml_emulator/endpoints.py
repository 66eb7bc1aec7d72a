"""Managed online endpoints: the REST resources, their keys and their traffic.

A PUT answers 201 Creating at once and an operation finishes it; deleting an endpoint deletes its deployments and ends
their servers, and only then a GET answers 404. Scoring is in `gateway.py`, deployments in `deployments.py`.

REST: onlineEndpoints, api-versions 2022-02-01-preview and (GET only in the SDK) 2023-04-01-preview.
"""

import secrets
import time
from datetime import UTC, datetime, timedelta

from azureml_emulator.deployment_rules import (
    canceled,
    endpoint_missing,
    find_endpoint,
    in_transition,
    is_busy,
)
from azureml_emulator.deployments import Deployments
from azureml_emulator.faults import Faults, is_hidden
from azureml_emulator.json_types import Json, number_at, object_at, optional_object, whole_at
from azureml_emulator.names import refuse_settings
from azureml_emulator.operations import Operations
from azureml_emulator.wire import NULL, PROVIDER, Answer, Call, ServiceError, now, page, whole_number
from azureml_emulator.world import World

KIND = "endpoints"
AUTH_MODES = {"key": "Key", "amltoken": "AMLToken"}
TOKEN_HOURS = 12
KEY_BYTES = 24


class Endpoints:
    """The online endpoints of the workspace."""

    def __init__(self, world: World, operations: Operations, faults: Faults, deployments: Deployments) -> None:
        self._world = world
        self._operations = operations
        self._faults = faults
        self._deployments = deployments

    def recover(self) -> None:
        """Resumes unfinished operations."""
        for operation, key in self._operations.unfinished(KIND):
            self._operations.resume(operation, lambda key=key: self._resume(key))

    def find(self, name: str) -> Json | None:
        """The document of an endpoint: state, keys, lower-case traffic."""
        return find_endpoint(self._world.store, name)

    def list_endpoints(self, call: Call) -> Answer:
        documents = [self.find(key) for key, _ in self._world.store.list(KIND)]
        rows = [
            self._resource(record, call)
            for record in documents
            if record and matches_filters(record, call) and not is_hidden(record)
        ]
        return Answer(200, page(rows, call, whole_number("count", call.query.get("count"), 30, least=1)))

    def get_endpoint(self, call: Call) -> Answer:
        document = self._document(call)
        if is_hidden(document):
            raise endpoint_missing(str(document["name"]), self._world.settings.workspace_name)
        return Answer(200, self._resource(document, call))

    def put_endpoint(self, call: Call) -> Answer:
        name = call.path_params["endpoint"]
        existing = self.find(name)
        if self._is_reserved(name.lower()) or (existing and existing["state"] == "Deleting"):
            text = "There is already an endpoint with this name, Endpoint name needs to be unique within a region."
            raise ServiceError(400, "BadRequest", f"The request is invalid. {text} Try some other name.")
        if existing and existing["state"] in ("Creating", "Updating"):
            raise in_transition("Endpoint", name, str(existing["state"]))
        document = self._checked(call.json(), name)
        if existing:
            document |= {
                field: existing[field] for field in ("created", "primary_key", "secondary_key", "token", "hidden_until")
            }
            # An endpoint whose creation failed is created again.
            document["state"] = "Creating" if existing["state"] == "Failed" else "Updating"
        self._world.store.put(KIND, name.lower(), document)
        operation = self._operations.start(KIND, name.lower(), lambda: self._create(name.lower()))
        document["operation"] = operation
        self._world.store.change(KIND, name.lower(), lambda record: record.update(operation=operation))
        return Answer(201, self._accepted(document, call, updated=existing is not None), self._headers(call, operation))

    def delete_endpoint(self, call: Call) -> Answer:
        key = call.path_params["endpoint"].lower()
        existing = self.find(key)
        if existing and is_busy(existing):
            raise in_transition("Endpoint", str(existing["name"]), "Updating")
        if self._world.store.change(KIND, key, lambda record: record.update(state="Deleting")) is None:
            return Answer(204)
        operation = self._operations.start(KIND, key, lambda: self._remove(key))
        location = self._operations.result_url(operation, call.api_version)
        return Answer(202, NULL, self._headers(call, operation) | {"Location": location})

    def list_keys(self, call: Call) -> Answer:
        document = self._document(call)
        if document["auth_mode"] != "Key":
            return Answer(200, {"primaryKey": None, "secondaryKey": None})
        return Answer(200, {"primaryKey": document["primary_key"], "secondaryKey": document["secondary_key"]})

    def get_token(self, call: Call) -> Answer:
        document = self._document(call)
        if document["auth_mode"] != "AMLToken":
            raise ServiceError(
                400,
                "BadArgument",
                f"Endpoint {document['name']} has auth mode {document['auth_mode']}; tokens need AMLToken.",
            )
        expires = datetime.now(UTC) + timedelta(hours=TOKEN_HOURS)
        refresh = expires - timedelta(hours=1)
        return Answer(
            200,
            {
                "accessToken": document["token"],
                "expiryTimeUtc": int(expires.timestamp()),
                "refreshAfterTimeUtc": int(refresh.timestamp()),
                "tokenType": "Bearer",
            },
        )

    def regenerate_key(self, call: Call) -> Answer:
        document, request = self._document(call), call.json()
        field = {"Primary": "primary_key", "Secondary": "secondary_key"}.get(str(request.get("keyType")))
        if field is None:
            raise ServiceError(
                400, "BadArgument", f"keyType '{request.get('keyType')}' is unknown; choose Primary or Secondary."
            )
        requested = request.get("keyValue")
        # The SDK sends the present key along: it means the one to replace, not the one to have.
        value = requested if requested and requested != document[field] else secrets.token_urlsafe(KEY_BYTES)
        key = str(document["name"]).lower()

        def replace() -> None:
            self._world.store.change(KIND, key, lambda record: record.update({field: value}))

        operation = self._operations.start("keys", key, replace)
        location = self._operations.result_url(operation, call.api_version)
        return Answer(202, NULL, {**self._operations.polling_headers(), "Location": location})

    def _checked(self, body: Json, name: str) -> Json:
        """The document of a requested endpoint. Raises: ServiceError."""
        requested = optional_object(body, "properties")
        mode = AUTH_MODES.get(str(requested.get("authMode")).lower())
        if mode is None:
            raise ServiceError(
                400,
                "BadArgument",
                f"authMode '{requested.get('authMode')}' is not served here; choose Key or AMLToken.",
            )
        mirrored = {name: share for name, share in optional_object(requested, "mirrorTraffic").items() if share}
        refuse_settings("endpoint", {"mirrorTraffic": mirrored}, "mirrorTraffic")
        access = requested.get("publicNetworkAccess") or "Enabled"
        if access != "Enabled":
            raise ServiceError(400, "BadArgument", f"publicNetworkAccess '{access}' is not served here; use Enabled.")
        return {
            "name": name,
            "state": "Creating",
            "auth_mode": mode,
            "description": requested.get("description"),
            "properties": optional_object(requested, "properties"),
            "traffic": self._checked_traffic(name, optional_object(requested, "traffic")),
            "identity": body.get("identity") or {"type": "SystemAssigned"},
            "tags": optional_object(body, "tags"),
            "created": now(),
            "modified": now(),
            "hidden_until": 0,
            "primary_key": secrets.token_urlsafe(KEY_BYTES),
            "secondary_key": secrets.token_urlsafe(KEY_BYTES),
            "token": secrets.token_urlsafe(KEY_BYTES),
        }

    def _checked_traffic(self, endpoint: str, traffic: Json) -> dict[str, int]:
        """Percentages by lower-case deployment name. Raises: ServiceError 400 for unknown names or a wrong sum."""
        shares = {name.lower(): share for name, share in traffic.items()}
        unknown = sorted(set(shares) - set(self._deployments.named(endpoint)))
        if unknown:
            raise ServiceError(
                400,
                "BadRequest",
                f"Traffic names deployments that endpoint {endpoint} does not have: {', '.join(unknown)}.",
            )
        wrong = [
            f"{name}={share}" for name, share in shares.items() if not isinstance(share, int) or not 0 <= share <= 100
        ]
        if wrong:
            raise ServiceError(
                400, "BadRequest", f"Traffic must be whole percentages from 0 to 100; found {', '.join(wrong)}."
            )
        total = sum(whole_at(shares, name) for name in shares)
        if total not in (0, 100):
            raise ServiceError(400, "BadRequest", f"Sum of traffic must be either 0 or 100; found {total}.")
        return {name: whole_at(shares, name) for name in shares}

    def _resume(self, key: str) -> None:
        """The work of an operation that the last process left unfinished."""
        document = self.find(key)
        if document and document["state"] == "Deleting":
            self._remove(key)
        elif document:
            self._create(key)

    def _create(self, key: str) -> None:
        """The work of a PUT. Raises: ServiceError, which fails the operation."""
        faults, document = self._faults, self.find(key)
        fresh = document is not None and document["state"] == "Creating"
        fault = faults.take("endpoint", key, "fail", "hang") if fresh else None
        if fault and fault.effect == "hang":
            faults.hold(fault, lambda: self._gone(key))
        if fault and fault.effect == "fail":
            self._world.store.change(KIND, key, lambda record: record.update(state="Failed", modified=now()))
            raise ServiceError(500, "InternalServerError", fault.error_message())
        self._world.pause(self._world.timing.endpoint_seconds)
        if self._gone(key):
            raise canceled(key)
        changes: Json = {
            "state": "Succeeded",
            "modified": now(),
            "hidden_until": faults.until("endpoint", key, "not_found") if fresh else 0,
            "busy_until": faults.until("endpoint", key, "busy"),
        }
        self._world.store.change(KIND, key, lambda record: record.update(changes))

    def _remove(self, key: str) -> None:
        """The work of a DELETE: servers first, the endpoint last, so that a GET answers 404 only when nothing runs."""
        faults = self._faults
        error = faults.hinder_deletion(key, lambda: self.find(key) is None)
        if error:
            self._world.store.change(KIND, key, lambda record: record.update(state="Failed"))
            raise error
        self._world.pause(self._world.timing.delete_seconds)
        self._deployments.remove_all(key)
        if reserved := faults.until("delete", key, "reserved"):
            self._world.store.put("reserved_names", key, {"until": reserved})
        self._world.store.delete(KIND, key)

    def _is_reserved(self, key: str) -> bool:
        """Whether the name of a deleted endpoint cannot be used again yet."""
        reservation = self._world.store.get("reserved_names", key)
        if reservation and number_at(reservation, "until") <= time.time():
            self._world.store.delete("reserved_names", key)
            return False
        return reservation is not None

    def _gone(self, key: str) -> bool:
        document = self.find(key)
        return document is None or document["state"] == "Deleting"

    def _document(self, call: Call) -> Json:
        name = call.path_params["endpoint"]
        document = self.find(name)
        if document is None:
            raise endpoint_missing(name, self._world.settings.workspace_name)
        return document

    def _headers(self, call: Call, operation: str) -> dict[str, str]:
        return {
            **self._operations.polling_headers(),
            "Azure-AsyncOperation": self._operations.status_url(operation, call.api_version),
            "Location": f"{call.base_url}{call.raw_path}?api-version={call.api_version}",
            "x-ms-async-operation-timeout": "PT30M",
        }

    def _accepted(self, document: Json, call: Call, *, updated: bool) -> Json:
        """The body of a 201: always Creating and without addresses; an update's lacks what the caller knows already."""
        resource = self._resource(document, call)
        properties = object_at(resource, "properties")
        properties |= {"provisioningState": "Creating", "scoringUri": None, "swaggerUri": None}
        if updated:
            del resource["location"], resource["identity"]
            object_at(properties, "properties").pop("azureml.onlineendpointid")
            resource["systemData"] = {"lastModifiedAt": document["modified"]}
        return resource

    def _resource(self, document: Json, call: Call) -> Json:
        """The endpoint as the service shows it."""
        settings, name = self._world.settings, document["name"]
        identifier = f"{self._world.workspace_id}/onlineEndpoints/{name}"
        scoring = f"{self._world.url}/scoring/{name}"
        ready = document["state"] != "Creating"
        return {
            "id": identifier,
            "name": name,
            "type": f"{PROVIDER}/workspaces/onlineEndpoints",
            "properties": {
                "description": document["description"],
                "properties": {
                    **object_at(document, "properties"),
                    "azureml.onlineendpointid": identifier.lower(),
                    "AzureAsyncOperationUri": self._operations.status_url(
                        str(document.get("operation")), call.api_version
                    ),
                },
                "scoringUri": f"{scoring}/score" if ready else None,
                "swaggerUri": f"{scoring}/swagger.json" if ready else None,
                "authMode": document["auth_mode"],
                "provisioningState": document["state"],
                "compute": None,
                "traffic": document["traffic"],
                "mirrorTraffic": {},
                "publicNetworkAccess": "Enabled",
            },
            "systemData": {
                "createdAt": document["created"],
                "createdBy": "local user",
                "lastModifiedAt": document["modified"],
            },
            "tags": document["tags"],
            "location": settings.location,
            "kind": "Managed",
            "identity": {
                **object_at(document, "identity"),
                "principalId": self._world.workspace_guid,
                "tenantId": settings.tenant_id,
            },
        }


def matches_filters(document: Json, call: Call) -> bool:
    """Whether a listing with the filters `name` and `tags` (`a,b=c`) shows this endpoint."""
    filters = [part.partition("=") for part in (call.query.get("tags") or "").split(",") if part]
    tags = object_at(document, "tags")
    tagged = all(name in tags and (not sign or tags[name] == value) for name, sign, value in filters)
    return tagged and call.query.get("name", document["name"]) == document["name"]

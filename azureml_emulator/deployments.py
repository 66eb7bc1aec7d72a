"""Deployments of online endpoints: the REST resources, and the model servers behind them.

A PUT is checked (name, endpoint's state, instance type, quota, limits, model) before anything starts; then an operation
loads the model and starts its server, and the deployment is Succeeded when the server is ready, Failed when it ends or
never gets ready. The servers come back after a restart of the emulator. Of `instance_count` instances one process is
started. Scoring scripts and custom containers are refused.

REST: onlineEndpoints/{endpoint}/deployments, api-versions 2022-02-01-preview (list) and 2023-04-01-preview (the rest).
"""

import logging
import shutil
import threading
from pathlib import Path

from azureml_emulator import mlmodel
from azureml_emulator.assets import Assets
from azureml_emulator.compute import Compute
from azureml_emulator.deployment_rules import (
    canceled,
    checked,
    cores,
    endpoint_missing,
    find_endpoint,
    in_transition,
    is_busy,
    key_of,
    out_of_quota,
    probe,
    refused,
    resource,
)
from azureml_emulator.faults import Faults, is_hidden
from azureml_emulator.json_types import Json, object_at, optional_object, text_values, whole_at
from azureml_emulator.names import path_below
from azureml_emulator.operations import Operations
from azureml_emulator.servers import Server, ServerSpec, ServingError, last_lines, mlflow_folder, serving_command
from azureml_emulator.storage import Storage
from azureml_emulator.wire import NULL, Answer, Call, ServiceError, now, page, whole_number
from azureml_emulator.world import World

log = logging.getLogger(__name__)

KIND = "deployments"
CONTAINERS = {"InferenceServer": "inference-server.log", "StorageInitializer": "storage-initializer.log"}


class Deployments:
    """The deployments of all endpoints."""

    def __init__(
        self, world: World, operations: Operations, faults: Faults, storage: Storage, assets: Assets, compute: Compute
    ) -> None:
        self._world = world
        self._operations = operations
        self._faults = faults
        self._storage = storage
        self._assets = assets
        self._compute = compute
        self._lock = threading.Lock()
        self._servers: dict[str, Server] = {}

    def recover(self) -> None:
        """Takes up unfinished operations and starts the servers of finished deployments again."""
        for key, document in self._world.store.list(KIND):
            if document["state"] == "Succeeded":
                self._bring_back(key, document)
        for operation, key in self._operations.unfinished(KIND):
            self._operations.resume(operation, lambda key=key: self._resume(key))

    def stop(self) -> None:
        """Ends all servers, at the same time; their deployments stay as they are for the next start."""
        with self._lock:
            threads = [threading.Thread(target=server.stop) for server in self._servers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def named(self, endpoint: str) -> dict[str, Json]:
        """The deployments of an endpoint by lower-case name."""
        return {
            str(record["name"]).lower(): record for _, record in self._world.store.list(KIND, f"{endpoint.lower()}/")
        }

    def server(self, endpoint: str, deployment: str) -> Server | None:
        with self._lock:
            return self._servers.get(key_of(endpoint, deployment))

    def remove_all(self, endpoint: str) -> None:
        """Ends the servers of an endpoint and forgets its deployments."""
        for key, _ in self._world.store.list(KIND, f"{endpoint.lower()}/"):
            self._forget(key)

    def list_deployments(self, call: Call) -> Answer:
        endpoint = self._endpoint(call)
        documents = [record for record in self.named(str(endpoint["name"])).values() if not is_hidden(record)]
        return Answer(200, page([self._resource(record, call) for record in documents], call))

    def get_deployment(self, call: Call) -> Answer:
        self._endpoint(call)
        document = self._document(call)
        if is_hidden(document):
            raise self._missing(call)
        return Answer(200, self._resource(document, call))

    def put_deployment(self, call: Call) -> Answer:
        endpoint, name = self._endpoint(call), call.path_params["deployment"]
        if endpoint["state"] != "Succeeded":
            state = f"it is in {endpoint['state']} provisioning state."
            raise ServiceError(
                409, "Conflict", f"Cannot create a deployment in endpoint {endpoint['name']} because {state}"
            )
        key = key_of(str(endpoint["name"]), name)
        existing = self._world.store.get(KIND, key)
        if existing and existing["state"] not in ("Succeeded", "Failed"):
            raise in_transition("Deployment", name, str(existing["state"]))
        document = checked(call.json(), str(endpoint["name"]), name)
        self._check_size(key, document)
        self._check_model(document)
        document |= {
            "state": "Updating" if existing else "Creating",
            "created": existing["created"] if existing else now(),
        }
        self._world.store.put(KIND, key, document)
        operation = self._operations.start(KIND, key, lambda: self._create(key))
        document["operation"] = operation
        self._world.store.change(KIND, key, lambda record: record.update(operation=operation))
        headers = self._headers(call, operation)
        headers["Location"] = f"{call.base_url}{call.raw_path}?api-version={call.api_version}"
        return Answer(201, self._resource(document, call), headers)

    def delete_deployment(self, call: Call) -> Answer:
        key = key_of(call.path_params["endpoint"], call.path_params["deployment"])
        document = self._world.store.get(KIND, key)
        if document is None:
            return Answer(204)
        endpoint = self._endpoint(call)
        if is_busy(endpoint):
            raise in_transition("Endpoint", str(endpoint["name"]), "Updating")
        if object_at(endpoint, "traffic").get(str(document["name"]).lower()):
            text = f"Deployment {document['name']} receives traffic and cannot be deleted. Set its traffic to 0 first."
            raise ServiceError(400, "BadRequest", text)
        self._world.store.change(KIND, key, lambda record: record.update(state="Deleting"))
        operation = self._operations.start(KIND, key, lambda: self._remove(key))
        location = self._operations.result_url(operation, call.api_version)
        return Answer(202, NULL, self._headers(call, operation) | {"Location": location})

    def get_logs(self, call: Call) -> Answer:
        self._endpoint(call)
        document, request = self._document(call), call.json()
        container = str(request.get("containerType") or "InferenceServer")
        if container not in CONTAINERS:
            known = ", ".join(CONTAINERS)
            raise ServiceError(400, "BadArgument", f"Container type '{container}' is unknown; choose one of {known}.")
        file = self._folder(key_of(str(document["endpoint"]), str(document["name"]))) / CONTAINERS[container]
        lines = last_lines(file, whole_number("tail", request.get("tail"), 500))
        header = f"Instance status:\n{container}: {document['state']}\n\nContainer logs:\n"
        return Answer(200, {"content": header + "\n".join(lines)})

    def _check_size(self, key: str, document: Json) -> None:
        """Raises: ServiceError for an instance type that is unknown or for which the quota does not suffice."""
        instance_type = str(object_at(document, "properties").get("instanceType") or "")
        size = self._compute.size(instance_type)
        if size is None:
            known = "Choose a size that compute.list_sizes() gives."
            raise refused(f"Specified instance type '{instance_type}' is not supported. {known}")
        needed, family = cores(instance_type, size, whole_at(document, "capacity")), str(size["family"])
        usage, limit = self._used_cores(family, except_key=key), self._compute.quota(family)
        fault = self._faults.take("quota", instance_type)
        if fault:
            usage, limit = fault.usage, fault.limit
        if usage + needed > limit:
            raise out_of_quota(instance_type, self._world.settings.subscription_id, usage, limit, needed)

    def _used_cores(self, family: str, *, except_key: str) -> int:
        """Cores that the present deployments, except one, reserve in a machine family."""
        used = 0
        for key, record in self._world.store.list(KIND):
            instance_type = str(object_at(record, "properties")["instanceType"])
            size = self._compute.size(instance_type)
            if key != except_key and size and size["family"] == family:
                used += cores(instance_type, size, whole_at(record, "capacity"))
        return used

    def _check_model(self, document: Json) -> None:
        """Raises: ServiceError when the model is missing or cannot be served."""
        try:
            serving_command(self._mlflow_folder(document), self._world.settings.home)
        except ServingError as error:
            raise ServiceError(400, "BadArgument", str(error)) from error

    def _resume(self, key: str) -> None:
        """The work of an operation that the last process left unfinished."""
        document = self._world.store.get(KIND, key)
        if document and document["state"] == "Deleting":
            self._remove(key)
        elif document:
            self._create(key)

    def _create(self, key: str) -> None:
        """The work of a PUT: from the stored document to a ready server.

        Raises: ServiceError, which fails the operation; the deployment then stays, Failed, with its logs.
        """
        document = self._world.store.get(KIND, key)
        try:
            self._inject_fault(key)
            self._world.pause(self._world.timing.deployment_seconds)
            self._stop_server(key)
            if document is None:
                raise canceled(key)
            server = self._start_server(key, document)
            while not server.settled(0.1):
                self._world.pause(0)
            # A server that ends because the emulator stops is no failure of the deployment.
            self._world.pause(0)
            server.check_ready()
        except ServingError as error:
            self._stop_server(key)
            if not self._settle(key, "Failed"):
                raise canceled(key) from error
            raise ServiceError(400, "BadArgument", str(error)) from error
        if not self._settle(key, "Succeeded"):
            raise canceled(key)

    def _bring_back(self, key: str, document: Json) -> None:
        """Starts the server of a finished deployment after a restart; a model that is gone makes it Failed."""
        try:
            self._start_server(key, document)
        except ServingError as error:
            log.warning("deployment %s did not come back: %s", key, error)
            self._settle(key, "Failed")

    def _inject_fault(self, key: str) -> None:
        """Raises: ServingError for a fault that fails this deployment, after its seconds; waits for one that hangs."""
        faults = self._faults
        fault = faults.take("deployment", key, "fail", "hang")
        if fault and (fault.effect == "hang" or fault.seconds):
            faults.hold(fault, lambda: self._gone(key))
        if fault and fault.effect == "fail":
            raise ServingError(f"User container has crashed or terminated: {fault.error_message()}")

    def _remove(self, key: str) -> None:
        """The work of a DELETE."""
        error = self._faults.hinder_deletion(key, lambda: self._world.store.get(KIND, key) is None)
        if error:
            self._world.store.change(KIND, key, lambda record: record.update(state="Failed"))
            raise error
        self._world.pause(self._world.timing.delete_seconds)
        self._forget(key)

    def _forget(self, key: str) -> None:
        # The document goes first: a creation still under way then sees that it is not wanted any more.
        self._world.store.delete(KIND, key)
        self._stop_server(key)
        shutil.rmtree(self._folder(key), ignore_errors=True)

    def _settle(self, key: str, state: str) -> bool:
        """Writes the end of a creation, unless the deployment is being deleted; says whether it was written."""
        if self._gone(key):
            return False
        changes: Json = {"state": state, "modified": now()}
        existing = self._world.store.get(KIND, key)
        if state == "Succeeded" and existing and existing["state"] == "Creating":
            changes["hidden_until"] = self._faults.until("deployment", key, "not_found")
        return self._world.store.change(KIND, key, lambda record: record.update(changes)) is not None

    def _gone(self, key: str) -> bool:
        document = self._world.store.get(KIND, key)
        return document is None or document["state"] == "Deleting"

    def _start_server(self, key: str, document: Json) -> Server:
        """A started server. Raises: ServingError when the model or the deployment was deleted meanwhile."""
        properties, folder = object_at(document, "properties"), self._folder(key)
        try:
            model = self._mlflow_folder(document)
        except ServiceError as error:
            raise ServingError(error.message) from error
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / CONTAINERS["StorageInitializer"]).open("a", encoding="utf-8") as stream:
            stream.write(f"{now()} Downloading {properties['model']}\n{now()} Model is at {model}\n")
        variables = text_values(optional_object(properties, "environmentVariables"))
        spec = ServerSpec(
            command=serving_command(model, self._world.settings.home),
            environment={"AZUREML_MODEL_DIR": str(model), **variables},
            folder=folder,
            liveness=probe(object_at(properties, "livenessProbe")),
            readiness=probe(object_at(properties, "readinessProbe")),
        )
        server = Server(spec)
        with self._lock:
            if self._gone(key):
                raise ServingError("The deployment was deleted.")
            self._servers[key] = server
        server.start()
        return server

    def _stop_server(self, key: str) -> None:
        with self._lock:
            server = self._servers.pop(key, None)
        if server:
            server.stop()

    def _mlflow_folder(self, document: Json) -> Path:
        """The model's folder with its MLmodel file. Raises: ServingError, ServiceError."""
        folder = mlflow_folder(self._assets.locate(str(object_at(document, "properties")["model"])))
        self._storage.check_links(folder / mlmodel.NAME)
        return folder

    def _folder(self, key: str) -> Path:
        return path_below(self._world.settings.home / "deployments", *key.split("/"))

    def _endpoint(self, call: Call) -> Json:
        name = call.path_params["endpoint"]
        document = find_endpoint(self._world.store, name)
        if document is None:
            raise endpoint_missing(name, self._world.settings.workspace_name)
        return document

    def _document(self, call: Call) -> Json:
        endpoint, name = call.path_params["endpoint"], call.path_params["deployment"]
        document = self._world.store.get(KIND, key_of(endpoint, name))
        if document is None:
            raise self._missing(call)
        return document

    def _missing(self, call: Call) -> ServiceError:
        endpoint, name = call.path_params["endpoint"], call.path_params["deployment"]
        workspace = self._world.settings.workspace_name
        return ServiceError(
            404, "UserError", f"Deployment {name} not found in endpoint {endpoint}, workspace {workspace}"
        )

    def _resource(self, document: Json, call: Call) -> Json:
        operation_url = self._operations.status_url(str(document.get("operation")), call.api_version)
        return resource(document, self._world, call.api_version, operation_url)

    def _headers(self, call: Call, operation: str) -> dict[str, str]:
        address = self._operations.status_url(operation, call.api_version)
        return {
            **self._operations.polling_headers(),
            "Azure-AsyncOperation": address,
            "x-ms-async-operation-timeout": "PT30M",
        }

"""Compute clusters (AmlCompute), the table of machine sizes and the quota.

No machine is started: a cluster is a record with the states of the service, and jobs run their steps as local
processes. The quota counts dedicated and low-priority cores; it is plentiful by default and set by `PUT
/admin/quota`.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import yaml

from azureml_emulator.faults import Faults
from azureml_emulator.json_types import Json, object_at, optional_object, whole_at
from azureml_emulator.operations import Operations
from azureml_emulator.wire import Answer, Call, ServiceError, not_found, now, page, system_data
from azureml_emulator.world import World

SIZES = Path(__file__).parent / "registry" / "vm_sizes.yaml"
PLENTY = 100_000
NODE_STATES = ("preparing", "running", "idle", "unusable", "leaving", "preempted")


@cache
def sizes() -> dict[str, Json]:
    """Machine sizes by lower-case name, from registry/vm_sizes.yaml."""
    rows = yaml.safe_load(SIZES.read_text(encoding="utf-8"))["sizes"]
    return {row["name"].lower(): row for row in rows}


class Compute:
    """Clusters by name."""

    def __init__(self, world: World, operations: Operations, faults: Faults) -> None:
        self._world = world
        self._operations = operations
        self._faults = faults

    def recover(self) -> None:
        """Goes on with creations and deletions that the last process left."""
        for operation, name in self._operations.unfinished("computes"):
            document = self.find(name)
            if document is None or object_at(document, "properties")["provisioningState"] == "Deleting":
                self._operations.resume(operation, partial(self._remove, name))
            else:
                self._operations.resume(operation, partial(self._provide, name))

    def find(self, name: str) -> Json | None:
        """The stored document of a cluster; names are case-insensitive."""
        return self._world.store.get("computes", name.lower())

    def size(self, vm_size: str) -> Json | None:
        """The row of a machine size: name, family, vCPUs, memoryGB, gpus, price_per_hour ..."""
        return sizes().get(vm_size.lower())

    def quota(self, family: str) -> int:
        """How many cores of a machine family may be used."""
        limits = self._world.store.get("settings", "quota") or {}
        return int(str(limits.get(family.lower(), limits.get("default", PLENTY))))

    def list_clusters(self, call: Call) -> Answer:
        documents = [document for _, document in self._world.store.list("computes")]
        return Answer(200, page(documents, call))

    def get_cluster(self, call: Call) -> Answer:
        document = self.find(call.path_params["compute"])
        if document is None:
            raise not_found("compute", call.path_params["compute"])
        return Answer(200, document)

    def put_cluster(self, call: Call) -> Answer:
        name, requested = call.path_params["compute"], call.json()
        properties = optional_object(requested, "properties")
        if properties.get("computeType") != "AmlCompute":
            text = f"azureml_emulator makes computes of type 'AmlCompute' only, not '{properties.get('computeType')}'."
            raise ServiceError(400, "UserError", text)
        existing = self.find(name)
        properties["properties"] = optional_object(properties, "properties")
        self._check(name, object_at(properties, "properties"), existing)
        document = new_document(f"{self._world.workspace_id}/computes/{name}", name, requested, existing)
        document["location"] = requested.get("location") or self._world.settings.location
        self._world.store.put("computes", name.lower(), document)
        return self._begin(call, name, partial(self._provide, name), Answer(201, document))

    def _check(self, name: str, requested: Json, existing: Json | None) -> None:
        size = str(requested.get("vmSize") or "")
        row = self.size(size)
        if row is None:
            text = f"The specified vmSize '{size}' is not supported in '{self._world.settings.location}'."
            raise ServiceError(400, "UserError", text, inner_error="InvalidVmSize")
        if existing and str(object_at(existing, "properties", "properties")["vmSize"]).lower() != size.lower():
            text = f"The vmSize of compute '{name}' cannot be changed. Delete the compute, or choose another name."
            raise ServiceError(400, "UserError", text, inner_error="InvalidPropertyChange")
        low_priority = str(requested.get("vmPriority") or "").lower() == "lowpriority"
        family = "lowPriority" if low_priority else str(row["family"])
        usage, limit, cores = 0, self.quota(family), whole_at(row, "vCPUs")
        fault = self._faults.take("quota", size)
        if fault:
            usage, limit = fault.usage, fault.limit
        if usage + cores > limit:
            text = (
                f"The specified subscription has a total vCPU quota of {limit} for {family} and cannot accomodate "
                f"for at least 1 requested managed compute node which maps to {cores} vCPUs."
            )
            raise ServiceError(400, "ClusterCoreQuotaReached", text, inner_error="ClusterCoreQuotaReached")

    def _begin(self, call: Call, name: str, work: Callable[[], None], answer: Answer) -> Answer:
        operations = self._operations
        operation = operations.start("computes", name, work, style="compute")
        status_url = operations.status_url(operation, call.api_version, style="compute")
        return Answer(answer.status, answer.body, {"Azure-AsyncOperation": status_url, **operations.polling_headers()})

    def _provide(self, name: str) -> None:
        self._world.pause(self._world.timing.compute_seconds)

        def succeed(document: Json) -> None:
            moment = now()
            document["tags"] = document["tags"] or {}
            object_at(document, "properties").update(provisioningState="Succeeded", modifiedOn=moment)
            object_at(document, "properties", "properties").update(
                currentNodeCount=0,
                targetNodeCount=0,
                nodeStateCounts={f"{state}NodeCount": 0 for state in NODE_STATES},
                allocationState="Steady",
                allocationStateTransitionTime=moment,
            )

        self._world.store.change("computes", name.lower(), succeed)

    def delete_cluster(self, call: Call) -> Answer:
        name = call.path_params["compute"]

        def begin(document: Json) -> None:
            object_at(document, "properties")["provisioningState"] = "Deleting"

        if self._world.store.change("computes", name.lower(), begin) is None:
            raise not_found("compute", name)
        return self._begin(call, name, partial(self._remove, name), Answer(202))

    def _remove(self, name: str) -> None:
        self._world.pause(self._world.timing.delete_seconds)
        self._world.store.delete("computes", name.lower())

    def list_sizes(self, call: Call) -> Answer:
        location = call.path_params["location"]
        return Answer(200, {"value": [size_document(row, location) for row in sizes().values()]})

    def get_quota(self, call: Call) -> Answer:
        return Answer(200, self._world.store.get("settings", "quota") or {"default": PLENTY})

    def put_quota(self, call: Call) -> Answer:
        """Body: cores by machine family, `lowPriority` and `default`, e.g. {"standardNCADSA100v4Family": 0}."""
        limits: Json = {family.lower(): cores for family, cores in call.json().items()}
        wrong = [family for family, cores in limits.items() if not isinstance(cores, int)]
        if wrong:
            raise ServiceError(400, "BadRequest", f"The quota of '{wrong[0]}' is not a number of cores.", shape="arm")
        self._world.store.put("settings", "quota", limits)
        return Answer(200, limits)


def new_document(resource_id: str, name: str, requested: Json, existing: Json | None) -> Json:
    """A cluster as the service answers it while it is being created."""
    properties, settings = object_at(requested, "properties"), object_at(requested, "properties", "properties")
    moment = now()
    created = str(object_at(existing, "properties")["createdOn"]) if existing else moment
    scale: Json = {"maxNodeCount": 4, "minNodeCount": 0, "nodeIdleTimeBeforeScaleDown": "PT2M"}
    scale |= optional_object(settings, "scaleSettings")
    return {
        "id": resource_id,
        "name": name,
        "type": "Microsoft.MachineLearningServices/workspaces/computes",
        "tags": requested.get("tags") or (existing or {}).get("tags"),
        "identity": requested.get("identity"),
        "properties": {
            "createdOn": created,
            "modifiedOn": moment,
            "disableLocalAuth": bool(properties.get("disableLocalAuth")),
            "description": properties.get("description"),
            "resourceId": None,
            "computeType": "AmlCompute",
            "computeLocation": requested.get("location"),
            "provisioningState": "Creating",
            "provisioningErrors": None,
            "isAttachedCompute": False,
            "properties": {
                "vmSize": str(settings["vmSize"]).upper(),
                "vmPriority": "LowPriority"
                if str(settings.get("vmPriority")).lower() == "lowpriority"
                else "Dedicated",
                "scaleSettings": scale,
                "subnet": None,
                "currentNodeCount": None,
                "targetNodeCount": None,
                "nodeStateCounts": None,
                "allocationState": None,
                "errors": None,
                "remoteLoginPortPublicAccess": settings.get("remoteLoginPortPublicAccess") or "NotSpecified",
                "osType": settings.get("osType") or "Linux",
                "virtualMachineImage": None,
                "isolatedNetwork": False,
                "enableNodePublicIp": settings.get("enableNodePublicIp", True),
                "propertyBag": {},
            },
        },
        "systemData": system_data(created, moment),
    }


def size_document(row: Json, location: str) -> Json:
    """A machine size as the service lists it, with the Linux price per hour where it is known."""
    document: Json = {
        key: row[key] for key in ("name", "family", "vCPUs", "gpus", "osVhdSizeMB", "maxResourceVolumeMB", "memoryGB")
    }
    price = row.get("price_per_hour")
    document |= {
        "lowPriorityCapable": True,
        "premiumIO": True,
        "supportedComputeTypes": ["AmlCompute", "ComputeInstance"],
    }
    if price is not None:
        values = [{"retailPrice": price, "osType": "Linux", "vmTier": "Standard"}]
        if row.get("low_priority_price_per_hour"):
            values.append(
                {"retailPrice": row["low_priority_price_per_hour"], "osType": "Linux", "vmTier": "LowPriority"}
            )
        document["estimatedVMPrices"] = {"billingCurrency": "USD", "unitOfMeasure": "OneHour", "values": values}
    return document

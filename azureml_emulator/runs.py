"""Run history: the runs of jobs and their steps, their status, logs and outputs, as the SDK reads them beside the jobs
API.

A run document is the one place where a run's state stands; jobs.py and tracking.py answer from it too. Routes:
`/history/v1.0/...` (run, details, children, rundata, change of tags), and the two resolvers of output addresses.
Source: Microsoft's run history OpenAPI as azure-ai-ml uses it.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from uuid import NAMESPACE_URL, uuid4, uuid5

from azureml_emulator.asset_kinds import MODEL_TYPES
from azureml_emulator.json_types import Json, JsonValue, object_at, optional_object
from azureml_emulator.names import artifact_path, data_container
from azureml_emulator.storage import Storage
from azureml_emulator.wire import Answer, Call, ServiceError, now, page, whole_number
from azureml_emulator.world import World

TERMINAL = ("Completed", "Failed", "Canceled")
CONSOLE = "logs/azureml/executionlogs.txt"
STEP_LOG = "user_logs/std_log.txt"
RUN_TYPES = {
    "pipeline": "azureml.PipelineRun",
    "command": "command",
    "step": "azureml.StepRun",
    "subgraph": "azureml.StepRun",
    "mlflow": "azureml.mlflow",
}
# How run history names the type of an output; the resolver of its address depends on it.
DATA_TYPES = {"uri_folder": "UriFolder", "uri_file": "UriFile", "mltable": "MLTable"}
OUTPUT_TYPES = DATA_TYPES | MODEL_TYPES
# A job's input may name an asset of the workspace or of a registry.
WORKSPACE_ASSET = re.compile(r"(?:azureml:)?/?subscriptions/.*/workspaces/[^/]+(?P<asset>/(?:data|models)/.+)", re.I)
REGISTRY = "azureml://registries/"


class Runs:
    """All runs of the workspace."""

    def __init__(self, world: World, storage: Storage) -> None:
        self._world = world
        self._storage = storage
        self._watchers: list[Callable[[str], None]] = []

    def watch(self, watcher: Callable[[str], None]) -> None:
        """Calls `watcher` with the id of every new or changed run."""
        self._watchers.append(watcher)

    def find(self, run_id: str) -> Json | None:
        return self._world.store.get("runs", run_id)

    def get(self, run_id: str) -> Json:
        """The document of a run. Raises: ServiceError 404."""
        run = self.find(run_id)
        if run is None:
            text = f"Run {run_id} was not found."
            raise ServiceError(404, "UserError", text, shape="native", inner_error="NotFoundError")
        return run

    def family(self, root: str) -> list[tuple[str, Json]]:
        """The runs of a job, itself included, in the order of their creation."""
        runs = [(run_id, run) for run_id, run in self._world.store.list("runs") if run["root"] == root]
        return sorted(runs, key=lambda entry: str(entry[1]["created"]))

    def create(
        self, run_id: str, *, kind: str, root: str, parent: str | None = None, display_name: str, **more: JsonValue
    ) -> Json:
        """A new run, NotStarted. A run within a job takes its experiment from the job's run."""
        run: Json = {
            "kind": kind,
            "root": root,
            "parent": parent,
            "display_name": display_name,
            "number": int(time.time()),
            "status": "NotStarted",
            "created": now(),
            "modified": now(),
            "started": None,
            "ended": None,
            "error": None,
            "tags": {},
            "properties": {},
            "inputs": {},
            "outputs": {},
            "states": ["NotStarted"],
            **more,
        }
        if "experiment" not in run:
            run["experiment"] = self.get(root)["experiment"]
        self._world.store.put("runs", run_id, run)
        for file in (self.log_file(run_id), self.console_file(run_id)):
            if file.parent.name == ("azureml" if kind == "pipeline" else "user_logs"):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        self._tell(run_id)
        return run

    def edit(self, run_id: str, values: Json) -> None:
        self.change(run_id, lambda run: run.update(values))

    def change(self, run_id: str, edit: Callable[[Json], None]) -> None:
        """Changes a run's document in place."""
        self._world.store.change("runs", run_id, edit)
        self._tell(run_id)

    def _tell(self, run_id: str) -> None:
        for watcher in self._watchers:
            watcher(run_id)

    def set_status(self, run_id: str, status: str) -> None:
        """The run's next state. A terminal state stands; a requested cancellation gives way only to a terminal one."""

        def change(run: Json) -> None:
            ends = status in TERMINAL
            if (
                run["status"] in TERMINAL
                or (run["status"] == "CancelRequested" and not ends)
                or run["status"] == status
            ):
                return
            run["status"] = status
            run["modified"] = now()
            run["states"] = [*states_of(run), status]
            if status == "Running" and not run["started"]:
                run["started"] = run["modified"]
            if ends:
                run["ended"] = run["modified"]

        self.change(run_id, change)

    def fail(self, run_id: str, message: str, code: str) -> None:
        self.edit(run_id, {"error": {"code": code, "message": message}})
        self.set_status(run_id, "Failed")

    def set_outputs(self, run_id: str, outputs: dict[str, Json]) -> None:
        """Outputs by name, each {path, type, asset}: the path is in the default datastore, `asset` {name, version}."""
        self.edit(run_id, {"outputs": outputs})

    def artifacts(self, run_id: str) -> Path:
        """The folder of a run's logs and other artifacts."""
        storage = self._storage
        return storage.folder(storage.artifact_container, artifact_path(run_id))

    def log_file(self, run_id: str) -> Path:
        return self.artifacts(run_id) / STEP_LOG

    def console_file(self, job: str) -> Path:
        return self.artifacts(job) / CONSOLE

    def experiment_id(self, name: str) -> str:
        """The id of an experiment, the same in every start."""
        return str(uuid5(NAMESPACE_URL, f"{self._world.workspace_id}/experiments/{name}"))

    def get_run(self, call: Call) -> Answer:
        run_id = call.path_params["run"]
        return Answer(200, self._document(run_id, self.get(run_id)))

    def list_children(self, call: Call) -> Answer:
        parent = call.path_params["run"]
        runs = [(run_id, run) for run_id, run in self.family(str(self.get(parent)["root"])) if run["parent"] == parent]
        documents = [self._document(run_id, run) for run_id, run in runs]
        return Answer(200, page(documents, call, whole_number("$top", call.query.get("$top"), 100, least=1)))

    def get_details(self, call: Call) -> Answer:
        run_id = call.path_params["run"]
        document = self._document(run_id, self.get(run_id))
        names = (
            "runId",
            "runUuid",
            "parentRunUuid",
            "rootRunUuid",
            "target",
            "status",
            "parentRunId",
            "dataContainerId",
        )
        names += ("startTimeUtc", "endTimeUtc", "error", "warnings", "tags", "properties", "parameters", "services")
        names += (
            "inputDatasets",
            "outputDatasets",
            "inputs",
            "outputs",
            "duration",
            "runTypeV2",
            "runNumber",
            "rootRunId",
        )
        details = {key: document[key] for key in names}
        return Answer(200, {**details, "createdTimeUtc": document["createdUtc"], "logFiles": self._log_files(run_id)})

    def get_run_data(self, call: Call) -> Answer:
        run_id = str(call.json().get("runId"))
        job = self._world.store.get("jobs", run_id) or {}
        metadata = self._document(run_id, self.get(run_id))
        definition = job.get("properties")
        return Answer(
            200,
            {"runMetadata": metadata, "runDefinition": definition, "jobSpecification": None, "systemSettings": None},
        )

    def patch_run(self, call: Call) -> Answer:
        """Changes a run's name, description, tags and properties (both merged), and whether it is archived."""
        changes, run_id = call.json(), call.path_params["run"]
        self.get(run_id)

        def change(run: Json) -> None:
            for key, name in (("displayName", "display_name"), ("description", "description"), ("hidden", "hidden")):
                if changes.get(key) is not None:
                    run[name] = changes[key]
            object_at(run, "tags").update(optional_object(changes, "tags"))
            object_at(run, "properties").update(optional_object(changes, "properties"))
            run["modified"] = now()

        self.change(run_id, change)
        return Answer(200, self._document(run_id, self.get(run_id)))

    def resolve_data(self, call: Call) -> Answer:
        values = {
            asset_id: {"uri": uri, "type": kind, "legacyDatasetType": None}
            for asset_id, uri, kind in self._resolved(call)
        }
        return Answer(200, {"values": values})

    def resolve_models(self, call: Call) -> Answer:
        values = {asset_id: {"path": uri, "type": kind} for asset_id, uri, kind in self._resolved(call)}
        return Answer(200, {"values": values})

    def _resolved(self, call: Call) -> list[tuple[str, str, str]]:
        """(asset id, address, type) of the outputs in the request, those that exist."""
        values = call.json().get("values")
        resolved = []
        for asset_id in map(str, values if isinstance(values, list) else []):
            match = re.fullmatch(r".*/(?P<plural>data|models)/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", asset_id)
            address = self._address(match["plural"], match["name"], match["version"]) if match else None
            if address:
                resolved.append((asset_id, *address))
        return resolved

    def _address(self, plural: str, name: str, version: str) -> tuple[str, str] | None:
        """(address, type in run history) of a registered asset, or of an output under the name made for its run."""
        if record := self._world.store.get(f"{plural}_versions", f"{name}/{version}"):
            properties = object_at(record, "properties")
            uri, kind = ("modelUri", "modelType") if plural == "models" else ("dataUri", "dataType")
            return str(properties[uri]), OUTPUT_TYPES.get(str(properties[kind]), "UriFolder")
        run_id, _, output = name.removeprefix("azureml_").partition("_output_")
        return self._addresses(run_id).get(output.partition("_")[2]) if name.startswith("azureml_") else None

    def _addresses(self, run_id: str) -> dict[str, tuple[str, str]]:
        """(address, type in run history) of each output of a run, and of its logs under the name `default`."""
        settings = self._world.settings
        base = (
            f"azureml://subscriptions/{settings.subscription_id}/resourcegroups/{settings.resource_group}"
            f"/workspaces/{settings.workspace_name}/datastores"
        )
        run = self.find(run_id) or {"outputs": {}}
        addresses = {"default": (f"{base}/workspaceartifactstore/paths/{artifact_path(run_id)}/", "UriFolder")}
        outputs = object_at(run, "outputs")
        for name in outputs:
            output = object_at(outputs, name)
            slash = "" if output["type"] == "uri_file" else "/"
            kind = OUTPUT_TYPES.get(str(output["type"]), "UriFolder")
            addresses[name] = (f"{base}/workspaceblobstore/paths/{output['path']}{slash}", kind)
        return addresses

    @property
    def _asset_base(self) -> str:
        return f"azureml://locations/{self._world.settings.location}/workspaces/{self._world.workspace_guid}"

    def _inputs(self, run_id: str, run: Json) -> Json:
        """Data and models that a run reads: a registered asset under its own id, other data as one made for the run."""
        inputs: Json = {}
        for name, entry in optional_object(run, "inputs").items():
            uri, kind = str(object_at(entry)["uri"]), OUTPUT_TYPES.get(str(object_at(entry)["type"]), "UriFolder")
            plural, group = ("models", "model") if kind in MODEL_TYPES.values() else ("data", "data")
            asset_id = f"{self._asset_base}/{plural}/azureml_{run_id}_input_{group}_{name}/versions/1"
            if registered := WORKSPACE_ASSET.fullmatch(uri):
                asset_id = self._asset_base + registered["asset"]
            elif uri.startswith(REGISTRY):
                asset_id = uri
            inputs[name] = {"assetId": asset_id, "type": kind}
        return inputs

    def _outputs(self, run_id: str, run: Json) -> Json:
        """The outputs of a run: a registered one under its asset's id, others under a name made for the run."""
        outputs: Json = {}
        for name, (_, kind) in self._addresses(run_id).items():
            plural, group = ("models", "model") if kind in MODEL_TYPES.values() else ("data", "data")
            asset = optional_object(run, "outputs", name, "asset")
            asset_name = asset["name"] if asset else f"azureml_{run_id}_output_{group}_{name}"
            version = asset["version"] if asset else "1"
            asset_id = f"{self._asset_base}/{plural}/{asset_name}/versions/{version}"
            outputs[name] = {"assetId": asset_id, "type": kind}
        return outputs

    def _log_files(self, run_id: str) -> Json:
        storage, folder = self._storage, self.artifacts(run_id)
        names = sorted(
            str(file.relative_to(folder)) for kind in ("logs", "user_logs") for file in (folder / kind).rglob("*.txt")
        )
        return {name: storage.sas_url(storage.artifact_container, f"{artifact_path(run_id)}/{name}") for name in names}

    def _document(self, run_id: str, run: Json) -> Json:
        """A run as run history shows it."""
        root, parent, user = (
            str(run["root"]),
            run["parent"],
            {"userName": "local user", "userTenantId": self._world.settings.tenant_id},
        )
        run_type = RUN_TYPES[str(run["kind"])]
        return {
            "runNumber": run["number"],
            "rootRunId": root,
            "createdUtc": run["created"],
            "createdBy": user,
            "userId": "local user",
            "error": self._error(run),
            "warnings": None,
            "revision": len(states_of(run)),
            "statusRevision": len(states_of(run)) - 1,
            "runUuid": run_uuid(run_id),
            "parentRunUuid": run_uuid(str(parent)) if parent else None,
            "rootRunUuid": run_uuid(root),
            "lastModifiedBy": user,
            "lastModifiedUtc": run["modified"],
            "duration": None,
            "currentAttemptId": run.get("attempt") or 1,
            "runId": run_id,
            "parentRunId": parent,
            "experimentId": self.experiment_id(str(run["experiment"])),
            "status": run["status"],
            "startTimeUtc": run["started"],
            "endTimeUtc": run["ended"],
            "displayName": run["display_name"],
            "name": run.get("component"),
            "dataContainerId": data_container(run_id),
            "description": run.get("description"),
            "hidden": bool(run.get("hidden")),
            "runType": run_type,
            "runTypeV2": {"orchestrator": None, "traits": [run_type], "attribution": None, "computeType": None},
            "properties": {**object_at(run, "properties"), **run_properties(run)},
            "parameters": {},
            "target": run.get("target"),
            "tags": run["tags"],
            "settings": {},
            "services": {},
            "inputDatasets": [],
            "outputDatasets": [],
            "compute": {"target": run["target"]} if run.get("target") else None,
            "inputs": self._inputs(run_id, run),
            "outputs": self._outputs(run_id, run),
        }

    def _error(self, run: Json) -> Json | None:
        if not run["error"]:
            return None
        location = self._world.settings.location
        body = {"severity": None, "messageFormat": None, "details": [], "innerError": None, "additionalInfo": None}
        correlation = {"operation": None, "request": uuid4().hex[:16]}
        return {
            "error": {**object_at(run, "error"), **body},
            "correlation": correlation,
            "environment": location,
            "location": location,
            "time": run["ended"],
            "componentName": "PipelineRun" if run["kind"] == "pipeline" else "Execution",
        }


def states_of(run: Json) -> list[JsonValue]:
    """The states that a run has been in, the first one first."""
    states = run["states"]
    assert isinstance(states, list)
    return states


def run_uuid(run_id: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"run/{run_id}"))


def run_properties(run: Json) -> Json:
    """The properties with which the service describes a step's position in its pipeline."""
    if run["kind"] not in ("step", "subgraph"):
        return {}
    pipeline = {
        "azureml.pipeline": run["root"],
        "azureml.pipelinerunid": run["parent"],
        "azureml.runsource": "azureml.StepRun",
    }
    return {
        **pipeline,
        "azureml.moduleName": run.get("component"),
        "StepType": "PythonScriptStep" if run["kind"] == "step" else "SubGraph",
    }

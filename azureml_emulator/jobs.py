"""The jobs API: pipeline and command jobs, created, read, listed, changed in their tags and cancelled.

A job's name is taken for good: the same body again answers the present job, another body is refused. The work is
done by engine.py, the state stands in the run documents of runs.py. Source: jobs in
Microsoft.MachineLearningServices 2023-04-01-preview, 2024-01-01-preview and 2025-01-01-preview.
"""

import json
import threading
import time

from azureml_emulator.compute import Compute
from azureml_emulator.engine import Engine
from azureml_emulator.faults import is_hidden
from azureml_emulator.job_body import entries
from azureml_emulator.json_types import Json, JsonValue, object_at
from azureml_emulator.names import artifact_path, check_line
from azureml_emulator.operations import Operations
from azureml_emulator.plan import Plan, make_plan
from azureml_emulator.runs import TERMINAL
from azureml_emulator.steps import JobServices
from azureml_emulator.wire import NULL, Answer, Call, ServiceError, not_found, page, system_data

# Fields that a second PUT may change, and fields that the service adds to a job and a client sends back.
CHANGEABLE = {"tags", "properties", "displayName", "description", "isArchived"}
READ_ONLY = {"status", "services"}
SERVERLESS = "serverless"
LONGEST_TITLE = 256
DEFAULT_MODE = "ReadOnlyMount"
OUTPUT_FIELDS = ("description", "uri", "assetName", "assetVersion", "autoDeleteSetting")
DEFAULT_OUTPUT = {"mode": "ReadWriteMount", "jobOutputType": "uri_folder"}


class Jobs:
    """All jobs of the workspace and the engines of those under way."""

    def __init__(self, services: JobServices, operations: Operations, compute: Compute) -> None:
        self._services = services
        self._world = services.world
        self._faults = services.faults
        self._assets = services.assets
        self._runs = services.runs
        self._operations = operations
        self._compute = compute
        self._engines: dict[str, Engine] = {}
        self._creating = threading.Lock()

    def recover(self) -> None:
        """Resumes every unfinished job and every requested cancellation."""
        for name, job in self._world.store.list("jobs"):
            if self._runs.get(name)["status"] not in TERMINAL:
                self._start(self._plan(name, object_at(job, "properties")))
        for operation, name in self._operations.unfinished("jobs"):
            self._operations.resume(operation, lambda name=name: self._wait_for_end(name))

    def stop(self) -> None:
        """Waits shortly for the engines, which see `world.stopping` and end their processes."""
        deadline = time.monotonic() + 3.5
        for thread in threading.enumerate():
            if thread.name.startswith(("job ", "step ")):
                thread.join(max(0.0, deadline - time.monotonic()))

    def _plan(self, name: str, properties: Json) -> Plan:
        return make_plan(name, properties, self._assets.component)

    def _start(self, plan: Plan) -> None:
        engine = Engine(self._services, plan)
        under_way = {name: other for name, other in self._engines.items() if not other.done.is_set()}
        self._engines = {**under_way, plan.job: engine}
        engine.start()

    def put_job(self, call: Call) -> Answer:
        name, properties = call.path_params["job"], call.json().get("properties")
        if not isinstance(properties, dict) or str(properties.get("jobType")).lower() not in ("pipeline", "command"):
            kind = properties.get("jobType") if isinstance(properties, dict) else None
            text = f"Job '{name}' is of type '{kind}'. The emulator runs jobs of the types Pipeline and Command."
            raise ServiceError(400, "UserError", text, inner_error="BadArgument")
        with self._creating:
            if self._world.store.get("jobs", name) is not None:
                self._change(name, properties)
                return Answer(200, self._document(name))
            created = self._create(name, properties)
        return Answer(201, created, {"Location": f"{call.base_url}{call.raw_path}?api-version={call.api_version}"})

    def _create(self, name: str, properties: Json) -> Json:
        """The job's document as it was accepted, before its first step could change it."""
        if self._runs.find(name) is not None:
            raise ServiceError(
                409, "UserError", f"The name '{name}' belongs to a run. Choose another.", inner_error="ConflictError"
            )
        for field in ("experimentName", "displayName"):
            check_line(field, properties.get(field), LONGEST_TITLE)
        plan = self._plan(name, properties)
        self._check_computes(plan)
        kind, settings = str(properties["jobType"]).lower(), properties.get("settings")
        self._runs.create(
            name,
            kind=kind,
            root=name,
            display_name=str(properties.get("displayName") or name),
            experiment=str(properties.get("experimentName") or "Default"),
            description=properties.get("description"),
            tags={key: str(value) for key, value in entries(properties, "tags")},
            inputs=data_inputs(properties),
            properties={**run_properties(kind, properties), **dict(entries(properties, "properties"))},
            continue_on_step_failure=isinstance(settings, dict) and bool(settings.get("continue_on_step_failure")),
        )
        hidden = self._faults.until("job", name, "not_found")
        self._world.store.put("jobs", name, {"properties": properties, "hidden_until": hidden})
        self._runs.set_status(name, "Preparing" if kind == "pipeline" else "Starting")
        document = self._document(name)
        self._start(plan)
        return document

    def _check_computes(self, plan: Plan) -> None:
        """Raises: ServiceError 400 for a cluster that does not exist, or without one for an unknown instance type."""
        for step in plan.steps.values():
            cluster = (step.compute or SERVERLESS).rpartition("/")[2]
            if cluster != SERVERLESS:
                if self._compute.find(cluster) is None:
                    text = f"Node '{step.path}' asks for compute '{cluster}', which does not exist. Create it first."
                    raise ServiceError(400, "UserError", text, inner_error="ComputeNotFound")
            elif step.instance_type and self._compute.size(step.instance_type) is None:
                text = (
                    f"Node '{step.path}' asks for the instance type '{step.instance_type}', which does not exist in "
                    f"'{self._world.settings.location}'. Name a compute cluster or another size."
                )
                raise ServiceError(400, "UserError", text, inner_error="InvalidInstanceType")

    def _change(self, name: str, properties: Json) -> None:
        """Changes the fields that may change. Raises: ServiceError 400 when the body describes another job."""
        existing = self._world.store.get("jobs", name) or {}
        old, new = comparable(object_at(existing, "properties")), comparable(properties)
        different = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if different:
            text = (
                f"A job with the name '{name}' already exists and differs in: {', '.join(different)}. "
                f"Choose another name for another job. Of this one can be changed: {', '.join(sorted(CHANGEABLE))}."
            )
            raise ServiceError(400, "UserError", text, inner_error="JobPropertyImmutable")

        def edit(run: Json) -> None:
            if "tags" in properties:
                run["tags"] = {key: str(value) for key, value in entries(properties, "tags")}
            object_at(run, "properties").update(entries(properties, "properties"))
            run["display_name"] = properties.get("displayName") or run["display_name"]
            run["description"] = properties.get("description") or run.get("description")
            run["hidden"] = bool(properties.get("isArchived"))

        self._runs.change(name, edit)

    def get_job(self, call: Call) -> Answer:
        name = call.path_params["job"]
        if is_hidden(self._world.store.get("jobs", name) or {}):
            raise not_found("Job", name)
        return Answer(200, self._document(name))

    def list_jobs(self, call: Call) -> Answer:
        view = call.query.get("listViewType", "ActiveOnly").lower()
        names = []
        for name, job in self._world.store.list("jobs"):
            if is_hidden(job):
                continue
            run = self._runs.get(name)
            archived = bool(run.get("hidden"))
            is_listed = view == "all" or archived == (view == "archivedonly")
            kind, tag = call.query.get("jobType"), call.query.get("tag")
            if is_listed and (not kind or kind.lower() == run["kind"]) and (not tag or has_tag(run, tag)):
                names.append((str(run["created"]), name))
        documents = [self._document(name) for _, name in sorted(names, reverse=True)]
        return Answer(200, page(documents, call))

    def cancel_job(self, call: Call) -> Answer:
        name = call.path_params["job"]
        if self._world.store.get("jobs", name) is None:
            raise not_found("Job", name)
        run = self._runs.get(name)
        if run["status"] in TERMINAL:
            if run["kind"] == "command":
                return Answer(200)
            text = f"The pipeline run {name} is in terminal status, it can't be canceled."
            raise ServiceError(400, "UserError", text, inner_error="CancelPipelineRunInTerminalStatus")
        for run_id, _ in self._runs.family(name):
            self._runs.set_status(run_id, "CancelRequested")
        # It may have ended this moment; then there is nothing left to stop.
        if engine := self._engines.get(name):
            engine.cancel()
        operation = self._operations.start("jobs", name, lambda: self._wait_for_end(name))
        headers = {
            "Location": self._operations.result_url(operation, call.api_version),
            "x-ms-async-operation-timeout": "PT1H",
        }
        return Answer(202, NULL, {**headers, **self._operations.polling_headers()})

    def _wait_for_end(self, name: str) -> None:
        """Returns when a job has ended. Raises: Interrupted at the emulator's own end."""
        while (engine := self._engines.get(name)) and not engine.done.is_set():
            self._world.pause(0.05)

    def _document(self, name: str) -> Json:
        """A job as the service answers it; a run within a pipeline has no properties. Raises: ServiceError 404."""
        run, job = self._runs.find(name), self._world.store.get("jobs", name)
        if run is None:
            raise not_found("Job", name)
        envelope: Json = {
            "id": f"{self._world.workspace_id}/jobs/{name}",
            "name": name,
            "type": "Microsoft.MachineLearningServices/workspaces/jobs",
            "systemData": system_data(str(run["created"])),
        }
        return envelope | {"properties": self._properties(name, run, object_at(job, "properties"))} if job else envelope

    def _properties(self, name: str, run: Json, sent: Json) -> Json:
        properties: Json = {
            **sent,
            "description": run.get("description"),
            "tags": run["tags"],
            "properties": run["properties"],
            "displayName": run["display_name"],
            "status": run["status"],
            "experimentName": run["experiment"],
            "services": self._service_addresses(name),
            "computeId": sent.get("computeId"),
            "isArchived": bool(run.get("hidden")),
            "identity": sent.get("identity"),
            "componentId": sent.get("componentId"),
            "inputs": {key: shown_input(value) for key, value in entries(sent, "inputs")},
        }
        outputs: Json = {key: with_nulls(value, *OUTPUT_FIELDS) for key, value in entries(sent, "outputs")}
        if run["kind"] == "command":
            logs: Json = {
                "description": None,
                "uri": f"azureml://datastores/workspaceartifactstore/{artifact_path(name)}",
            }
            logs_output = with_nulls({**logs, **DEFAULT_OUTPUT}, *OUTPUT_FIELDS)
            outputs = {"default": logs_output, **outputs}
            properties.setdefault("parameters", {})
        return properties | {"outputs": outputs}

    def _service_addresses(self, name: str) -> Json:
        settings = self._world.settings
        tracking = f"azureml:{self._world.tracking_url.removeprefix('https:')}?"
        group = f"/subscriptions/{settings.subscription_id}/resourcegroups/{settings.resource_group}"
        workspace = f"{group}/workspaces/{settings.workspace_name}"
        return {
            "Tracking": service("Tracking", tracking),
            "Studio": service("Studio", f"https://ml.azure.com/runs/{name}?wsid={workspace}"),
        }


def service(kind: str, endpoint: str) -> Json:
    names = ("port", "status", "errorMessage", "properties", "nodes")
    return {"jobServiceType": kind, "endpoint": endpoint, **dict.fromkeys(names)}


def data_inputs(properties: Json) -> Json:
    """The inputs of a job that are data or models, each {uri, type}."""
    return {
        key: {"uri": value["uri"], "type": value.get("jobInputType")}
        for key, value in entries(properties, "inputs")
        if isinstance(value, dict) and value.get("uri")
    }


def shown_input(value: JsonValue) -> JsonValue:
    """An input as the service shows it: data that was given without a mode is mounted."""
    mode: Json = {"mode": DEFAULT_MODE} if isinstance(value, dict) and value.get("uri") else {}
    return {"description": None, **mode, **value} if isinstance(value, dict) else value


def with_nulls(value: JsonValue, *names: str) -> JsonValue:
    return {**dict.fromkeys(names), **value} if isinstance(value, dict) else value


def has_tag(run: Json, tag: str) -> bool:
    """Whether a run has a tag, asked for as `key` or `key=value`."""
    key, equals, value = tag.partition("=")
    tags = object_at(run, "tags")
    return key in tags and (not equals or tags[key] == value)


def comparable(properties: Json) -> Json:
    """The identity of a job: its body without changeable, read-only, null and empty fields."""

    def strip(value: JsonValue) -> JsonValue:
        if isinstance(value, dict):
            return {key: inner for key, item in value.items() if (inner := strip(item)) not in (None, {}, [])}
        return [strip(item) for item in value] if isinstance(value, list) else value

    identity = {key: value for key, value in properties.items() if key not in CHANGEABLE | READ_ONLY}
    identity["outputs"] = {key: value for key, value in entries(properties, "outputs") if key != "default"}
    identity["inputs"] = {
        key: {**value, "mode": None} if isinstance(value, dict) and value.get("mode") == DEFAULT_MODE else value
        for key, value in entries(properties, "inputs")
    }
    identity["experimentName"] = properties.get("experimentName") or "Default"
    stripped = strip(identity)
    assert isinstance(stripped, dict)
    return stripped


def run_properties(kind: str, sent: Json) -> Json:
    """The properties that the service adds to a job."""
    if kind != "pipeline":
        return {"_azureml.ComputeTargetType": "amlctrain"}
    literals = {
        key: value["value"] for key, value in entries(sent, "inputs") if isinstance(value, dict) and "value" in value
    }
    settings = sent.get("settings")
    continues_on_failure = isinstance(settings, dict) and bool(settings.get("continue_on_step_failure"))
    return {
        "azureml.DevPlatv2": "true",
        "azureml.runsource": "azureml.PipelineRun",
        "runSource": "MFE",
        "runType": "HTTP",
        "azureml.parameters": json.dumps(literals, separators=(",", ":")),
        "azureml.continue_on_step_failure": str(continues_on_failure),
        "azureml.continue_on_failed_optional_input": "True",
        "azureml.defaultDataStoreName": "workspaceblobstore",
        "azureml.pipelineComponent": "pipelinerun",
    }

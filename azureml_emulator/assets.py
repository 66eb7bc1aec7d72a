"""Assets of the workspace: models, data, components, codes and environments, each a container with versions.

The content of a version is immutable; its tags and description are not. `locate` gives the files of an asset.
"""

import re
import threading
from pathlib import Path
from uuid import uuid4

from azureml_emulator.asset_kinds import JOB_URI, KINDS, MODEL_TYPES, SHORT_URI, AssetFiles, Kind, spec_as_text
from azureml_emulator.faults import Faults, is_hidden
from azureml_emulator.job_body import AssetName
from azureml_emulator.json_types import Json, JsonValue, object_at, optional_object
from azureml_emulator.registry import REGISTRY_ID, Registry
from azureml_emulator.storage import ACCOUNT, Storage
from azureml_emulator.wire import Answer, Call, ServiceError, now, page, system_data, whole_number
from azureml_emulator.workspace import DEFAULT_DATASTORE, Workspace
from azureml_emulator.world import World

LONG_URI = re.compile(r"azureml://subscriptions/.*/datastores/(?P<datastore>[^/]+)/paths/(?P<path>.*)", re.IGNORECASE)
ASSET_ID = re.compile(
    r"(?:azureml:)?/?subscriptions/.*/workspaces/[^/]+/(?P<plural>\w+)/(?P<name>[^/]+)/versions/(?P<version>[^/]+)",
    re.IGNORECASE,
)
# Stands in stored documents for the address of the storage account, whose port differs from start to start.
STORAGE_MARK = "storage:/"


class Assets:
    """Asset containers and versions, and the way from any asset address to local files."""

    def __init__(
        self, world: World, faults: Faults, storage: Storage, workspace: Workspace, registry: Registry
    ) -> None:
        self._world = world
        self._faults = faults
        self._storage = storage
        self._workspace = workspace
        self._registry = registry
        # Registration of outputs chooses a number and saves it at once.
        self._saving = threading.Lock()
        self._files = AssetFiles(self.locate, storage.check_links)
        self._kinds = {kind.plural: kind for kind in KINDS}

    def locate(self, uri: str) -> Path:
        """The local file or folder behind an address.

        Addresses: `azureml://jobs/<job>/outputs/<name>[/paths/<path>]`, datastore paths in both forms, registry models,
        ARM ids of models, data and codes in this workspace, and URLs of this storage account.

        Raises: ServiceError 404 when there is nothing, 400 when it is no address.
        """
        path = self._path(uri)
        if path is None:
            text = (
                f"The address '{uri}' is not azureml://jobs/..., azureml://datastores/..., a registry or an asset id."
            )
            raise ServiceError(400, "UserError", text, inner_error="InvalidAssetUri")
        if not path.exists():
            raise ServiceError(404, "UserError", f"There is nothing at '{uri}'.", inner_error="NotFoundError")
        return path

    def _path(self, uri: str) -> Path | None:
        storage = self._storage
        if match := JOB_URI.fullmatch(uri):
            path = f"azureml/{match['job']}/{match['output']}/{match['path']}"
            return storage.folder(storage.default_container, path)
        if match := SHORT_URI.fullmatch(uri) or LONG_URI.fullmatch(uri):
            return storage.folder(self._workspace.container(match["datastore"]), match["path"])
        if match := REGISTRY_ID.fullmatch(uri):
            return self._registry.weights(match["name"], match["version"])
        if match := ASSET_ID.fullmatch(uri):
            kind = self._kinds.get(match["plural"].lower())
            if kind is None or kind.fixed[0] not in ("modelUri", "dataUri", "codeUri"):
                return None
            document = self._version(kind, match["name"], match["version"])
            return self.locate(str(object_at(document, "properties")[kind.fixed[0]]))
        return storage.locate(uri) if uri.startswith("https://") else None

    def component(self, component_id: str) -> Json:
        """The spec of a component of the workspace or of the registry, scalars as text. Raises: ServiceError 404."""
        registry_match = REGISTRY_ID.fullmatch(component_id)
        if registry_match and registry_match["plural"] == "components":
            spec = self._registry.component(registry_match["name"], registry_match["version"])
            if spec is not None:
                text = spec_as_text(spec)
                assert isinstance(text, dict)
                return text
        match = ASSET_ID.fullmatch(component_id)
        if match is None or match["plural"].lower() != "components":
            raise ServiceError(
                404, "UserError", f"There is no component '{component_id}'.", inner_error="NotFoundError"
            )
        document = self._version(self._kinds["components"], match["name"], match["version"])
        return object_at(document, "properties", "componentSpec")

    def model(self, model_id: str) -> Json:
        """The properties of a model version of this workspace, by its ARM id. Raises: ServiceError 404."""
        match = ASSET_ID.fullmatch(model_id)
        if match is None or match["plural"].lower() != "models":
            raise ServiceError(404, "UserError", f"There is no model '{model_id}'.", inner_error="NotFoundError")
        return object_at(self._version(self._kinds["models"], match["name"], match["version"]), "properties")

    def register_output(self, asset: AssetName, kind: str, path: str, run_id: str) -> str:
        """The version under which a run's output is registered; the same again for an output that already is.

        `kind` is the output's type, e.g. `uri_folder`; `path` its place in the default datastore. Without a version
        the asset gets the next number.

        Raises: ServiceError 409 when the version exists with other content, 400 for an MLflow model without MLmodel.
        """
        uri = f"azureml://datastores/{DEFAULT_DATASTORE}/paths/{path}"
        sent: Json
        if kind in MODEL_TYPES:
            plural = "models"
            sent = {"modelUri": uri, "modelType": kind, "jobName": run_id}
        else:
            plural = "data"
            sent = {"dataUri": uri if kind == "uri_file" else f"{uri}/", "dataType": kind}
        with self._saving:
            version = asset.version or self._version_of_output(self._kinds[plural], asset.name, sent)
            self._save(self._kinds[plural], asset.name, version, sent)
        return version

    def _version_of_output(self, kind: Kind, name: str, sent: Json) -> str:
        """The version that holds this output already, e.g. from before a restart; else the next number."""
        own = kind.complete(self._world, sent, self._files)
        for version, record in self._versions(kind, name):
            if all(object_at(record, "properties").get(key) == own.get(key) for key in kind.fixed):
                return version
        return next_version(self._versions(kind, name))

    def _version(self, kind: Kind, name: str, version: str) -> Json:
        record = self._world.store.get(f"{kind.plural}_versions", f"{name}/{version}")
        if record is None:
            raise self._missing(kind, name, version)
        return self._envelope(kind, name, version, record)

    def _missing(self, kind: Kind, name: str, version: str) -> ServiceError:
        workspace = self._world.settings.workspace_name
        text = f"Not found: {kind.label} '{name}' version '{version}' does not exist in '{workspace}'."
        return ServiceError(404, "UserError", text, inner_error="NotFoundError")

    def _envelope(self, kind: Kind, name: str, version: str, record: Json) -> Json:
        properties = dict(object_at(record, "properties"))
        if "codeUri" in properties:
            properties["codeUri"] = str(properties["codeUri"]).replace(STORAGE_MARK, self._storage.account_url)
        return {
            "id": f"{self._world.workspace_id}/{kind.plural}/{name}/versions/{version}",
            "name": version,
            "type": f"Microsoft.MachineLearningServices/workspaces/{kind.plural}/versions",
            "properties": properties,
            "systemData": system_data(str(record["created"]), str(record["modified"])),
        }

    def _versions(self, kind: Kind, name: str) -> list[tuple[str, Json]]:
        """(version, record) of one asset, the newest first."""
        records = self._world.store.list(f"{kind.plural}_versions", f"{name}/")
        named = [(key.removeprefix(f"{name}/"), record) for key, record in records]
        return sorted(named, key=lambda entry: (str(entry[1]["created"]), entry[0]), reverse=True)

    def get_version(self, kind: Kind, call: Call) -> Answer:
        name, version = call.path_params["asset"], call.path_params["version"]
        if is_hidden(self._world.store.get(f"{kind.plural}_versions", f"{name}/{version}") or {}):
            raise self._missing(kind, name, version)
        return Answer(200, self._version(kind, name, version))

    def put_version(self, kind: Kind, call: Call) -> Answer:
        name, version = call.path_params["asset"], call.path_params["version"]
        with self._saving:
            created = self._save(kind, name, version, optional_object(call.json(), "properties"))
        location = f"{call.base_url}{call.raw_path}?api-version={call.api_version}"
        headers = {"Location": location} if created else {}
        return Answer(201 if created else 200, self._version(kind, name, version), headers)

    def _save(self, kind: Kind, name: str, version: str, sent: Json) -> bool:
        """Writes a version; true when it is new. Raises: ServiceError 409 when its content would change."""
        existing = self._world.store.get(f"{kind.plural}_versions", f"{name}/{version}")
        own = kind.complete(self._world, sent, self._files)
        if "codeUri" in own:
            own["codeUri"] = str(own["codeUri"]).replace(self._storage.account_url, STORAGE_MARK)
        changed = [key for key in kind.fixed if existing and object_at(existing, "properties").get(key) != own.get(key)]
        if existing and changed:
            text = (
                f"The {kind.label} '{name}' version '{version}' exists and its {changed[0]} cannot be changed. "
                "Use another version, or leave the version out to get the next one."
            )
            raise ServiceError(409, "UserError", text, inner_error="ConflictError")
        properties: Json = {
            "description": sent.get("description"),
            "tags": as_text(sent.get("tags")),
            "properties": as_text(sent.get("properties")),
            "isArchived": bool(sent.get("isArchived")),
            "isAnonymous": bool(sent.get("isAnonymous")),
            **own,
        }
        moment = now()
        record: Json = {
            "created": existing["created"] if existing else moment,
            "modified": moment,
            "properties": properties,
            "hidden_until": existing.get("hidden_until", 0) if existing else self._hidden_until(kind, name),
        }
        self._world.store.put(f"{kind.plural}_versions", f"{name}/{version}", record)
        if self._world.store.get(kind.plural, name) is None:
            self._world.store.put(kind.plural, name, new_container(properties, moment))
        return existing is None

    def _hidden_until(self, kind: Kind, name: str) -> float:
        return self._faults.until("asset", f"{kind.plural}/{name}", "not_found")

    def list_versions(self, kind: Kind, call: Call) -> Answer:
        name = call.path_params["asset"]
        if "hash" in call.query:
            return Answer(200, {"value": self._by_hash(kind, call)})
        documents = [
            self._envelope(kind, name, version, record)
            for version, record in self._versions(kind, name)
            if is_listed(object_at(record, "properties"), call) and not is_hidden(record)
        ]
        return Answer(200, page(documents, call, whole_number("$top", call.query.get("$top"), 100, least=1)))

    def _by_hash(self, kind: Kind, call: Call) -> list[Json]:
        """Versions of any name whose content has the hash: a search over the whole workspace."""
        hits = []
        for key, record in self._world.store.list(f"{kind.plural}_versions"):
            properties = optional_object(record, "properties", "properties")
            if properties.get("hash_sha256") == call.query["hash"] and not is_hidden(record):
                name, _, version = key.rpartition("/")
                hits.append(self._envelope(kind, name, version, record))
        return hits[:1]

    def _container_envelope(self, kind: Kind, name: str, record: Json) -> Json:
        versions = self._versions(kind, name)
        shown = [version for version, record in versions if not is_hidden(record)]
        extra: Json = {} if kind.plural == "data" else {"provisioningState": "Succeeded"}
        own = {"latestVersion": shown[0] if shown else None, "nextVersion": next_version(versions)}
        return {
            "id": f"{self._world.workspace_id}/{kind.plural}/{name}",
            "name": name,
            "type": f"Microsoft.MachineLearningServices/workspaces/{kind.plural}",
            "properties": {**object_at(record, "properties"), **own, **extra},
            "systemData": system_data(str(record["created"]), str(record["modified"])),
        }

    def list_containers(self, kind: Kind, call: Call) -> Answer:
        documents = [
            self._container_envelope(kind, name, record)
            for name, record in self._world.store.list(kind.plural)
            if is_listed(object_at(record, "properties"), call)
            and not record["anonymous"]
            and self._is_shown(kind, name)
        ]
        return Answer(200, page(documents, call, 100))

    def get_container(self, kind: Kind, call: Call) -> Answer:
        name = call.path_params["asset"]
        record = self._world.store.get(kind.plural, name)
        if record is None or not self._is_shown(kind, name):
            text = (
                f"Not found: {kind.label} container '{name}' does not exist in '{self._world.settings.workspace_name}'."
            )
            raise ServiceError(404, "UserError", text, inner_error="NotFoundError")
        return Answer(200, self._container_envelope(kind, name, record))

    def _is_shown(self, kind: Kind, name: str) -> bool:
        """Whether an asset has a version that is to be found, or none at all."""
        versions = self._versions(kind, name)
        return not versions or any(not is_hidden(record) for _, record in versions)

    def put_container(self, kind: Kind, call: Call) -> Answer:
        name, sent = call.path_params["asset"], optional_object(call.json(), "properties")
        existing = self._world.store.get(kind.plural, name)
        record = existing or new_container(sent, now())
        for key in ("description", "tags", "properties", "isArchived"):
            if sent.get(key) is not None:
                object_at(record, "properties")[key] = sent[key]
        record["modified"] = now()
        self._world.store.put(kind.plural, name, record)
        return Answer(200 if existing else 201, self._container_envelope(kind, name, record))

    def start_upload(self, call: Call) -> Answer:
        """A new container for the files of one version, with a signature to write to it."""
        storage = self._storage
        container = f"{self._world.workspace_guid[:8]}-{uuid4()}"
        storage.folder(container, "").mkdir()
        settings = self._world.settings
        group = f"/subscriptions/{settings.subscription_id}/resourceGroups/{settings.resource_group}"
        reference: Json = {
            "blobUri": storage.url(container),
            "storageAccountArmId": f"{group}/providers/Microsoft.Storage/storageAccounts/{ACCOUNT}",
            "credential": {
                "credentialType": "SAS",
                "sasUri": storage.sas_url(container, permissions="rcwl", seconds=3600),
            },
        }
        body: Json = {"blobReferenceForConsumption": reference, "pendingUploadId": None, "pendingUploadType": "None"}
        return Answer(200, body)


def next_version(versions: list[tuple[str, Json]]) -> str:
    """The number after the highest one, hidden versions included."""
    return str(max((int(version) for version, _ in versions if version.isdigit()), default=0) + 1)


def as_text(values: JsonValue) -> Json | None:
    """Tags or properties with text as values; clients send numbers too. None stays None, as in the service."""
    if values is None:
        return None
    entries = values if isinstance(values, dict) else {}
    return {key: value if value is None or isinstance(value, str) else str(value) for key, value in entries.items()}


def is_listed(properties: Json, call: Call) -> bool:
    """Whether the call's listViewType asks for an asset that is archived or not."""
    view = call.query.get("listViewType", "ActiveOnly")
    return view == "All" or bool(properties.get("isArchived")) == (view == "ArchivedOnly")


def new_container(properties: Json, moment: str) -> Json:
    kept: Json = {"description": None, "tags": {}, "properties": {}, "isArchived": False}
    if "dataType" in properties:
        kept["dataType"] = properties["dataType"]
    return {"created": moment, "modified": moment, "anonymous": bool(properties.get("isAnonymous")), "properties": kept}

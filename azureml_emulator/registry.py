"""The public model registry: discovery, and the models and components that lie as files in the folder `registry`.

Read-only, as the public registry is. A model's weights are a folder on this machine (`--weights NAME=DIR` replaces it).
Source: registry data plane, api-version 2021-10-01-dataplanepreview.
"""

import re
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import yaml

from azureml_emulator.asset_kinds import spec_as_text
from azureml_emulator.json_types import Json, optional_object
from azureml_emulator.storage import ACCOUNT, REGISTRY_CONTAINER, Storage
from azureml_emulator.wire import PROVIDER, Answer, Call, ServiceError, page, system_data, whole_number
from azureml_emulator.world import World

FILES = Path(__file__).parent / "registry"
REGISTRY_ID = re.compile(
    r"azureml://registries/(?P<registry>[^/]+)/(?P<plural>\w+)/(?P<name>[^/]+)/versions/(?P<version>[^/]+)/?"
)
PUBLISHED = "2024-04-23T00:00:00.0000000+00:00"


class Registry:
    """Models and components of the registry, by name and version."""

    def __init__(self, world: World, storage: Storage) -> None:
        self._world = world
        self._storage = storage
        self._models: dict[str, dict[str, Json]] = {}
        self._components: dict[str, dict[str, Json]] = {}
        for file in sorted((FILES / "models").glob("*.yaml")):
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
            self._models.setdefault(document["name"], {})[str(document["version"])] = document
        for file in sorted((FILES / "components").glob("*/*.yaml")):
            self._components.setdefault(file.parent.name, {})[file.stem] = yaml.safe_load(
                file.read_text(encoding="utf-8")
            )
        self._link_weights()

    def _link_weights(self) -> None:
        """Makes the weights of every model readable as blobs."""
        # The SDK takes a model's path in its container from the second segment of its URL. Here, where the account
        # stands in the path, that repeats the container's name: the weights are readable under both names.
        for prefix in ("", f"{REGISTRY_CONTAINER}/"):
            for name, documents in self._models.items():
                for version in documents:
                    path = f"{prefix}{name}/{version}"
                    self._storage.link(REGISTRY_CONTAINER, path, self._weights_folder(name, version))

    def component(self, name: str, version: str) -> Json | None:
        """A component's YAML as it stands in its file."""
        return self._components.get(name, {}).get(version)

    def weights(self, name: str, version: str) -> Path:
        """The folder with a model's files. Raises: ServiceError 404."""
        if version not in self._models.get(name, {}):
            raise self._missing("models", name, version)
        folder = self._weights_folder(name, version)
        if not folder.is_dir():
            text = f"The weights of model '{name}' are not at '{folder}'. Start the emulator with --weights {name}=DIR."
            raise ServiceError(404, "UserError", text, inner_error="NotFoundError")
        return folder

    def _weights_folder(self, name: str, version: str) -> Path:
        named = str(self._models[name][version]["weights"])
        return self._world.settings.weights.get(name, FILES / "weights" / named).resolve()

    def discover(self, call: Call) -> Answer:
        settings, name = self._world.settings, call.path_params["registry"]
        if name != settings.registry_name:
            text = f"User/tenant/subscription is not allowed to access registry {name}"
            raise ServiceError(403, "UserError", text, shape="native")
        body: Json = {
            "registryId": str(uuid5(NAMESPACE_URL, name)),
            "registryName": name,
            "tenantId": settings.tenant_id,
            "primaryRegion": settings.location,
            "regions": [settings.location],
            "subscriptionId": settings.subscription_id,
            "resourceGroup": settings.resource_group,
            "workspaceName": None,
            "primaryRegionResourceProviderUri": f"{self._world.url}/",
            "registryFqdns": {settings.location: {"uri": self._world.url}},
            "intellectualPropertyPublisher": None,
        }
        return Answer(200, body)

    def _missing(self, plural: str, name: str, version: str = "") -> ServiceError:
        asset = f"{plural[:-1]} '{name}'" + (f" version '{version}'" if version else "")
        text = f"Not found: {asset} does not exist in registry '{self._world.settings.registry_name}'."
        return ServiceError(404, "UserError", text, inner_error="NotFoundError")

    def _shelf(self, call: Call) -> tuple[str, dict[str, dict[str, Json]]]:
        """The plural in the path and what the registry has of it. Raises: ServiceError 404 for another registry."""
        if call.path_params["registry"].lower() != self._world.settings.registry_name.lower():
            raise ServiceError(404, "UserError", f"Not found: registry '{call.path_params['registry']}'.")
        # After this word come the registry's name and then the kind of asset.
        plural = call.path.lower().rpartition("/registries/")[2].split("/")[1]
        return plural, {"models": self._models, "components": self._components}[plural]

    def _versions(self, call: Call) -> list[tuple[str, Json]]:
        """(version, document) of the asset in the path, the newest first."""
        _, shelf = self._shelf(call)
        versions = shelf.get(call.path_params["asset"], {})
        return sorted(versions.items(), key=lambda entry: version_key(entry[0]), reverse=True)

    def list_assets(self, call: Call) -> Answer:
        plural, shelf = self._shelf(call)
        return Answer(200, page([self._container(call, plural, name) for name in sorted(shelf)], call, 100))

    def get_asset(self, call: Call) -> Answer:
        plural, shelf = self._shelf(call)
        if call.path_params["asset"] not in shelf:
            raise self._missing(plural, call.path_params["asset"])
        return Answer(200, self._container(call, plural, call.path_params["asset"]))

    def _container(self, call: Call, plural: str, name: str) -> Json:
        shelf = {"models": self._models, "components": self._components}[plural]
        newest = max(shelf[name], key=version_key)
        return {
            "id": f"{self._world.registry_id}/{plural}/{name}",
            "name": name,
            "type": f"{PROVIDER}/registries/{plural}",
            "properties": {
                "description": None,
                "tags": {},
                "properties": {},
                "isArchived": bool(shelf[name][newest].get("archived")),
                "latestVersion": newest,
                "nextVersion": None,
            },
            "systemData": system_data(PUBLISHED, principal="Microsoft"),
        }

    def list_versions(self, call: Call) -> Answer:
        view = call.query.get("listViewType", "All")
        documents = [
            self._document(call, version, document)
            for version, document in self._versions(call)
            if view == "All" or bool(document.get("archived")) == (view == "ArchivedOnly")
        ]
        return Answer(200, page(documents, call, whole_number("$top", call.query.get("$top"), 100, least=1)))

    def get_version(self, call: Call) -> Answer:
        plural, shelf = self._shelf(call)
        name, version = call.path_params["asset"], call.path_params["version"]
        if version not in shelf.get(name, {}):
            raise self._missing(plural, name, version)
        return Answer(200, self._document(call, version, shelf[name][version]))

    def _document(self, call: Call, version: str, document: Json) -> Json:
        plural, _ = self._shelf(call)
        name = call.path_params["asset"]
        own = self._model_properties(name, version) if plural == "models" else component_properties(document)
        return {
            "id": f"{self._world.registry_id}/{plural}/{name}/versions/{version}",
            "name": version,
            "type": f"{PROVIDER}/registries/{plural}/versions",
            "properties": own,
            "systemData": system_data(str(document.get("created") or PUBLISHED), principal="Microsoft"),
        }

    def _model_properties(self, name: str, version: str) -> Json:
        document = self._models[name][version]
        properties: Json = {
            "description": document.get("description"),
            "tags": optional_object(document, "tags"),
            "properties": optional_object(document, "properties"),
            "isArchived": bool(document.get("archived")),
            "isAnonymous": False,
            "flavors": optional_object(document, "flavors"),
            "modelType": document["type"],
            "modelUri": self._storage.url(REGISTRY_CONTAINER, f"{name}/{version}"),
            "jobName": None,
        }
        if "system_metadata" in document:
            properties["systemMetadata"] = document["system_metadata"]
        return properties

    def create_data_reference(self, call: Call) -> Answer:
        """A signature to read a model's files."""
        storage, settings = self._storage, self._world.settings
        name, version = call.path_params["asset"], call.path_params["version"]
        self.weights(name, version)
        group = f"/subscriptions/{settings.subscription_id}/resourceGroups/{settings.resource_group}"
        reference: Json = {
            "blobUri": storage.url(REGISTRY_CONTAINER, f"{name}/{version}"),
            "storageAccountArmId": f"{group}/providers/Microsoft.Storage/storageAccounts/{ACCOUNT}",
            "credential": {"credentialType": "SAS", "sasUri": storage.sas_url(REGISTRY_CONTAINER, permissions="rl")},
        }
        return Answer(200, {"blobReferenceForConsumption": reference})


def component_properties(document: Json) -> Json:
    return {
        "description": document.get("description"),
        "tags": optional_object(document, "tags"),
        "properties": {},
        "isArchived": False,
        "isAnonymous": False,
        "componentSpec": spec_as_text(document),
    }


def version_key(version: str) -> tuple[int, ...]:
    """Orders 0.0.9 before 0.0.10, and 9 before 15."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))

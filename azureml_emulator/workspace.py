"""The workspace, its datastores and its service addresses. One workspace exists from the first start."""

from azureml_emulator.identity import Identity
from azureml_emulator.json_types import Json
from azureml_emulator.storage import ACCOUNT, Storage
from azureml_emulator.wire import PROVIDER, Answer, Call, ServiceError, now, page, system_data, whole_number
from azureml_emulator.world import World

DEFAULT_DATASTORE = "workspaceblobstore"
ARTIFACT_DATASTORE = "workspaceartifactstore"
LONGEST_HOURS = 366 * 24


class Workspace:
    """Workspace, datastores, discovery."""

    def __init__(self, world: World, identity: Identity, storage: Storage) -> None:
        self._world = world
        self._identity = identity
        self._storage = storage
        if world.store.get("workspaces", world.settings.workspace_name) is None:
            world.store.put("workspaces", world.settings.workspace_name, {"created": now(), "tags": {}})

    def container(self, datastore: str) -> str:
        """The storage container of a datastore. Raises: ServiceError 404."""
        storage = self._storage
        containers = {DEFAULT_DATASTORE: storage.default_container, ARTIFACT_DATASTORE: storage.artifact_container}
        if datastore not in containers:
            text = f"Could not find datastore '{datastore}'. The datastores are {', '.join(containers)}."
            raise ServiceError(404, "UserError", text, inner_error="NotFoundError")
        return containers[datastore]

    def check(self, call: Call) -> None:
        """Raises: ServiceError 404 when the path names another workspace than this one."""
        settings, name = self._world.settings, call.path_params.get("workspace")
        if name is None:
            return
        group = call.path_params["group"]
        own = (settings.subscription_id, settings.resource_group.lower(), settings.workspace_name.lower())
        if (call.path_params["subscription"], group.lower(), name.lower()) != own:
            text = f"The Resource '{PROVIDER}/workspaces/{name}' under resource group '{group}' was not found."
            raise ServiceError(404, "ResourceNotFound", text, shape="arm")

    def get_workspace(self, call: Call) -> Answer:
        return Answer(200, self._document())

    def _document(self) -> Json:
        settings, world = self._world.settings, self._world
        record = world.store.get("workspaces", settings.workspace_name) or {}
        created = str(record["created"])
        group = f"/subscriptions/{settings.subscription_id}/resourceGroups/{settings.resource_group}/providers"
        return {
            "id": world.workspace_id,
            "name": settings.workspace_name,
            "type": f"{PROVIDER}/workspaces",
            "location": settings.location,
            "tags": record["tags"],
            "etag": None,
            "properties": {
                "friendlyName": settings.workspace_name,
                "description": "",
                "storageAccount": f"{group}/Microsoft.Storage/storageAccounts/{ACCOUNT}",
                "keyVault": f"{group}/Microsoft.Keyvault/vaults/local",
                "applicationInsights": f"{group}/Microsoft.insights/components/local",
                "hbiWorkspace": False,
                "tenantId": settings.tenant_id,
                "imageBuildCompute": None,
                "provisioningState": "Succeeded",
                "v1LegacyMode": False,
                "softDeleteEnabled": False,
                "containerRegistry": None,
                "creationTime": created,
                "storageHnsEnabled": False,
                "workspaceId": world.workspace_guid,
                "privateLinkCount": 0,
                "publicNetworkAccess": "Enabled",
                "discoveryUrl": f"{world.url}/discovery",
                "mlFlowTrackingUri": f"azureml://localhost:{settings.port}/mlflow/v1.0{world.workspace_id}",
                "enableDataIsolation": False,
            },
            "identity": {
                "type": "SystemAssigned",
                "principalId": "44444444-4444-4444-4444-444444444444",
                "tenantId": settings.tenant_id,
            },
            "kind": "Default",
            "sku": {"name": "Basic", "tier": "Basic"},
            "systemData": system_data(created),
        }

    def _datastore(self, name: str) -> Json:
        record = self._world.store.get("workspaces", self._world.settings.workspace_name) or {}
        return {
            "id": f"{self._world.workspace_id}/datastores/{name}",
            "name": name,
            "type": f"{PROVIDER}/workspaces/datastores",
            "properties": {
                "description": None,
                "tags": None,
                "properties": None,
                "isDefault": name == DEFAULT_DATASTORE,
                # The service leaves out the `secrets` that its own OpenAPI requires.
                "credentials": {"credentialsType": "Sas"},
                "datastoreType": "AzureBlob",
                "accountName": f"localhost:{self._world.settings.port}/{ACCOUNT}",
                "containerName": self.container(name),
                "endpoint": f"localhost:{self._world.settings.port}",
                "protocol": "https",
                "serviceDataAccessAuthIdentity": "WorkspaceSystemAssignedIdentity",
            },
            "systemData": system_data(str(record["created"])),
        }

    def list_datastores(self, call: Call) -> Answer:
        documents = [self._datastore(name) for name in (DEFAULT_DATASTORE, ARTIFACT_DATASTORE)]
        if call.query.get("isDefault", "").lower() == "true":
            documents = documents[:1]
        return Answer(200, page(documents, call, whole_number("count", call.query.get("count"), 30, least=1)))

    def get_datastore(self, call: Call) -> Answer:
        return Answer(200, self._datastore(call.path_params["datastore"]))

    def list_secrets(self, call: Call) -> Answer:
        container = self.container(call.path_params["datastore"])
        hours = whole_number("expireAfterHours", call.json().get("expireAfterHours"), 1, least=1, most=LONGEST_HOURS)
        token = self._identity.sign(container, seconds=hours * 3600)
        return Answer(200, {"secretsType": "Sas", "sasToken": f"?{token}"})

    def get_service_addresses(self, call: Call) -> Answer:
        names = (
            "api",
            "experimentation",
            "history",
            "hyperdrive",
            "labeling",
            "modelmanagement",
            "pipelines",
            "studio",
        )
        return Answer(200, dict.fromkeys(names, self._world.url))

"""The whole REST surface of the emulator: every method, path, api-version and handler.

`{workspace}` and `{registry}` stand for the whole prefix, see wire.py. A path that is not listed answers 501.
Source: the api-versions that azure-ai-ml 1.35 sends.
"""

from functools import partial

from azureml_emulator.asset_kinds import KINDS, Kind
from azureml_emulator.services import Services
from azureml_emulator.wire import ARM_GROUP, PROVIDER, Route

REGISTRY = frozenset({"2021-10-01-dataplanepreview"})
WORKSPACE = frozenset({"2024-10-01-preview", "2023-08-01-preview", "2023-04-01-preview"})
DATASTORES = frozenset({"2024-10-01-preview", "2023-04-01-preview"})
COMPUTE = frozenset({"2023-08-01-preview", "2023-04-01-preview"})
JOBS = frozenset({"2023-04-01-preview", "2024-01-01-preview", "2024-10-01-preview", "2025-01-01-preview"})
CANCEL = frozenset({"2023-04-01-preview"})
ONLINE = frozenset({"2022-02-01-preview", "2023-04-01-preview"})

LOCATION = f"/subscriptions/{{subscription}}/providers/{PROVIDER}/locations/{{location}}"
ACCOUNT_CONTAINER = "/{account}.blob.{suffix}/{container}"
HISTORY = f"/history/v1.0{ARM_GROUP}/workspaces/{{workspace}}"
DATA_PLANE = f"/data/v1.0{ARM_GROUP}/workspaces/{{workspace}}"
MODEL_PLANE = f"/modelregistry/v1.0{ARM_GROUP}/workspaces/{{workspace}}"
# azureml-mlflow asks under v2.0, the workspace's address says v1.0.
MLFLOW = [f"/mlflow/{version}{ARM_GROUP}/workspaces/{{workspace}}/{{rest:path}}" for version in ("v1.0", "v2.0")]
MLFLOW_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def route_table(services: Services) -> list[Route]:
    """Every route of the emulator."""
    return [
        *sign_in_routes(services),
        *admin_routes(services),
        *workspace_routes(services),
        *storage_routes(services),
        *registry_routes(services),
        *(route for kind in KINDS for route in asset_routes(services, kind)),
        *compute_routes(services),
        *job_routes(services),
        *history_routes(services),
        *endpoint_routes(services),
        *operation_routes(services),
    ]


def sign_in_routes(services: Services) -> list[Route]:
    identity, workspace = services.identity, services.workspace
    return [
        Route("GET", "/metadata/endpoints", frozenset({"2019-05-01"}), identity.get_cloud_metadata, auth="none"),
        Route("GET", "/msi/token", frozenset({"2019-08-01"}), identity.get_token, auth="none"),
        Route("GET", "/discovery", None, workspace.get_service_addresses, auth="none"),
    ]


def admin_routes(services: Services) -> list[Route]:
    admin, faults, compute = services.admin, services.faults, services.compute
    return [
        Route("GET", "/admin/status", None, admin.get_status, auth="admin"),
        Route("GET", "/admin/requests", None, admin.list_requests, auth="admin"),
        Route("GET", "/admin/work", None, admin.list_work, auth="admin"),
        Route("GET", "/admin/timing", None, admin.get_timing, auth="admin"),
        Route("PUT", "/admin/timing", None, admin.put_timing, auth="admin"),
        Route("GET", "/admin/quota", None, compute.get_quota, auth="admin"),
        Route("PUT", "/admin/quota", None, compute.put_quota, auth="admin"),
        Route("GET", "/admin/faults", None, faults.list_faults, auth="admin"),
        Route("PUT", "/admin/faults", None, faults.put_faults, auth="admin"),
        Route("DELETE", "/admin/faults", None, faults.delete_faults, auth="admin"),
    ]


def workspace_routes(services: Services) -> list[Route]:
    workspace = services.workspace
    return [
        Route("GET", "{workspace}", WORKSPACE, workspace.get_workspace),
        Route("GET", "{workspace}/datastores", DATASTORES, workspace.list_datastores),
        Route("GET", "{workspace}/datastores/{datastore}", DATASTORES, workspace.get_datastore),
        Route("POST", "{workspace}/datastores/{datastore}/listSecrets", DATASTORES, workspace.list_secrets),
    ]


def storage_routes(services: Services) -> list[Route]:
    blobs, blob = services.blobs, ACCOUNT_CONTAINER + "/{blob:path}"
    return [
        Route("GET", ACCOUNT_CONTAINER, None, blobs.get_container, auth="storage"),
        Route("HEAD", ACCOUNT_CONTAINER, None, blobs.get_container, auth="storage"),
        Route("PUT", ACCOUNT_CONTAINER, None, blobs.create_container, auth="storage"),
        Route("GET", blob, None, blobs.read_blob, auth="storage"),
        Route("HEAD", blob, None, blobs.get_blob_properties, auth="storage"),
        Route("PUT", blob, None, blobs.write_blob, auth="storage", streamed=True),
        Route("DELETE", blob, None, blobs.delete_blob, auth="storage"),
    ]


def registry_routes(services: Services) -> list[Route]:
    registry = services.registry
    return [
        Route("GET", "/registrymanagement/v1.0/registries/{registry}/discovery", None, registry.discover),
        Route("GET", "{registry}/models", REGISTRY, registry.list_assets),
        Route("GET", "{registry}/models/{asset}", REGISTRY, registry.get_asset),
        Route("GET", "{registry}/models/{asset}/versions", REGISTRY, registry.list_versions),
        Route("GET", "{registry}/models/{asset}/versions/{version}", REGISTRY, registry.get_version),
        Route("GET", "{registry}/components", REGISTRY, registry.list_assets),
        Route("GET", "{registry}/components/{asset}", REGISTRY, registry.get_asset),
        Route("GET", "{registry}/components/{asset}/versions", REGISTRY, registry.list_versions),
        Route("GET", "{registry}/components/{asset}/versions/{version}", REGISTRY, registry.get_version),
        Route("POST", "{registry}/datarefs/{asset}/versions/{version}", REGISTRY, registry.create_data_reference),
    ]


def asset_routes(services: Services, kind: Kind) -> list[Route]:
    """The routes of models, data, components, codes or environments."""
    assets, names = services.assets, f"{{workspace}}/{kind.plural}"
    name, versions = f"{names}/{{asset}}", f"{names}/{{asset}}/versions"
    version = f"{versions}/{{version}}"
    return [
        Route("GET", names, kind.api_versions, partial(assets.list_containers, kind)),
        Route("GET", name, kind.api_versions, partial(assets.get_container, kind)),
        Route("PUT", name, kind.api_versions, partial(assets.put_container, kind)),
        Route("GET", versions, kind.api_versions, partial(assets.list_versions, kind)),
        Route("GET", version, kind.api_versions, partial(assets.get_version, kind)),
        Route("PUT", version, kind.api_versions, partial(assets.put_version, kind)),
        Route("POST", f"{version}/startPendingUpload", kind.api_versions, assets.start_upload),
    ]


def compute_routes(services: Services) -> list[Route]:
    compute = services.compute
    return [
        Route("GET", "{workspace}/computes", COMPUTE, compute.list_clusters),
        Route("GET", "{workspace}/computes/{compute}", COMPUTE, compute.get_cluster),
        Route("PUT", "{workspace}/computes/{compute}", COMPUTE, compute.put_cluster),
        Route("DELETE", "{workspace}/computes/{compute}", COMPUTE, compute.delete_cluster),
        Route("GET", f"{LOCATION}/vmSizes", COMPUTE, compute.list_sizes),
    ]


def job_routes(services: Services) -> list[Route]:
    jobs = services.jobs
    return [
        Route("GET", "{workspace}/jobs", JOBS, jobs.list_jobs),
        Route("GET", "{workspace}/jobs/{job}", JOBS, jobs.get_job),
        Route("PUT", "{workspace}/jobs/{job}", JOBS, jobs.put_job),
        Route("POST", "{workspace}/jobs/{job}/cancel", CANCEL, jobs.cancel_job),
    ]


def history_routes(services: Services) -> list[Route]:
    """Run history, the resolvers of output addresses, and MLflow."""
    runs, tracking = services.runs, services.tracking
    return [
        Route("GET", f"{HISTORY}/runs/{{run}}", None, runs.get_run),
        Route("GET", f"{HISTORY}/runs/{{run}}/details", None, runs.get_details),
        Route("GET", f"{HISTORY}/runs/{{run}}/children", None, runs.list_children),
        Route("POST", f"{HISTORY}/rundata", None, runs.get_run_data),
        Route("PATCH", f"{HISTORY}/experiments/{{experiment}}/runs/{{run}}", None, runs.patch_run),
        Route("POST", f"{DATA_PLANE}/dataversion/batchGetResolvedUris", None, runs.resolve_data),
        Route("POST", f"{MODEL_PLANE}/models/batchGetResolvedUris", None, runs.resolve_models),
        *(Route(method, path, None, tracking.forward, auth="tracking") for method in MLFLOW_METHODS for path in MLFLOW),
    ]


def endpoint_routes(services: Services) -> list[Route]:
    endpoints, deployments, gateway = services.endpoints, services.deployments, services.gateway
    endpoint = "{workspace}/onlineEndpoints/{endpoint}"
    deployment = f"{endpoint}/deployments/{{deployment}}"
    return [
        Route("GET", "{workspace}/onlineEndpoints", ONLINE, endpoints.list_endpoints),
        Route("GET", endpoint, ONLINE, endpoints.get_endpoint),
        Route("PUT", endpoint, ONLINE, endpoints.put_endpoint),
        Route("DELETE", endpoint, ONLINE, endpoints.delete_endpoint),
        Route("POST", f"{endpoint}/listKeys", ONLINE, endpoints.list_keys),
        Route("POST", f"{endpoint}/token", ONLINE, endpoints.get_token),
        Route("POST", f"{endpoint}/regenerateKeys", ONLINE, endpoints.regenerate_key),
        Route("GET", f"{endpoint}/deployments", ONLINE, deployments.list_deployments),
        Route("GET", deployment, ONLINE, deployments.get_deployment),
        Route("PUT", deployment, ONLINE, deployments.put_deployment),
        Route("DELETE", deployment, ONLINE, deployments.delete_deployment),
        Route("POST", f"{deployment}/getLogs", ONLINE, deployments.get_logs),
        Route("POST", "/scoring/{endpoint}/score", None, gateway.score, auth="key"),
        Route("GET", "/scoring/{endpoint}/swagger.json", None, gateway.score, auth="key"),
    ]


def operation_routes(services: Services) -> list[Route]:
    """The polling addresses of long-running operations, which answer every api-version."""
    operations = services.operations
    return [
        Route("GET", f"{LOCATION}/mfeOperationsStatus/{{operation}}", None, operations.get_status),
        Route("GET", f"{LOCATION}/mfeOperationResults/{{operation}}", None, operations.get_result),
        Route("GET", f"{LOCATION}/computeOperationsStatus/{{operation}}", None, operations.get_compute_status),
    ]

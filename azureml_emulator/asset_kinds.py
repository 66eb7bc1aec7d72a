"""The rules of the five kinds of assets: api-versions, the fields that may not change, and how the service completes a
client's properties. Source: the api-versions that azure-ai-ml 1.35 sends, and recorded answers.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from azureml_emulator import mlmodel
from azureml_emulator.json_types import Json, JsonValue
from azureml_emulator.names import JOB_MEMBER, check_address, check_name, refuse_settings
from azureml_emulator.wire import ServiceError
from azureml_emulator.world import World

SHORT_URI = re.compile(r"azureml://datastores/(?P<datastore>[^/]+)/paths/(?P<path>.*)")
JOB_URI = re.compile(r"azureml://jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(?:/paths)?/?(?P<path>.*)")
# Types of outputs that are models; run history has its own word for each.
MODEL_TYPES = {"mlflow_model": "MLFlowModel", "custom_model": "CustomModel", "triton_model": "TritonModel"}
SHORT_ENVIRONMENT = re.compile(r"azureml:(?P<name>[^:/]+)[:@](?P<version>[^:/]+)")


@dataclass(frozen=True)
class AssetFiles:
    """Access to assets' files. `locate`: an address to a local path; `check_links` refuses links out of the storage."""

    locate: Callable[[str], Path]
    check_links: Callable[[Path], None]


# Completes the properties of one version: (world, properties as sent, files) -> properties to keep.
Complete = Callable[[World, Json, AssetFiles], Json]


@dataclass(frozen=True)
class Kind:
    """One kind of asset. `fixed`: properties that a second PUT of a version must repeat."""

    plural: str
    label: str
    api_versions: frozenset[str]
    fixed: tuple[str, ...]
    complete: Complete


def full_uri(world: World, uri: str, *, group_word: str = "resourcegroups") -> str:
    """A datastore path in its long form; other text as it is."""
    match = SHORT_URI.fullmatch(uri)
    settings = world.settings
    if match:
        return (
            f"azureml://subscriptions/{settings.subscription_id}/{group_word}/{settings.resource_group}"
            f"/workspaces/{settings.workspace_name}/datastores/{match['datastore']}/paths/{match['path']}"
        )
    return re.sub("/resource[gG]roups/", f"/{group_word}/", uri) if uri.startswith("azureml://subscriptions/") else uri


def complete_model(world: World, sent: Json, files: AssetFiles) -> Json:
    """A model's files must exist; from a job's output it takes the job's name and its place in the datastore."""
    refuse_settings("model", sent, "autoDeleteSetting")
    uri = str(sent.get("modelUri") or "")
    check_address("modelUri", uri)
    folder = files.locate(uri)
    job = JOB_URI.fullmatch(uri)
    if job:
        path = "/".join(filter(None, ("azureml", job["job"], job["output"], job["path"])))
        uri = f"azureml://datastores/workspaceblobstore/paths/{path}"
    flavors = sent.get("flavors") or {}
    if sent.get("modelType") == "mlflow_model" and not flavors:
        files.check_links(folder / mlmodel.NAME)
        flavors = read_flavors(folder, uri)
    return {
        "autoDeleteSetting": None,
        "flavors": flavors,
        "modelType": sent.get("modelType") or "custom_model",
        "modelUri": full_uri(world, uri, group_word="resourceGroups"),
        "jobName": job["job"] if job else sent.get("jobName"),
        "provisioningState": "Succeeded",
        "stage": sent.get("stage"),
        "intellectualProperty": None,
    }


def read_flavors(folder: Path, uri: str) -> Json:
    """The flavors of a folder's MLmodel file. Raises: ServiceError 400 when there is none, or it cannot be read."""
    file = folder / mlmodel.NAME
    if not file.is_file():
        text = (
            f"The MLmodel file is missing in '{uri}'. Register the folder that holds it, or use the type custom_model."
        )
        raise ServiceError(400, "UserError", text, inner_error="MLmodelFileMissing")
    try:
        flavors = mlmodel.read_flavors(folder)
    except mlmodel.Unreadable as error:
        text = f"The MLmodel file in '{uri}' cannot be read: {error}."
        raise ServiceError(400, "UserError", text, inner_error="MLmodelFileInvalid") from error
    return {name: {"data": {str(key): str(value) for key, value in fields.items()}} for name, fields in flavors.items()}


def complete_data(world: World, sent: Json, files: AssetFiles) -> Json:
    refuse_settings("data asset", sent, "autoDeleteSetting")
    uri = str(sent.get("dataUri") or "")
    check_address("dataUri", uri)
    job = JOB_URI.fullmatch(uri)
    if job:
        uri = f"azureml://datastores/workspaceblobstore/paths/azureml/{job['job']}/{job['output']}/{job['path']}"
    data_type = sent.get("dataType") or "uri_folder"
    return {"autoDeleteSetting": None, "dataUri": full_uri(world, uri), "dataType": data_type}


def complete_code(world: World, sent: Json, files: AssetFiles) -> Json:
    uri = str(sent.get("codeUri") or "")
    check_address("codeUri", uri)
    files.locate(uri)
    return {"codeUri": uri, "provisioningState": "Succeeded"}


def complete_component(world: World, sent: Json, files: AssetFiles) -> Json:
    spec = spec_as_text(sent.get("componentSpec") or {})
    if not isinstance(spec, dict):
        raise ServiceError(400, "UserError", "The componentSpec must be an object.")
    for kind in ("inputs", "outputs", "jobs"):
        members = spec.get(kind)
        for name in members if isinstance(members, dict) else ():
            check_name(kind.removesuffix("s"), name, JOB_MEMBER)
    match = SHORT_ENVIRONMENT.fullmatch(str(spec.get("environment") or ""))
    if match and world.store.get("environments_versions", f"{match['name']}/{match['version']}") is None:
        spec["environment"] = f"{world.registry_id}/environments/{match['name']}/versions/{match['version']}"
    return {"componentSpec": spec, "provisioningState": "Succeeded"}


def spec_as_text(value: JsonValue) -> JsonValue:
    """A component spec as the service returns it: booleans and numbers become text (`True`, `1`)."""
    if isinstance(value, dict):
        return {key: spec_as_text(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [spec_as_text(entry) for entry in value]
    return value if value is None or isinstance(value, str) else str(value)


def complete_environment(world: World, sent: Json, files: AssetFiles) -> Json:
    kept = ("image", "condaFile", "build", "inferenceConfig", "osType", "autoRebuild", "stage")
    properties: Json = {key: sent[key] for key in kept if sent.get(key) is not None}
    return {"osType": "Linux", "environmentType": "UserCreated", "provisioningState": "Succeeded", **properties}


KINDS = (
    Kind("models", "model", frozenset({"2023-08-01-preview"}), ("modelUri", "modelType"), complete_model),
    Kind("data", "data", frozenset({"2023-04-01-preview"}), ("dataUri", "dataType"), complete_data),
    Kind("codes", "code", frozenset({"2023-04-01"}), ("codeUri",), complete_code),
    Kind("components", "component", frozenset({"2024-01-01-preview"}), ("componentSpec",), complete_component),
    Kind(
        "environments",
        "environment",
        frozenset({"2023-04-01-preview"}),
        ("image", "condaFile", "build"),
        complete_environment,
    ),
)

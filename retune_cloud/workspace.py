"""From settings to a credential and to azure-ai-ml clients, cached for the process.

Which cloud the clients talk to is the SDK's own affair: ARM_CLOUD_METADATA_URL names it, and unset means Azure.
Clients and credentials stay in this process; they hold secrets and are never passed between tasks.
"""

import json
import logging
import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from retune.errors import BadRequest, CloudError
from retune.request import Workspace
from retune_cloud.sdk_errors import first_line

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

# Names of subscriptions, resource groups and workspaces, by the widest rule of the three.
NAME = re.compile(r"[-\w.()]{1,90}")
CONFIG_FILES = ("config.json", ".azureml/config.json")
CONFIG_KEYS = ("subscription_id", "resource_group", "workspace_name")
VARIABLES = ("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZURE_WORKSPACE_NAME")
# How a config.json may name the workspace in one line.
SCOPE = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft\.MachineLearningServices/workspaces/([^/]+)",
    re.I,
)
METADATA_URL = "ARM_CLOUD_METADATA_URL"
# Where the service does not say when to look at an operation again; of its own the SDK looks each 30 s at some.
LOOK_EVERY_SECONDS = 1
LOCAL_HOSTS, LOCAL_DOMAINS = ("localhost", "127.0.0.1", "::1"), (".localhost", ".local")
LOOPBACK = ("https://localhost:", "https://127.0.0.1:")


class Address(NamedTuple):
    """A workspace and where its address was found."""

    subscription_id: str
    resource_group: str
    name: str
    found_in: str

    @property
    def id(self) -> str:
        """Subscription, resource group and name."""
        return "/".join(self[:3])


def find_address(workspace: Workspace) -> Address:
    """The workspace's address: the request's own, else the environment's, else config.json's.

    Raises:
        BadRequest: parts are missing, or the request wants the emulator and the environment names none.
    """
    if workspace.emulator and not is_local():
        raise BadRequest(
            [
                "workspace.emulator is true but ARM_CLOUD_METADATA_URL names no emulator on this machine. Start one "
                'with `python -m azureml_emulator` and run `eval "$(python -m azureml_emulator env)"` in this shell.'
            ]
        )
    named = (workspace.subscription_id, workspace.resource_group, workspace.name)
    complete = all(value or os.environ.get(variable) for value, variable in zip(named, VARIABLES, strict=True))
    config, stored = (None if complete else find_config()) or ("config.json", {})
    candidates = {
        name: (variable, getattr(workspace, name), stored.get(key))
        for name, variable, key in zip(Address._fields, VARIABLES, CONFIG_KEYS, strict=False)
    }
    parts, sources, problems = {}, [], []
    for key, (variable, requested, configured) in candidates.items():
        choices = (("request", requested), ("environment", os.environ.get(variable)), (str(config), configured))
        source, value = next(((source, value) for source, value in choices if value), (None, None))
        if value is None:
            problems.append(f"workspace.{key} is not set. Set it in the preset, in {variable}, or in config.json.")
        elif not (isinstance(value, str) and NAME.fullmatch(value)):
            rule = "1 to 90 letters, digits, '-', '_', '.', '(' and ')'"
            problems.append(f"workspace.{key} from the {source} is {str(value)[:90]!r}; use {rule}.")
        parts[key], sources = value, [*sources, source]
    if problems:
        raise BadRequest(problems)
    return Address(**parts, found_in=", ".join(dict.fromkeys(sources)))


def is_named() -> bool:
    """Whether the environment or a config.json names a workspace, or a part of one."""
    return any(os.environ.get(variable) for variable in (*VARIABLES, METADATA_URL)) or find_config() is not None


def find_config() -> tuple[Path, dict[str, str]] | None:
    """The config.json that names a workspace, of the current folder or of one above it, as the SDK looks for it.

    Raises:
        BadRequest: that of the current folder is no JSON object. Above it, such a file is another program's.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        for path in (folder / name for name in CONFIG_FILES):
            try:
                if path.is_file() and (parts := _read_config(path)):
                    return path, parts
            except OSError:
                continue
            except BadRequest:
                if folder == Path.cwd():
                    raise
    return None


def is_local() -> bool:
    """Whether the cloud that the environment names is a server on this machine."""
    return os.environ.get(METADATA_URL, "").startswith(LOOPBACK)


def _read_config(path: Path) -> dict[str, str]:
    """The parts of an address that a config.json has, in either of its forms; empty for one of another program."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise BadRequest([f"{path} is not readable as JSON: {error}."]) from error
    if not isinstance(content, dict):
        raise BadRequest([f"{path} is no JSON object with {', '.join(CONFIG_KEYS)}."])
    if scope := SCOPE.fullmatch(str(content.get("Scope", "")).rstrip("/")):
        return dict(zip(CONFIG_KEYS, scope.groups(), strict=True))
    return {key: content[key] for key in CONFIG_KEYS if key in content}


@lru_cache(maxsize=4)
def credential(interactive: bool = False) -> "DefaultAzureCredential":
    """The default credential chain; the browser is its last link when asked for and a terminal is attached."""
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential(exclude_interactive_browser_credential=not (interactive and sys.stdin.isatty()))


def workspace_client(workspace: Workspace) -> "MLClient":
    """A client of the workspace."""
    return _client(os.environ.get(METADATA_URL), workspace.interactive, None, *find_address(workspace)[:3])


def registry_client(workspace: Workspace, registry: str) -> "MLClient":
    """A client of a registry.

    Raises:
        CloudError: the registry does not exist or may not be read.
    """
    from azure.core.exceptions import HttpResponseError

    try:
        return _client(os.environ.get(METADATA_URL), workspace.interactive, registry)
    except HttpResponseError as error:
        raise CloudError(
            "RegistryNotFound",
            f"Registry '{registry}' could not be opened: {first_line(error)}",
            "Check workspace.registry and workspace.component_registry, and your access to them.",
        ) from error


@lru_cache(maxsize=8)
def _client(cloud: str | None, interactive: bool, registry: str | None, *address: str) -> "MLClient":
    # `cloud` is only a part of the cache's key: the SDK reads the variable itself.
    resource_manager()
    from azure.ai.ml import MLClient

    # The SDK gives its logger a handler of its own on stderr; what the steps do, the tasks say.
    logging.getLogger("azure.ai.ml").setLevel(logging.ERROR)
    _silence_polling()
    client = MLClient(
        credential(interactive),
        *address,
        registry_name=registry,
        enable_telemetry=False,
        show_progress=False,
        polling_interval=LOOK_EVERY_SECONDS,
    )
    if registry is None:
        _look_up_addresses(client)
    return client


def _silence_polling() -> None:
    """Keep the SDK from printing a dot on stdout at each look at an operation.

    It looks from threads that outlive our waits, so that a dot could get into a report.
    """
    from azure.ai.ml._utils._azureml_polling import AzureMLPolling
    from azure.mgmt.core.polling.arm_polling import ARMPolling

    AzureMLPolling.update_status = ARMPolling.update_status


def resource_manager() -> str:
    """Address of the cloud's resource manager, without a trailing slash.

    Raises:
        CloudError: `CloudUnreachable`, the address that names the cloud does not answer.
    """
    return _cloud_details()["resource_manager"].rstrip("/")


def portal() -> str | None:
    """Address of the portal that the cloud's metadata names; None for an emulator, whose portal nobody else can open.

    Raises:
        CloudError: `CloudUnreachable`, the address that names the cloud does not answer.
    """
    address = _cloud_details()["azure_portal"].rstrip("/")
    host = (urlsplit(address).hostname or "").lower()
    is_own = host in LOCAL_HOSTS or host.endswith(LOCAL_DOMAINS)
    return None if is_own or not host else address


def storage_suffix() -> str:
    """What follows `ACCOUNT.blob.` in the addresses of the cloud's storage accounts, e.g. `core.windows.net`.

    Raises:
        CloudError: `CloudUnreachable`, the address that names the cloud does not answer.
    """
    return _cloud_details()["storage_endpoint"]


def _cloud_details() -> dict[str, str]:
    from azure.core.exceptions import AzureError

    try:
        # The SDK has no public name for the cloud that it has chosen. Its import asks for it already.
        from azure.ai.ml import _azure_environments as clouds

        name = clouds._get_default_cloud_name()
        # The SDK means to keep this and does not: in the middle of any later call it would ask again.
        clouds._environments[name] = details = clouds._get_cloud_details(name)
    except AzureError as error:
        _forget_half_an_import()
        # What it says when it has looked for the cloud among those that it was built with.
        raise CloudError(
            "CloudUnreachable",
            f"The address of the cloud in {METADATA_URL} does not answer: {first_line(error)}",
            f"Start the emulator again and repeat its exports, or unset {METADATA_URL} for Azure itself.",
        ) from error
    return details


def _forget_half_an_import() -> None:
    """Let the next import of the SDK start afresh: the modules of a failed import make every later one fail."""
    if "azure.ai.ml" not in sys.modules:
        for name in [name for name in sys.modules if name.startswith("azure.ai.ml.")]:
            del sys.modules[name]


def _look_up_addresses(client: "MLClient") -> None:
    """Have the client read the workspace's other addresses now.

    It would do so in the first call that needs one, and takes a refusal for an answer.
    """
    try:
        _ = client.jobs._api_url
    except (KeyError, ValueError) as error:
        raise CloudError(
            "CloudUnreachable",
            "The workspace's address for run history did not give a usable answer.",
            "Check the network and Azure's status page, then start it again with the same key.",
        ) from error

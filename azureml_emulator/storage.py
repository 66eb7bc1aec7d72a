"""The files of one storage account: where its containers and blobs lie on disk, and their addresses.

Blobs are plain files under HOME/blobs, so jobs read and write the same folders. An address is path style,
`https://localhost:PORT/<account>.blob.localhost:PORT/<container>/<blob>`, which is what the SDK builds from a datastore
whose account name is `localhost:PORT/<account>`. The REST API of the account is in blobs.py.
"""

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from azureml_emulator.identity import Identity
from azureml_emulator.names import path_below
from azureml_emulator.wire import ServiceError
from azureml_emulator.world import World

ACCOUNT = "localstore"
# The registry's files are elsewhere, behind links.
REGISTRY_CONTAINER = "azureml-registry"


class Storage:
    """The storage account of the workspace and of the registry."""

    def __init__(self, world: World, identity: Identity) -> None:
        self._world = world
        self._identity = identity
        self.root = world.settings.home / "blobs"
        self.root.mkdir(exist_ok=True)
        # Made by `link`.
        self._links: set[Path] = set()
        for container in (self.default_container, self.artifact_container):
            self.folder(container, "").mkdir(exist_ok=True)

    @property
    def default_container(self) -> str:
        """The container of the datastore workspaceblobstore."""
        return f"azureml-blobstore-{self._world.workspace_guid}"

    @property
    def artifact_container(self) -> str:
        """The container of the datastore workspaceartifactstore: logs and other records of runs."""
        return "azureml"

    @property
    def account_url(self) -> str:
        authority = f"localhost:{self._world.settings.port}"
        return f"https://{authority}/{ACCOUNT}.blob.{authority}"

    def folder(self, container: str, path: str) -> Path:
        """The path on disk of a blob or a prefix; it need not exist.

        Raises: ServiceError 400 as `path_below`, 403 as `check_links`.
        """
        file = path_below(self.root, container, *filter(None, path.split("/")))
        self.check_links(file)
        return file

    def link(self, container: str, path: str, target: Path) -> None:
        """Make a folder outside the storage readable under a path."""
        link = path_below(self.root, container, *path.split("/"))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target, target_is_directory=True)
        self._links.add(link)

    def check_links(self, path: Path) -> None:
        """Raises: ServiceError 403 when a link, which a job may have made, leads from the path out of the storage."""
        if not self.is_inside(path):
            name = path.relative_to(self.root)
            text = f"'{name}' leads through a link out of the storage. Put the file there itself."
            raise ServiceError(403, "AuthorizationFailure", text, shape="storage")

    def is_inside(self, path: Path) -> bool:
        """Whether no link leads from the path out of the storage, except the links to the registry's files."""
        if any(path.is_relative_to(link) for link in self._links):
            return True
        try:
            return path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):
            return False  # a link to itself

    def locate(self, url: str) -> Path | None:
        """The path on disk of a blob's https URL (its query is ignored), or None for another server's URL."""
        try:
            parts = urlsplit(url)
        except ValueError:
            return None
        marker = f"{ACCOUNT}.blob."
        segments = unquote(parts.path).strip("/").split("/")
        if parts.hostname != "localhost" or not segments[0].startswith(marker) or len(segments) < 2:
            return None
        return self.folder(segments[1], "/".join(segments[2:]))

    def url(self, container: str, path: str = "") -> str:
        return "/".join(filter(None, (self.account_url, container, quote(path.strip("/")))))

    def sas_url(self, container: str, path: str = "", *, permissions: str = "r", seconds: int = 24 * 3600) -> str:
        """An https URL that opens without a token."""
        signature = self._identity.sign(container, permissions=permissions, seconds=seconds)
        return f"{self.url(container, path)}?{signature}"

"""Chat data that lives in Azure: data assets of an Azure ML workspace, and files in storage accounts.

An asset's version cannot change, the blobs behind it can: what is pinned is the version and the ETag, size and MD5 of
each blob, and only exactly these are downloaded. Storage is asked with the run's own credential, which needs the role
Storage Blob Data Reader. Storage URLs are opened by `adlfs`, which is an extra.
"""

import hashlib
import logging
import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from retune.errors import BadRequest, CloudError
from retune.folders import check_file_names
from retune.request import Workspace
from retune.waiting import pause
from retune_cloud import workspace as cloud
from retune_cloud.sdk_errors import first_line

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Data
    from azure.core.exceptions import HttpResponseError
    from azure.storage.blob import BlobProperties, ContainerClient
    from fsspec import AbstractFileSystem

log = logging.getLogger("retune.data")

SOURCE = re.compile(r"azureml:(?P<name>[a-zA-Z0-9][\w.-]*)(?::(?P<version>[a-zA-Z0-9][\w.-]*)|@(?P<label>latest))")
DATASTORE_PATH = re.compile(
    r"azureml://(?:subscriptions/[^/]+/resourcegroups/[^/]+/workspaces/(?P<workspace>[^/]+)/)?"
    r"datastores/(?P<datastore>[^/]+)/paths/(?P<path>.+)",
    re.IGNORECASE,
)
KINDS = ("uri_file", "uri_folder")
# How accounts with a hierarchical namespace list their folders.
FOLDER_MARK = "hdi_isfolder"
DOWNLOADS_AT_ONCE = 8
READER = "Give the identity the role Storage Blob Data Reader on the storage account."
MISSING_EXTRA = "Install it: pip install 'retune[azure]'"


class Blob(NamedTuple):
    """One blob of an asset, as it was when it was pinned. `name` is below the asset's own path."""

    name: str
    path: str
    size: int
    etag: str
    md5: str


class PinnedAsset(NamedTuple):
    """A version of a data asset and the content behind it."""

    name: str
    version: str
    kind: str
    account_url: str
    container: str
    blobs: tuple[Blob, ...]

    @property
    def revision(self) -> str:
        """The version and a digest of what tells its content from any other, e.g. `3@5c1e...`."""
        lines = [f"{blob.name}\0{blob.size}\0{blob.etag}\0{blob.md5}\n" for blob in self.blobs]
        return f"{self.version}@{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def pin_asset(workspace: Workspace, source: str) -> PinnedAsset:
    """The version that `azureml:NAME:VERSION` or `azureml:NAME@latest` stands for, and its blobs; downloads nothing.

    Raises:
        BadRequest: there is no such asset or nothing behind it, it is an mltable, or its data are elsewhere.
        CloudError: `StorageNotAllowed`, the run's identity may not read the blobs.
    """
    asked = SOURCE.fullmatch(source)
    if asked is None:
        raise BadRequest(
            [f"data.source '{source}' is no data asset. Write azureml:NAME:VERSION or azureml:NAME@latest."]
        )
    client = cloud.workspace_client(workspace)
    asset = _get(client, source, **{key: value for key, value in asked.groupdict().items() if value})
    if asset.type not in KINDS:
        raise BadRequest(
            [
                f"data.source '{source}' is of type {asset.type}, a recipe over other files that only Azure ML's own "
                "library carries out. Name an asset of type uri_file or uri_folder with the files themselves."
            ]
        )
    account_url, container, path = _place(client, workspace, source, str(asset.path))
    with _container(workspace, account_url, container) as storage:
        blobs = _list(storage, source, asset.type, path)
    log.info("%s is version %s: %d file(s)", source, asset.version, len(blobs))
    return PinnedAsset(str(asset.name), str(asset.version), asset.type, account_url, container, tuple(blobs))


def fetch_asset(workspace: Workspace, asset: PinnedAsset, folder: Path) -> Path:
    """The asset's file (uri_file) or folder (uri_folder) below `folder`: there from an earlier run, or downloaded now.

    It appears whole or not at all, under a name that its content gives.

    Raises:
        CloudError: `DataChanged`, a blob is no longer the pinned one; `StorageNotAllowed`.
        Stopped: the run was told to stop.
    """
    check_file_names(f"Data asset {asset.name!r}", asset.name, asset.revision)
    target = folder.resolve() / asset.name / asset.revision
    if not _is_whole(target, asset):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            downloaded = Path(scratch, "downloaded")
            _download_all(workspace, asset, downloaded)
            _move(downloaded, target, asset)
        log.info("%s:%s is downloaded, %d bytes", asset.name, asset.version, sum(blob.size for blob in asset.blobs))
    return target / asset.blobs[0].name if asset.kind == "uri_file" else target


def open_storage(url: str) -> "tuple[AbstractFileSystem, str]":
    """The file system of a storage account, signed in as the run, and the URL's path in it, container first.

    URLs: `abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH`, and `az://CONTAINER/PATH` with the account in
    AZURE_STORAGE_ACCOUNT_NAME.

    Raises:
        BadRequest: the account is not named or is not of this cloud, or the extra is not installed.
    """
    container, account, path = _read_url(url)
    try:
        from chatdata.azure_storage import open_account
    except ModuleNotFoundError as error:
        if error.name != "adlfs":
            raise
        raise BadRequest([f"data.source '{url}' is in Azure storage, which adlfs reads."], MISSING_EXTRA) from error
    return open_account(account, cloud.storage_suffix()), f"{container}/{path}"


def _read_url(url: str) -> tuple[str, str, str]:
    """Container, account and path of a storage URL."""
    authority, _, path = url.partition("://")[2].partition("/")
    container, at, host = authority.partition("@")
    if not container:
        raise BadRequest([f"data.source '{url}' names no container. Write az://CONTAINER/PATH."])
    if not at:
        account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
        if not account:
            raise BadRequest(
                [
                    f"data.source '{url}' names no storage account. Set AZURE_STORAGE_ACCOUNT_NAME, or write "
                    f"abfss://{container}@ACCOUNT.dfs.core.windows.net/{path}."
                ]
            )
        return container, account, path
    suffix = cloud.storage_suffix()
    named = re.fullmatch(rf"(?P<account>[a-z0-9]+)\.(?:dfs|blob)\.{re.escape(suffix)}", host)
    if named is None:
        # The run's token goes to this host.
        raise BadRequest([f"data.source '{url}': '{host}' is no storage account of this cloud (ACCOUNT.dfs.{suffix})."])
    return container, named["account"], path


def _get(client: "MLClient", source: str, **which: str) -> "Data":
    from azure.ai.ml.exceptions import MlException
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return client.data.get(**which)
    except (ResourceNotFoundError, MlException) as error:  # the second is for a label of nothing
        raise BadRequest(
            [
                f"data.source '{source}': workspace '{client.workspace_name}' has no such data asset. "
                "See which there are: az ml data list"
            ]
        ) from error


def _place(client: "MLClient", workspace: Workspace, source: str, uri: str) -> tuple[str, str, str]:
    """Account address, container and path of a datastore path."""
    from azure.ai.ml.entities import AzureBlobDatastore, AzureDataLakeGen2Datastore

    parts = DATASTORE_PATH.fullmatch(uri)
    here = cloud.find_address(workspace).name.lower()
    if parts is None or (parts["workspace"] or here).lower() != here:
        raise BadRequest(
            [f"data.source '{source}' points to '{uri}', which is not in a datastore of this workspace. Name the URL."]
        )
    datastore = client.datastores.get(parts["datastore"])
    match datastore:
        case AzureBlobDatastore():
            container = datastore.container_name
        case AzureDataLakeGen2Datastore():
            container = datastore.filesystem
        case _:
            raise BadRequest(
                [f"data.source '{source}' is in datastore '{datastore.name}' of type {datastore.type}, not in blobs."]
            )
    return f"https://{datastore.account_name}.blob.{cloud.storage_suffix()}", container, parts["path"]


def _container(workspace: Workspace, account_url: str, container: str) -> "ContainerClient":
    from azure.storage.blob import ContainerClient

    return ContainerClient(account_url, container, credential=cloud.credential(workspace.interactive))


def _list(storage: "ContainerClient", source: str, kind: str, path: str) -> list[Blob]:
    """The blobs of an asset, in the order of their names."""
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    root = path.rpartition("/")[0] if kind == "uri_file" else path.rstrip("/")
    try:
        if kind == "uri_file":
            blobs = [storage.get_blob_client(path).get_blob_properties()]
        else:
            listed = storage.list_blobs(name_starts_with=f"{root}/", include=["metadata"])
            blobs = [blob for blob in listed if FOLDER_MARK not in (blob.metadata or {})]
    except ResourceNotFoundError:
        blobs = []
    except HttpResponseError as error:
        _raise_refusal(source, error)
    if not blobs:
        raise BadRequest(
            [f"data.source '{source}': there is nothing at '{path}' in container '{storage.container_name}'."]
        )
    return sorted(_described(blob, root) for blob in blobs)


def _described(blob: "BlobProperties", root: str) -> Blob:
    name = blob.name.removeprefix(root).lstrip("/")
    check_file_names(f"Blob {blob.name!r}", *filter(None, name.split("/")))
    md5 = blob.content_settings.content_md5
    return Blob(name, blob.name, blob.size, blob.etag.strip('"'), bytes(md5).hex() if md5 else "")


def _raise_refusal(what: str, error: "HttpResponseError") -> NoReturn:
    """Raise what a missing role means; any other error as it is."""
    if error.status_code != 403:
        raise error
    text = f"The blobs of '{what}' may not be read: {first_line(error)}"
    raise CloudError("StorageNotAllowed", text, READER) from error


def _is_whole(target: Path, asset: PinnedAsset) -> bool:
    """Whether every file is there in its size; the folder's name stands for the rest."""
    files = [(target / blob.name, blob.size) for blob in asset.blobs]
    return all(file.is_file() and file.stat().st_size == size for file, size in files)


def _download_all(workspace: Workspace, asset: PinnedAsset, folder: Path) -> None:
    with (
        _container(workspace, asset.account_url, asset.container) as storage,
        ThreadPoolExecutor(DOWNLOADS_AT_ONCE, thread_name_prefix="download") as pool,
    ):
        coming = [pool.submit(_download, storage, asset, blob, folder / blob.name) for blob in asset.blobs]
        try:
            for done in coming:
                done.result()
        finally:
            # One that has failed ends the others that have not begun.
            pool.shutdown(wait=False, cancel_futures=True)


def _download(storage: "ContainerClient", asset: PinnedAsset, blob: Blob, file: Path) -> None:
    """The blob as a file, only while it is the pinned one."""
    from azure.core import MatchConditions
    from azure.core.exceptions import HttpResponseError, ResourceModifiedError, ResourceNotFoundError

    pause(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.md5(usedforsecurity=False)
    try:
        stream = storage.download_blob(
            blob.path, etag=blob.etag, match_condition=MatchConditions.IfNotModified, validate_content=False
        )
        with file.open("wb") as target:
            for chunk in stream.chunks():
                pause(0)
                digest.update(chunk)
                target.write(chunk)
    except (ResourceModifiedError, ResourceNotFoundError) as error:
        raise _changed(asset, blob, "it was written or deleted") from error
    except HttpResponseError as error:
        _raise_refusal(f"azureml:{asset.name}:{asset.version}", error)
    if file.stat().st_size != blob.size or (blob.md5 and digest.hexdigest() != blob.md5):
        raise _changed(asset, blob, "its bytes are not those of its size and MD5")


def _changed(asset: PinnedAsset, blob: Blob, how: str) -> CloudError:
    return CloudError(
        "DataChanged",
        f"Blob '{blob.path}' of data asset '{asset.name}' version '{asset.version}' has changed since the run began: "
        f"{how}.",
        "Start it again once nobody writes to it, or make a new version with a path of its own.",
    )


def _move(whole: Path, target: Path, asset: PinnedAsset) -> None:
    """Put the downloaded folder in its place, unless another run was first with the same content."""
    if target.exists() and not _is_whole(target, asset):
        shutil.rmtree(target)
    try:
        whole.rename(target)
    except OSError:
        if not _is_whole(target, asset):
            raise

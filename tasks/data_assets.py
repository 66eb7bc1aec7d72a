"""The prepared files as versions of data assets in the workspace, so that they are uploaded once and seen as lineage.

A version is named by its file's content: if it exists, nothing is hashed and nothing is uploaded. The SDK uploads
to a path named by the content too, marks the blob as completed when all of it is there, and only then is the version
made; a blob without the mark is uploaded again, so no version points to half a file.
"""

import contextlib
import hashlib
import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from retune import names
from retune.errors import CloudError
from retune.report import PreparedData, Split
from retune.request import Request
from retune.waiting import pause, poll
from retune_cloud import workspace as cloud
from retune_cloud.answers import required
from retune_cloud.sdk_errors import first_line, if_exists, is_transient
from tasks.step import repeatable_step

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Data

log = logging.getLogger("retune.assets")

DIGEST_TAG = "sha256"
# Source: resource-limits documentation, values of an asset's tags.
TAG_LENGTH = 256
# A version that another execution has just created may take a moment to be visible.
VISIBLE_SECONDS = 10


@repeatable_step
def register_data(request: Request, data: PreparedData) -> PreparedData:
    """The data with the id of each file's data asset, which is created if it does not exist.

    Raises:
        CloudError: `DataAssetTaken`, a version of that name holds something else; `DataAssetRefused`, with the
            service's words; `DataChanged`, a file is not the one that was checked.
    """
    client = cloud.workspace_client(request.workspace)
    assets = {}
    for role, split in data.splits.items():
        pause(0)
        name, version = names.data_asset_name(data.source, role), names.data_asset_version(split.sha256)
        asset = _find(client, name, version)
        attached = asset is not None
        if asset is None:
            asset = _create(client, name, version, data, split)
        _check_content(asset, split)
        log.info("%s:%s %s", name, version, "is there" if attached else "is uploaded")
        assets[role] = required(asset.id, f"the id of data asset '{name}'")
    return data.model_copy(update={"assets": assets})


def _find(client: "MLClient", name: str, version: str) -> "Data | None":
    return if_exists(lambda: client.data.get(name, version=version))


def _create(client: "MLClient", name: str, version: str, data: PreparedData, split: Split) -> "Data":
    """The new version, or the existing one if another execution, or a PUT whose answer was lost, has created it."""
    from azure.ai.ml.entities import Data
    from azure.core.exceptions import HttpResponseError

    _check_file(split)
    asset = Data(
        name=name,
        version=version,
        type="uri_file",
        path=split.path,
        description=f"{split.rows} rows of {data.source}, prepared for chat fine-tuning.",
        tags={
            "owner": names.OWNER,
            DIGEST_TAG: split.sha256,
            "source": data.source[:TAG_LENGTH],
            "revision": data.revision,
            "rows": str(split.rows),
        },
    )
    try:
        # The SDK writes to stderr for each file that it uploads, whatever its show_progress says.
        with contextlib.redirect_stderr(io.StringIO()):
            return client.data.create_or_update(asset)
    except HttpResponseError as error:
        if error.status_code not in (400, 409) or is_transient(error):
            raise
        present = poll(lambda: _find(client, name, version), seconds=VISIBLE_SECONDS, every=1)
        if present is None:
            raise CloudError(
                "DataAssetRefused",
                f"Data asset '{name}' version '{version}' was refused: {first_line(error)}",
                "Correct what the service says, then run again.",
            ) from error
        return present


def _check_file(split: Split) -> None:
    """Raise DataChanged when the file is no longer the one whose digest would name the version."""
    with Path(split.path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != split.sha256:
        raise CloudError(
            "DataChanged",
            f"The prepared file '{split.path}' has changed since it was checked (sha256 {digest[:12]}, "
            f"not {split.sha256[:12]}).",
            "Run it again: the file is then prepared again.",
        )


def _check_content(asset: "Data", split: Split) -> None:
    """Raise DataAssetTaken unless the version says that it is this file; one that is archived serves as well."""
    content = (asset.type, (asset.tags or {}).get(DIGEST_TAG))
    if content != ("uri_file", split.sha256):
        raise CloudError(
            "DataAssetTaken",
            f"Data asset '{asset.name}' version '{asset.version}' is not the prepared file: it is a {content[0]} with "
            f"the tag {DIGEST_TAG} = {content[1]!r}, not {split.sha256!r}.",
            "It cannot be deleted: rename the data source (its assets are named after it), or restore the tag.",
        )

"""Azure Blob Storage's REST API for the account of storage.py. Block blobs only.

A blob cannot also be the folder of another one (409), which Azure allows.
"""

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from azureml_emulator.names import is_text, path_below
from azureml_emulator.storage import REGISTRY_CONTAINER, Storage
from azureml_emulator.store import set_aside, write_atomically
from azureml_emulator.wire import Answer, Call, ServiceError, whole_number
from azureml_emulator.world import World

STORAGE_VERSION = "2021-12-02"
CHUNK_BYTES = 1 << 20
PAGE_SIZE = 5000
# 50,000 blocks, the most that the service takes, with ids of 64 bytes.
LARGEST_LIST_BYTES = 8 << 20
METADATA_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Listed:
    """An entry of a listing: a blob, or with `file` None a prefix."""

    name: str
    file: Path | None


class Blobs:
    """The containers and blobs of the account, with their metadata and the blocks of unfinished uploads."""

    def __init__(self, world: World, storage: Storage) -> None:
        self._storage = storage
        home = world.settings.home
        self._details, self._blocks = home / "blob_details", home / "blob_blocks"
        for folder in (self._details, self._blocks):
            folder.mkdir(exist_ok=True)

    def _existing(self, call: Call) -> Path:
        file = self._storage.folder(call.path_params["container"], call.path_params["blob"])
        if not file.is_file():
            raise ServiceError(404, "BlobNotFound", "The specified blob does not exist.", shape="storage")
        return file

    def _details_file(self, call: Call) -> Path:
        file = self._storage.folder(call.path_params["container"], call.path_params["blob"]).relative_to(
            self._storage.root
        )
        return self._details / f"{hashlib.sha256(file.as_posix().encode()).hexdigest()}.json"

    def _metadata(self, call: Call) -> dict[str, str]:
        file = self._details_file(call)
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            set_aside(file, error)
            return {}

    def _set_metadata(self, call: Call) -> None:
        prefix = "x-ms-meta-"
        values = {name[len(prefix) :]: value for name, value in call.headers.items() if name.startswith(prefix)}
        for name in values:
            if not METADATA_NAME.fullmatch(name):
                text = f"The metadata name {name!r} is invalid: use letters, digits and underscores."
                raise ServiceError(400, "InvalidMetadata", text, shape="storage")
        if values:
            write_atomically(self._details_file(call), json.dumps(values))
        else:
            self._details_file(call).unlink(missing_ok=True)

    def _headers(self, call: Call, file: Path) -> dict[str, str]:
        headers = {
            **file_headers(file),
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "x-ms-blob-type": "BlockBlob",
            "x-ms-lease-state": "available",
            "x-ms-lease-status": "unlocked",
            "x-ms-server-encrypted": "true",
        }
        return headers | {f"x-ms-meta-{name}": value for name, value in self._metadata(call).items()}

    def get_blob_properties(self, call: Call) -> Answer:
        file = self._existing(call)
        check_conditions(call, file)
        return Answer(200, None, {**self._headers(call, file), "Content-Length": str(file.stat().st_size)})

    def read_blob(self, call: Call) -> Answer:
        file = self._existing(call)
        check_conditions(call, file)
        size = file.stat().st_size
        headers = self._headers(call, file)
        wanted = call.headers.get("x-ms-range") or call.headers.get("range")
        if not wanted:
            return Answer(200, None, {**headers, "Content-Length": str(size)}, chunks(file, 0, size))
        first, last = parse_range(wanted, size)
        if first >= size:
            text = "The range specified is invalid for the current size of the resource."
            raise ServiceError(416, "InvalidRange", text, shape="storage", headers={"Content-Range": f"bytes */{size}"})
        headers |= {"Content-Range": f"bytes {first}-{last}/{size}", "Content-Length": str(last - first + 1)}
        return Answer(206, None, headers, chunks(file, first, last - first + 1))

    def _check_writable(self, call: Call) -> None:
        """Raises: ServiceError 403 for the registry's container, 404 for a container that does not exist."""
        container = call.path_params["container"]
        if container == REGISTRY_CONTAINER:
            text = "The registry's files cannot be changed."
            raise ServiceError(403, "AuthorizationPermissionMismatch", text, shape="storage")
        if not self._storage.folder(container, "").is_dir():
            raise ServiceError(404, "ContainerNotFound", "The specified container does not exist.", shape="storage")

    def write_blob(self, call: Call) -> Answer:
        self._check_writable(call)
        component = call.query.get("comp", "")
        writers = {
            "": self._put_blob,
            "metadata": self._put_metadata,
            "block": self._put_block,
            "blocklist": self._commit,
        }
        if component not in writers:
            text = f"azureml_emulator does not support PUT of a blob with comp='{component}'."
            raise ServiceError(501, "UnsupportedQueryParameter", text, shape="storage")
        return writers[component](call)

    def _put_blob(self, call: Call) -> Answer:
        kind = call.headers.get("x-ms-blob-type", "")
        if kind != "BlockBlob" or "x-ms-copy-source" in call.headers:
            text = f"azureml_emulator writes block blobs from a body only, not '{kind}'."
            raise ServiceError(501, "InvalidBlobType", text, shape="storage")
        assert call.upload is not None
        return self._store(call, call.upload)

    def _store(self, call: Call, draft: Path) -> Answer:
        file = self._storage.folder(call.path_params["container"], call.path_params["blob"])
        if call.headers.get("if-none-match") == "*" and file.exists():
            raise ServiceError(409, "BlobAlreadyExists", "The specified blob already exists.", shape="storage")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # First, so that a crash in between leaves the old content without its mark, never the new one with it.
            self._details_file(call).unlink(missing_ok=True)
            draft.replace(file)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            text = (
                f"'{call.path_params['blob']}' is a blob and a folder at once, which azureml_emulator does not support."
            )
            raise ServiceError(409, "ResourceTypeMismatch", text, shape="storage") from error
        self._set_metadata(call)
        return Answer(201, None, {**file_headers(file), "x-ms-request-server-encrypted": "true"})

    def _put_metadata(self, call: Call) -> Answer:
        file = self._existing(call)
        self._set_metadata(call)
        return Answer(200, None, file_headers(file))

    def _block_folder(self, call: Call) -> Path:
        return self._blocks / self._details_file(call).stem

    def _put_block(self, call: Call) -> Answer:
        if not call.query.get("blockid"):
            raise ServiceError(400, "InvalidQueryParameterValue", "comp=block needs a blockid.", shape="storage")
        folder = self._block_folder(call)
        folder.mkdir(exist_ok=True)
        assert call.upload is not None
        call.upload.replace(folder / block_file(call.query["blockid"]))
        return Answer(201, None, {"x-ms-version": STORAGE_VERSION, "x-ms-request-server-encrypted": "true"})

    def _commit(self, call: Call) -> Answer:
        assert call.upload is not None
        if call.upload.stat().st_size > LARGEST_LIST_BYTES:
            text = f"The list of blocks is larger than {LARGEST_LIST_BYTES} bytes."
            raise ServiceError(413, "RequestBodyTooLarge", text, shape="storage")
        try:
            names = [element.text or "" for element in ElementTree.fromstring(call.upload.read_bytes())]
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            text = f"The list of blocks is not XML: {error}."
            raise ServiceError(400, "InvalidXmlDocument", text, shape="storage") from error
        files = [self._block_folder(call) / block_file(name) for name in names]
        missing = [name for name, file in zip(names, files, strict=True) if not file.exists()]
        if missing:
            raise ServiceError(400, "InvalidBlockList", f"The block '{missing[0]}' was not uploaded.", shape="storage")
        with call.upload.open("wb") as whole:
            for file in files:
                with file.open("rb") as part:
                    shutil.copyfileobj(part, whole, CHUNK_BYTES)
        answer = self._store(call, call.upload)
        shutil.rmtree(self._block_folder(call), ignore_errors=True)
        return answer

    def delete_blob(self, call: Call) -> Answer:
        self._check_writable(call)
        self._existing(call).unlink()
        self._details_file(call).unlink(missing_ok=True)
        return Answer(202, None, {"x-ms-version": STORAGE_VERSION})

    def create_container(self, call: Call) -> Answer:
        folder = self._storage.folder(call.path_params["container"], "")
        try:
            folder.mkdir()
        except FileExistsError as error:
            text = "The specified container already exists."
            raise ServiceError(409, "ContainerAlreadyExists", text, shape="storage") from error
        return Answer(201, None, file_headers(folder))

    def get_container(self, call: Call) -> Answer:
        folder = self._storage.folder(call.path_params["container"], "")
        if not folder.is_dir():
            raise ServiceError(404, "ContainerNotFound", "The specified container does not exist.", shape="storage")
        if call.query.get("comp") != "list":
            return Answer(200, None, {**file_headers(folder), "x-ms-lease-state": "available"})
        return self._list(call, folder)

    def _list(self, call: Call, folder: Path) -> Answer:
        prefix, delimiter, marker = (call.query.get(name, "") for name in ("prefix", "delimiter", "marker"))
        size = whole_number("maxresults", call.query.get("maxresults"), PAGE_SIZE, least=1, shape="storage")
        size = min(size, PAGE_SIZE)
        entries = [entry for entry in self._listing(folder, prefix, delimiter) if entry.name > marker]
        with_metadata = "metadata" in call.query.get("include", "")
        lines = []
        for entry in entries[:size]:
            # A job may delete it meanwhile.
            with suppress(FileNotFoundError):
                lines.append(self._element(call, entry, with_metadata))
        following = entries[size - 1].name if len(entries) > size else ""
        text = (
            f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="{self._storage.account_url}/" '
            f'ContainerName="{escape(call.path_params["container"])}"><Prefix>{escape(prefix)}</Prefix>'
            f"<Marker>{escape(marker)}</Marker><MaxResults>{size}</MaxResults><Delimiter>{escape(delimiter)}</Delimiter>"
            f"<Blobs>{''.join(lines)}</Blobs><NextMarker>{escape(following)}</NextMarker></EnumerationResults>"
        )
        return Answer(200, text.encode(), {"Content-Type": "application/xml", "x-ms-version": STORAGE_VERSION})

    def _listing(self, folder: Path, prefix: str, delimiter: str) -> list[Listed]:
        """The blobs of a container that begin with `prefix`, in order of their names, folded at the delimiter.

        Links to folders are followed in the registry's container alone.
        """
        start = path_below(folder, *filter(None, prefix.split("/")[:-1]))
        self._storage.check_links(start)
        entries: dict[str, Listed] = {}
        walk = os.walk(start, followlinks=folder.name == REGISTRY_CONTAINER)
        for path in (Path(parent, name) for parent, _, names in walk for name in names):
            name = path.relative_to(folder).as_posix()
            if not name.startswith(prefix) or not can_be_listed(name):
                continue
            if not self._storage.is_inside(path) or not path.exists():
                continue
            head, separator, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            folded = prefix + head + separator
            entries[folded if separator else name] = Listed(folded, None) if separator else Listed(name, path)
        return [entries[name] for name in sorted(entries)]

    def _element(self, call: Call, entry: Listed, with_metadata: bool) -> str:
        if entry.file is None:
            return f"<BlobPrefix><Name>{escape(entry.name)}</Name></BlobPrefix>"
        headers = file_headers(entry.file)
        metadata = ""
        if with_metadata:
            params = {**call.path_params, "blob": entry.name}
            values = self._metadata(Call(**{**call.__dict__, "path_params": params}))
            metadata = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in values.items())
        return (
            f"<Blob><Name>{escape(entry.name)}</Name><Properties><Creation-Time>{headers['Last-Modified']}</Creation-Time>"
            f"<Last-Modified>{headers['Last-Modified']}</Last-Modified><Etag>{escape(headers['ETag'])}</Etag>"
            f"<Content-Length>{entry.file.stat().st_size}</Content-Length><Content-Type>application/octet-stream</Content-Type>"
            f"<BlobType>BlockBlob</BlobType></Properties><Metadata>{metadata}</Metadata></Blob>"
        )


def can_be_listed(name: str) -> bool:
    """Whether an address and XML can hold a name; a job may give its files any."""
    return is_text(name) and not set(name) & {"\ufffe", "\uffff"}


def block_file(block_id: str) -> str:
    """File name of an uploaded block; block ids may hold any text."""
    return hashlib.sha256(block_id.encode()).hexdigest()


def check_conditions(call: Call, file: Path) -> None:
    """Raises: ServiceError 412 or 304 when a reading is for one state of the blob and this is another, or the same."""
    mark = file_headers(file)["ETag"].strip('"')
    wanted, known = (call.headers.get(name, "").strip('"') for name in ("if-match", "if-none-match"))
    if wanted not in ("", "*", mark):
        text = "The condition specified using HTTP conditional header(s) is not met."
        raise ServiceError(412, "ConditionNotMet", text, shape="storage")
    if known == mark:
        raise ServiceError(304, "ConditionNotMet", "The blob has not been changed.", shape="storage")


def parse_range(text: str, size: int) -> tuple[int, int]:
    """First and last byte of `bytes=0-99` or `bytes=100-`, cut at the size. Raises: ServiceError 400 for others."""
    match = re.fullmatch("bytes=([0-9]{1,18})-([0-9]{0,18})", text)
    first, last = (int(match[1]), int(match[2] or size - 1)) if match else (0, -1)
    if match is None or (match[2] and last < first):
        raise ServiceError(
            400, "InvalidHeaderValue", "The range must be bytes=FIRST-LAST or bytes=FIRST-.", shape="storage"
        )
    return first, min(last, size - 1)


def chunks(file: Path, start: int, length: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        stream.seek(start)
        while length > 0 and (data := stream.read(min(CHUNK_BYTES, length))):
            length -= len(data)
            yield data


def file_headers(file: Path) -> dict[str, str]:
    state = file.stat()
    mark = base64.b16encode(hashlib.sha256(f"{state.st_mtime_ns}/{state.st_size}".encode()).digest()[:8]).decode()
    moment = datetime.fromtimestamp(state.st_mtime, UTC)
    return {
        "ETag": f'"0x{mark}"',
        "Last-Modified": format_datetime(moment, usegmt=True),
        "x-ms-version": STORAGE_VERSION,
    }

"""What `data.source` names, fixed so that it cannot change any more, and the files of each split.

A hub data set id, a folder in the hub's layout, files below a folder or an fsspec URL, or an Azure ML data asset.
Which files a split of a hub data set or folder has, its card says or `datasets` finds out; a split that is itself the
name of a file or a pattern (`train.jsonl`, `2026/*.parquet`) is looked up below the source. Nothing is downloaded here.
"""

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from retune.errors import BadRequest, CloudError
from retune.folders import home
from retune.report import Part
from retune.request import Data, Workspace

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from chatdata.hub import CountingHub

Kind = Literal["parquet", "json", "csv"]

KINDS: dict[str, Kind] = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
}
COMPRESSED = (".gz", ".bz2", ".xz")
COMMIT = re.compile(r"[0-9a-f]{40}")
# Names under which file systems give what changes with a file's content. A time of change is not among them.
IDENTITIES = ("ETag", "etag", "content_md5", "md5Hash", "sha256")
AZURE_PROTOCOLS = ("abfs", "abfss", "az")
ASSET_PREFIX = "azureml:"
CHECK_NAME = "Check the name and the revision; for a private or gated one set HF_TOKEN."


class PinnedData(Part):
    """A data request whose source cannot change any more."""

    data: Data
    revision: str
    # The folder or file here that stands for the source; None for a hub data set and other URLs.
    place: str | None = None
    # SHA-256 of the tokenizer's file, and where that is; None where no tokenizer is named.
    tokenizer: str | None = None
    tokenizer_file: str | None = None


class SourceFile(NamedTuple):
    """One file of a split."""

    # Below the source, as messages show it.
    name: str
    # For its file system.
    path: str
    kind: Kind


class Source(NamedTuple):
    """The files of the wanted splits, by split, and the file system that opens them."""

    system: "AbstractFileSystem"
    splits: dict[str, list[SourceFile]]


def wanted_splits(data: Data) -> dict[str, str]:
    """The split of each role, those that judge the model first."""
    return {"validation": data.validation_split, "test": data.test_split, "train": data.train_split}


def pin(data: Data, workspace: Workspace) -> PinnedData:
    """The request with its source fixed: a commit of the hub, or a digest of the files' content; and its tokenizer.

    Raises:
        BadRequest: there is no such source or tokenizer, or the source's content cannot be told from another's.
        CloudError: `DataUnreachable`, the hub did not answer.
    """
    pinned = _pin_source(data, workspace)
    if data.tokenizer is None:
        return pinned
    from chatdata.tokens import tokenizer_file

    file = tokenizer_file(data.tokenizer)
    return pinned.model_copy(update={"tokenizer": file_digest(file), "tokenizer_file": str(file)})


def _pin_source(data: Data, workspace: Workspace) -> PinnedData:
    source = data.source
    if source.startswith(ASSET_PREFIX):
        return _pin_asset(data, workspace)
    if "://" in source:
        return PinnedData(data=data, revision=_digest_of_urls(data))
    place = Path(source).expanduser()
    if place.exists():
        return PinnedData(data=data, revision=_digest_of_files(data, place), place=str(place.resolve()))
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise BadRequest([f"data.source '{source}': no such folder or file (looked from {Path.cwd()})."])
    return PinnedData(data=data, revision=_hub_commit(data))


def open_source(pinned: PinnedData) -> Source:
    """The files of the wanted splits.

    Raises:
        BadRequest: a split does not exist; the message names those that do.
        CloudError: `DataUnreachable`, the hub did not answer.
    """
    data = pinned.data
    names = sorted(set(wanted_splits(data).values()))
    if pinned.place or "://" in data.source:
        system, root = _system(pinned)
        splits = {name: _matching(system, root, name) for name in names if _is_pattern(name)}
    else:
        from chatdata.hub import hub_system

        system, splits = hub_system(), {}
    if len(splits) < len(names):
        if "://" in data.source:
            raise BadRequest([_name_the_files(data, name) for name in names if name not in splits])
        splits |= _layout(pinned, system, [name for name in names if name not in splits])
    return Source(system, splits)


def kind_of(path: str) -> Kind | None:
    """How a file is read, by the endings of its name; None for one that is not read."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return KINDS.get(suffixes[-1]) if suffixes else None


def digest_of(files: list[Path], root: Path) -> str:
    """SHA-256 over the files' content and over their names below `root`."""
    with ThreadPoolExecutor(2) as pool:
        digests = list(pool.map(file_digest, files))
    lines = [f"{file.relative_to(root)}\0{digest}\n" for file, digest in zip(files, digests, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unreachable(source: str, error: Exception) -> CloudError:
    """The error for a hub or a store that does not answer."""
    detail = " ".join(str(error).split())[:300]
    return CloudError(
        "DataUnreachable",
        f"'{source}' is no folder or file here, and where it is kept did not answer as it should: {detail}",
        "Check the network and HF_ENDPOINT, or name a local folder in data.source.",
    )


def _is_pattern(split: str) -> bool:
    """Whether a split is the name of files rather than that of a split in the hub's layout."""
    return kind_of(split) is not None or any(character in split for character in "*?[")


def _name_the_files(data: Data, split: str) -> str:
    return (
        f"data.source '{data.source}' is a URL, and split '{split}' does not name files below it. "
        "Name them, e.g. data.train_split=train.jsonl or 'train/*.parquet'."
    )


def _pin_asset(data: Data, workspace: Workspace) -> PinnedData:
    from chatdata.azure import fetch_asset, pin_asset

    asset = pin_asset(workspace, data.source)
    place = fetch_asset(workspace, asset, home() / "assets")
    return PinnedData(data=data, revision=asset.revision, place=str(place))


def _system(pinned: PinnedData) -> "tuple[AbstractFileSystem, str]":
    """The file system of a place or URL, and the path in it that splits are below."""
    import fsspec

    if pinned.place:
        place = Path(pinned.place)
        return fsspec.filesystem("file"), str(place if place.is_dir() else place.parent)
    return open_url(pinned.data.source)


def open_url(url: str) -> "tuple[AbstractFileSystem, str]":
    """The file system of a URL and the path in it.

    Raises:
        BadRequest: nothing installed reads such URLs.
    """
    import fsspec

    if url.partition("://")[0] in AZURE_PROTOCOLS:
        from chatdata.azure import open_storage

        return open_storage(url)
    try:
        return fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise BadRequest([f"data.source '{url}': {error}"]) from error


def _matching(system: "AbstractFileSystem", root: str, split: str) -> list[SourceFile]:
    """The files that a pattern names below the root, in the order of their names."""
    if "://" in split or split.startswith("/"):
        path = split.partition("://")[2] if "://" in split else split
    else:
        path = f"{root.rstrip('/')}/{split}"
    try:
        found = sorted(system.glob(path)) if any(c in split for c in "*?[") else [path] * system.exists(path)
    except (OSError, ValueError) as error:
        raise unreachable(path, error) from error
    files = [(file, kind_of(file)) for file in found]
    wanted = [SourceFile(_below(file, root), file, kind) for file, kind in files if kind]
    # A user may name files of elsewhere; a folder's own links and patterns may not.
    if _is_local(system) and not split.startswith("/") and ".." not in split.split("/"):
        for file in wanted:
            _check_inside(root, file)
    if not wanted:
        raise BadRequest([f"Split '{split}': no file of that name below '{root}' ({', '.join(KINDS)} are read)."])
    return wanted


def _is_local(system: "AbstractFileSystem") -> bool:
    return system.protocol in ("file", ("file", "local"))


def _check_inside(folder: str, file: SourceFile) -> None:
    """Raises: BadRequest for a file that is elsewhere, through a link or by the word of the data set's card."""
    real = Path(file.path).resolve()
    if not real.is_relative_to(_bounds(Path(folder))):
        raise BadRequest([f"'{file.name}' of '{folder}' is {real}, outside the folder. Put the file itself there."])


def _bounds(folder: Path) -> Path:
    """What the links of a folder may lead to: the folder; of a snapshot in the hub's cache, all of its repository."""
    folder = folder.resolve()
    return folder.parent.parent if folder.parent.name == "snapshots" else folder


def _below(path: str, root: str) -> str:
    return path.removeprefix(root.rstrip("/")).lstrip("/") if path.startswith(root.rstrip("/")) else path


def _digest_of_files(data: Data, place: Path) -> str:
    """Digest of the files of the wanted splits where they are named, else of the whole folder."""
    import fsspec

    root = place if place.is_dir() else place.parent
    names = sorted(set(wanted_splits(data).values()))
    if all(map(_is_pattern, names)):
        system = fsspec.filesystem("file")
        files = [Path(file.path) for name in names for file in _matching(system, str(root.resolve()), name)]
        return digest_of(sorted(set(files)), Path("/"))
    if place.is_file():
        raise BadRequest(
            [
                f"data.source '{place}' is a file. Name its folder, and the file of each split, "
                f"e.g. data.train_split={place.name}."
            ]
        )
    # What a link leads to elsewhere is refused where a split has it, and else is no part of the data.
    files = sorted(path for path in place.rglob("*") if path.is_file() and ".cache" not in path.parts)
    inside = [path for path in files if path.resolve().is_relative_to(_bounds(place))]
    if not inside:
        what = f"holds only links to elsewhere, such as '{files[0].name}'" if files else "is an empty folder"
        raise BadRequest([f"data.source '{place}' {what}. Put the files themselves there."])
    files = inside
    return digest_of(files, place)


def _digest_of_urls(data: Data) -> str:
    """Digest of what the store says about the content of each file of the wanted splits."""
    system, root = open_url(data.source)
    names = sorted(set(wanted_splits(data).values()))
    if problems := [_name_the_files(data, name) for name in names if not _is_pattern(name)]:
        raise BadRequest(problems)
    lines = []
    for file in [file for name in names for file in _matching(system, root, name)]:
        about = system.info(file.path)
        identity = next((str(about[name]) for name in IDENTITIES if about.get(name)), None)
        if identity is None and _is_local(system):
            identity = file_digest(Path(file.path))
        if identity is None:
            raise BadRequest(
                [
                    f"data.source '{data.source}': the store gives no ETag or digest for '{file.name}', so a change of "
                    "it could not be noticed. Download the files and name their folder."
                ]
            )
        lines.append(f"{file.path}\0{identity}\0{about.get('size')}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _layout(pinned: PinnedData, system: "AbstractFileSystem", names: list[str]) -> dict[str, list[SourceFile]]:
    """The files of splits in the hub's layout."""
    data = pinned.data
    found = {} if pinned.place else _named_by_card(pinned, system)
    found = found or files_found_by_datasets(pinned)
    if missing := [name for name in names if name not in found]:
        known = ", ".join(sorted(found)) or "none"
        raise BadRequest(
            [f"data.source '{data.source}' has no split '{name}'. Its splits: {known}." for name in missing]
        )
    return {name: list(_described(pinned, found[name])) for name in names}


def _named_by_card(pinned: PinnedData, system: "CountingHub") -> dict[str, list[str]]:
    """The files that the data set's card names for each split; none where the hub refuses: `datasets` says why."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    from chatdata.hub import files_named_by_card

    try:
        return files_named_by_card(system, pinned.data.source, pinned.revision, pinned.data.subset)
    except (HfHubHTTPError, HTTPError, OSError):
        return {}


def files_found_by_datasets(pinned: PinnedData) -> dict[str, list[str]]:
    """The files of each split, as `datasets` finds them."""
    import datasets

    data = pinned.data
    where = {"path": data.source, "revision": pinned.revision}
    if pinned.place:
        where = {"path": pinned.place, "cache_dir": str(home() / "datasets")}
    try:
        builder = datasets.load_dataset_builder(name=data.subset, **where)
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        # The cause says what is wrong in a file, but of a data set that is not there only an HTTP status.
        missing = isinstance(error, datasets.exceptions.DatasetNotFoundError)
        detail = " ".join(str(error if missing else error.__cause__ or error).split())
        problem = f"data.source '{data.source}': {detail}"
        raise BadRequest([f"{problem} {CHECK_NAME}" if missing else problem]) from error
    except ConnectionError as error:
        raise unreachable(data.source, error) from error
    return {str(split): list(map(str, files)) for split, files in (builder.config.data_files or {}).items()}


def _described(pinned: PinnedData, paths: list[str]) -> Iterator[SourceFile]:
    """The files at these paths, which the data set's own card may have named."""
    source, place = pinned.data.source, pinned.place
    # hub: hf://datasets/<owner>/<name>@<commit>/<path below>
    of_the_hub = re.compile(rf"(?:hf://)?datasets/[^@:]+@{re.escape(pinned.revision)}/(?P<below>.+)")
    for path in paths:
        kind = kind_of(path)
        if kind is None:
            raise BadRequest([f"data.source '{source}': file '{path}' is none of {', '.join(KINDS)}."])
        if place:
            file = SourceFile(_below(path, place), path, kind)
            _check_inside(place, file)
            yield file
        elif (match := of_the_hub.fullmatch(path)) and ".." not in match["below"].split("/"):
            yield SourceFile(match["below"], path, kind)
        else:
            raise BadRequest([f"data.source '{source}': its card names '{path}', which is no file of the data set."])


def _hub_commit(data: Data) -> str:
    """The commit that the request's revision stands for; a commit stands for itself."""
    if data.revision and COMMIT.fullmatch(data.revision):
        return data.revision
    from huggingface_hub.utils import get_session

    with ThreadPoolExecutor(1) as pool:
        # It reads the certificates, which takes as long as the import, and leaves the interpreter to that.
        pool.submit(get_session)
        from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

    try:
        return HfApi().dataset_info(data.source, revision=data.revision).sha
    except HFValidationError as error:
        raise BadRequest([f"data.source '{data.source}' is neither a folder nor a hub id."]) from error
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise unreachable(data.source, error) from error
        revision = f" at revision '{data.revision}'" if data.revision else ""
        raise BadRequest(
            [
                f"data.source '{data.source}'{revision} is neither a folder here nor a data set that the hub shows you "
                f"(HTTP {error.response.status_code}). {CHECK_NAME}"
            ]
        ) from error
    except (HTTPError, OSError, OfflineModeIsEnabled) as error:
        raise unreachable(data.source, error) from error

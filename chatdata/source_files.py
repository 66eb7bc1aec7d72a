"""The files of the splits of a source whose content is fixed.

Which files a split of a hub data set or of a folder with a card has, its card says or `datasets` finds out. Elsewhere
the files' names say it (`chatdata.splits`). A split that is itself the name of a file or a pattern (`train.jsonl`,
`2026/*.parquet`) is looked up below the source. A file that a split names belongs to that split alone, and
what validates or tests is never trained on. Nothing is downloaded here.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from chatdata.chat_template import ChatTemplate
from chatdata.splits import ROLES, Role, assign_roles, named_splits, splits_by_name
from retune.errors import BadRequest, CloudError
from retune.folders import home
from retune.report import Part
from retune.request import Data

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from chatdata.hub import CountingHub

Kind = Literal["parquet", "arrow", "json", "csv"]

KINDS: dict[str, Kind] = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
AZURE_PROTOCOLS = ("abfs", "abfss", "az")
CHECK_NAME = "Check the name and the revision; for a private or gated one set HF_TOKEN."


class PinnedData(Part):
    """A data request whose source cannot change any more."""

    data: Data
    revision: str
    # The folder or file here that stands for the source; None for a hub data set and other URLs.
    local_path: str | None = None
    # SHA-256 of the tokenizer's file, and where that is; None where no tokenizer is named.
    tokenizer: str | None = None
    tokenizer_file: str | None = None
    chat_template: ChatTemplate | None = None


class SourceFile(NamedTuple):
    """One file of a split."""

    # Below the source, as messages show it.
    name: str
    # For its file system.
    path: str
    kind: Kind


class SourceSplit(NamedTuple):
    """A split that has a role, and its files."""

    name: str
    files: list[SourceFile]


class Source(NamedTuple):
    """The split of each role that has one, and the file system that opens its files."""

    system: "AbstractFileSystem"
    splits: dict[Role, SourceSplit]
    # Splits, and files beside the splits, that are not read.
    unused: list[str]


def open_source(pinned: PinnedData) -> Source:
    """The files of the splits.

    Raises:
        BadRequest: a split does not exist; the message names those that do.
        CloudError: `DataUnreachable`, the hub did not answer.
    """
    data = pinned.data
    if pinned.local_path is None and "://" not in data.source:
        from chatdata.hub import hub_system

        system = hub_system()
        known = {} if all_named_as_files(data) else _layout(pinned, system)
        return _with_roles(data, system, f"datasets/{data.source}@{pinned.revision}", known)
    system, root = _system(pinned)
    return open_files(pinned.data, system, root, pinned)


def open_files(data: Data, system: "AbstractFileSystem", root: str, pinned: "PinnedData | None") -> Source:
    """The splits of files below a folder: those that the request names, and others by their names."""
    if all_named_as_files(data):
        return _with_roles(data, system, root, {})
    if pinned is not None and pinned.local_path and _needs_datasets(Path(pinned.local_path), data):
        return _with_roles(data, system, root, _layout(pinned, None))
    return _with_roles(data, system, root, _splits_below(data, system, root))


def all_named_as_files(data: Data) -> bool:
    """Whether the request names the files of every split, so that no other split matters."""
    named = named_splits(data)
    return len(named) == len(ROLES) and all(map(is_pattern, named.values()))


def _with_roles(data: Data, system: "AbstractFileSystem", root: str, known: dict[str, list[SourceFile]]) -> Source:
    """The source with the split of each role, of which the known ones have these files."""
    folder = root if kind_of(root) is None or system.isdir(root) else root.rpartition("/")[0]
    named = named_splits(data)
    patterns = {name: matching_files(system, folder, name) for name in set(named.values()) if is_pattern(name)}
    every = list(known)
    taken = [file for files in patterns.values() for file in files]
    known = {name: rest for name, files in known.items() if (rest := others(system, files, taken))}
    if missing := [name for name in dict.fromkeys(named.values()) if name not in patterns and name not in known]:
        raise BadRequest([_no_split(data, name, every) for name in missing])
    if not known and not patterns:
        raise BadRequest([f"data.source '{data.source}' holds no file that is read ({', '.join(KINDS)})."])
    roles = assign_roles(data, known)
    splits: dict[Role, SourceSplit] = {
        role: SourceSplit(name, patterns.get(name) or known[name]) for role, name in roles.items()
    }
    given = [file for role, split in splits.items() if role != "train" for file in split.files]
    train = splits["train"]
    splits["train"] = train._replace(files=others(system, train.files, given))
    if not splits["train"].files:
        raise BadRequest(
            [f"data.train_split '{train.name}' names only files that validate or test, which are never trained on."],
            "Name other files in data.train_split.",
        )
    return Source(system, splits, [name for name in known if name not in roles.values()])


def others(system: "AbstractFileSystem", files: list[SourceFile], taken: list[SourceFile]) -> list[SourceFile]:
    """The files that are not among those taken, however their paths are written."""

    def identity(file: SourceFile) -> str:
        return os.path.realpath(file.path) if is_local(system) else file.path.removeprefix("hf://")

    known = set(map(identity, taken))
    return [file for file in files if identity(file) not in known]


def _no_split(data: Data, name: str, known: Iterable[str]) -> str:
    splits = ", ".join(sorted(known)) or "none"
    return f"data.source '{data.source}' has no split '{name}'. Its splits: {splits}."


def _needs_datasets(local_path: Path, data: Data) -> bool:
    """Whether a folder's splits are named by a card, or by a script, which `datasets` reads."""
    if not local_path.is_dir():
        return False
    card = local_path / "README.md"
    front = card.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0] if card.is_file() else ""
    return data.subset is not None or bool(re.search(r"^(configs|data_files):", front, re.MULTILINE))


def _splits_below(data: Data, system: "AbstractFileSystem", root: str) -> dict[str, list[SourceFile]]:
    """The splits of the files below a folder, or of one file."""
    if (kind := kind_of(root)) and not system.isdir(root):
        return {root.rpartition("/")[2]: [SourceFile(root.rpartition("/")[2], root, kind)]}
    try:
        paths = [_below(path, root) for path in system.find(root)]
    except (OSError, ValueError, NotImplementedError) as error:
        raise unreachable(root, error) from error
    splits = splits_by_name(path for path in paths if kind_of(path))
    if not splits:
        raise BadRequest([_no_data(data, paths)])
    files = {
        name: [SourceFile(path, f"{root.rstrip('/')}/{path}", cast("Kind", kind_of(path))) for path in below]
        for name, below in splits.items()
    }
    if is_local(system):
        for file in (file for part in files.values() for file in part):
            _check_inside(root, file)
    return files


def _no_data(data: Data, paths: list[str]) -> str:
    """A sentence for a folder that holds nothing that is read."""
    if not paths:
        return f"data.source '{data.source}' is an empty folder."
    if paths == [""]:
        return f"data.source '{data.source}' is no file that is read ({', '.join(KINDS)}). Export it as one of these."
    shown = ", ".join(sorted(paths)[:5])
    return f"data.source '{data.source}' holds no file that is read ({', '.join(KINDS)}), but {shown}."


def kind_of(path: str) -> Kind | None:
    """How a file is read, by the endings of its name; None for one that is not read."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return KINDS.get(suffixes[-1]) if suffixes else None


def unreachable(source: str, error: Exception) -> CloudError:
    """The error for a hub or a store that does not answer."""
    detail = " ".join(str(error).split())[:300]
    return CloudError(
        "DataUnreachable",
        f"'{source}' is no folder or file here, and where it is kept did not answer as it should: {detail}",
        "Check the network and HF_ENDPOINT, or name a local folder in data.source.",
    )


def is_pattern(split: str) -> bool:
    """Whether a split is the name of files rather than that of a split in the hub's layout."""
    return kind_of(split) is not None or any(character in split for character in "*?[")


def _system(pinned: PinnedData) -> "tuple[AbstractFileSystem, str]":
    """The file system of a path or URL, and the path in it that splits are below."""
    import fsspec

    if pinned.local_path:
        return fsspec.filesystem("file"), pinned.local_path
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


def matching_files(system: "AbstractFileSystem", root: str, split: str) -> list[SourceFile]:
    """The files that a pattern names below the root, in the order of their names."""
    if "://" in split or split.startswith("/"):
        path = split.partition("://")[2] if "://" in split else split
    else:
        path = f"{root.rstrip('/')}/{split.removeprefix('./')}"
    try:
        pattern = any(character in split for character in "*?[")
        paths = sorted(map(str, system.glob(path))) if pattern else [path] * system.exists(path)
    except (OSError, ValueError) as error:
        raise unreachable(path, error) from error
    wanted = [SourceFile(_below(file, root), file, kind) for file in paths if (kind := kind_of(file))]
    # A user may name files of elsewhere; a folder's own links and patterns may not.
    if is_local(system) and not split.startswith("/") and ".." not in split.split("/"):
        for file in wanted:
            _check_inside(root, file)
    if not wanted:
        shown = root.removeprefix("datasets/")
        raise BadRequest([f"Split '{split}': no file of that name below '{shown}' ({', '.join(KINDS)} are read)."])
    return wanted


def is_local(system: "AbstractFileSystem") -> bool:
    return system.protocol in ("file", ("file", "local"))


def _check_inside(folder: str, file: SourceFile) -> None:
    """Raises: BadRequest for a file that is elsewhere, through a link or by the word of the data set's card."""
    real = Path(file.path).resolve()
    if not real.is_relative_to(file_bounds(Path(folder))):
        raise BadRequest([f"'{file.name}' of '{folder}' is {real}, outside the folder. Put the file itself there."])


def file_bounds(folder: Path) -> Path:
    """What the links of a folder may lead to: the folder; of a snapshot in the hub's cache, all of its repository."""
    folder = folder.resolve()
    return folder.parent.parent if folder.parent.name == "snapshots" else folder


def _below(path: str, root: str) -> str:
    return path.removeprefix(root.rstrip("/")).lstrip("/") if path.startswith(root.rstrip("/")) else path


def _layout(pinned: PinnedData, system: "CountingHub | None") -> dict[str, list[SourceFile]]:
    """The files of each split in the hub's layout."""
    by_card = _named_by_card(pinned, system) if system is not None else {}
    splits = by_card or files_found_by_datasets(pinned)
    return {name: list(_described(pinned, files)) for name, files in splits.items()}


def _named_by_card(pinned: PinnedData, system: "CountingHub") -> dict[str, list[str]]:
    """The files that the data set's card names for each split; none where the hub refuses: `datasets` says why."""
    from huggingface_hub.errors import HfHubHTTPError

    from chatdata.hub import TransportError, files_named_by_card

    try:
        return files_named_by_card(system, pinned.data.source, pinned.revision, pinned.data.subset)
    except (HfHubHTTPError, TransportError, OSError):
        return {}


def files_found_by_datasets(pinned: PinnedData) -> dict[str, list[str]]:
    """The files of each split, as `datasets` finds them."""
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    data = pinned.data
    where: dict[str, Any] = {"path": data.source, "revision": pinned.revision}
    if pinned.local_path:
        where = {"path": pinned.local_path, "cache_dir": str(home() / "datasets")}
    try:
        builder = datasets.load_dataset_builder(name=data.subset, **where)
    except (ValueError, FileNotFoundError, DatasetsError) as error:
        # The cause says what is wrong in a file, but of a data set that is not there only an HTTP status.
        missing = isinstance(error, DatasetNotFoundError)
        detail = " ".join(str(error if missing else error.__cause__ or error).split())
        problem = f"data.source '{data.source}': {detail}"
        raise BadRequest([f"{problem} {CHECK_NAME}" if missing else problem]) from error
    except ConnectionError as error:
        raise unreachable(data.source, error) from error
    return {str(split): list(map(str, files)) for split, files in (builder.config.data_files or {}).items()}


def _described(pinned: PinnedData, paths: list[str]) -> Iterator[SourceFile]:
    """The files at these paths, which the data set's own card may have named."""
    source, local_path = pinned.data.source, pinned.local_path
    # hub: hf://datasets/<owner>/<name>@<commit>/<path below>
    of_the_hub = re.compile(rf"(?:hf://)?datasets/[^@:]+@{re.escape(pinned.revision)}/(?P<below>.+)")
    for path in paths:
        kind = kind_of(path)
        if kind is None:
            raise BadRequest([f"data.source '{source}': file '{path}' is none of {', '.join(KINDS)}."])
        if local_path:
            file = SourceFile(_below(path, local_path), path, kind)
            _check_inside(local_path, file)
            yield file
        elif (match := of_the_hub.fullmatch(path)) and ".." not in match["below"].split("/"):
            yield SourceFile(match["below"], path, kind)
        else:
            raise BadRequest([f"data.source '{source}': its card names '{path}', which is no file of the data set."])

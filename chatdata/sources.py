"""What `data.source` names, fixed so that it cannot change any more.

A commit of the hub, a digest of files, or what a store says of them.
"""

import difflib
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from chatdata.chat_template import read_template
from chatdata.source_files import (
    CHECK_NAME,
    PinnedData,
    all_named_as_files,
    file_bounds,
    is_local,
    kind_of,
    matching_files,
    open_files,
    open_url,
    unreachable,
)
from chatdata.splits import named_splits
from retune.errors import BadRequest
from retune.folders import home
from retune.request import Data, Workspace

COMMIT = re.compile(r"[0-9a-f]{40}")
# Names under which file systems give what changes with a file's content. A time of change is not among them.
IDENTITIES = ("ETag", "etag", "content_md5", "md5Hash", "sha256")
ASSET_PREFIX = "azureml:"


def pin(data: Data, workspace: Workspace) -> PinnedData:
    """The request with its source fixed: a commit of the hub, or a digest of the files' content; and its tokenizer.

    Raises:
        BadRequest: there is no such source or tokenizer, or the source's content cannot be told from another's.
        CloudError: `DataUnreachable`, the hub did not answer.
    """
    pinned = _pin_source(data, workspace)
    if data.tokenizer is None:
        return pinned
    from chatdata.tokens import template_files, tokenizer_file

    file = tokenizer_file(data.tokenizer)
    template = read_template(template_files(data.tokenizer))
    tokenizer = {"tokenizer": file_digest(file), "tokenizer_file": str(file), "chat_template": template}
    return pinned.model_copy(update=tokenizer)


def _pin_source(data: Data, workspace: Workspace) -> PinnedData:
    source = data.source
    if all_named_as_files(data):
        _refuse_without_effect(data, "read by the names of files alone", "subset")
    if source.startswith(ASSET_PREFIX):
        _refuse_without_effect(data, "a data asset, whose version its name says", "revision")
        return _pin_asset(data, workspace)
    if "://" in source:
        _refuse_without_effect(data, "a URL", "revision", "subset")
        return PinnedData(data=data, revision=_digest_of_urls(data))
    local_path = Path(source).expanduser()
    if local_path.exists():
        if not local_path.is_file() and not local_path.is_dir():
            raise BadRequest(
                [f"data.source '{source}' is neither a file nor a folder. Write its rows to a file first."]
            )
        kind, idle = (
            ("a folder here", ("revision",)) if local_path.is_dir() else ("a file here", ("revision", "subset"))
        )
        _refuse_without_effect(data, kind, *idle)
        # The endings of a link's own name say how the file is read.
        whole = local_path.resolve() if local_path.is_dir() else local_path.parent.resolve() / local_path.name
        return PinnedData(data=data, revision=_digest_of_files(data, local_path), local_path=str(whole))
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1 or kind_of(source)
    if is_path or ("/" in source and local_path.parent.is_dir()):
        raise BadRequest(
            [f"data.source '{source}': no such folder or file (looked from {Path.cwd()}).{_like(local_path)}"]
        )
    return PinnedData(data=data, revision=_hub_commit(data))


def _like(path: Path) -> str:
    """A sentence with what has a name like that of a path which is not there."""
    names: list[str] = []
    with suppress(OSError):
        names = [each.name for each in path.parent.iterdir()]
    like = difflib.get_close_matches(path.name, names)
    return f" There is {' and '.join(str(path.parent / name) for name in like)}." if like else ""


def _refuse_without_effect(data: Data, kind: str, *settings: str) -> None:
    """Raises: BadRequest for settings that have no effect on a source of this kind."""
    if idle := [name for name in settings if getattr(data, name) is not None]:
        raise BadRequest(
            [f"data.{name} has no effect: data.source '{data.source}' is {kind}." for name in idle],
            "Leave it out, e.g. " + " ".join(f"--set data.{name}=null" for name in idle),
        )


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


def _pin_asset(data: Data, workspace: Workspace) -> PinnedData:
    from chatdata.azure import fetch_asset, pin_asset

    asset = pin_asset(workspace, data.source)
    local_path = fetch_asset(workspace, asset, home() / "assets")
    return PinnedData(data=data, revision=asset.revision, local_path=str(local_path))


def _digest_of_files(data: Data, local_path: Path) -> str:
    """Digest of the files of the wanted splits where they are named, else of the whole folder."""
    import fsspec

    if all_named_as_files(data):
        names = list(named_splits(data).values())
        root = local_path if local_path.is_dir() else local_path.parent
        system = fsspec.filesystem("file")
        files = [Path(file.path) for name in names for file in matching_files(system, str(root.resolve()), name)]
        return digest_of(sorted(set(files)), Path("/"))
    if local_path.is_file():
        return file_digest(local_path)
    # What a link leads to elsewhere is refused where a split has it, and else is no part of the data.
    files = sorted(
        path for path in local_path.rglob("*") if path.is_file() and ".cache" not in path.relative_to(local_path).parts
    )
    inside = [path for path in files if path.resolve().is_relative_to(file_bounds(local_path))]
    if not inside:
        what = f"holds only links to elsewhere, such as '{files[0].name}'" if files else "is an empty folder"
        raise BadRequest([f"data.source '{local_path}' {what}. Put the files themselves there."])
    files = inside
    return digest_of(files, local_path)


def _digest_of_urls(data: Data) -> str:
    """Digest of what the store says about the content of each file of the splits."""
    system, root = open_url(data.source)
    source = open_files(data, system, root, None)
    lines = []
    for file in [file for split in source.splits.values() for file in split.files]:
        about = system.info(file.path)
        identity = next((str(about[name]) for name in IDENTITIES if about.get(name)), None)
        if identity is None and is_local(system):
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


def _hub_commit(data: Data) -> str:
    """The commit that the request's revision stands for; a commit stands for itself."""
    if data.revision and COMMIT.fullmatch(data.revision):
        return data.revision
    from huggingface_hub.utils import get_session

    with ThreadPoolExecutor(1) as pool:
        # It reads the certificates, which takes as long as the import, and leaves the interpreter to that.
        pool.submit(get_session)
        from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    from chatdata.hub import TransportError

    try:
        return str(HfApi().dataset_info(data.source, revision=data.revision).sha)
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
    except (TransportError, OSError, OfflineModeIsEnabled) as error:
        raise unreachable(data.source, error) from error

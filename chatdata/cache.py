"""Prepared data on disk, one folder for each content key: the files that a job takes, and a manifest about them.

A folder appears whole, under a lock that its process holds, and is believed only after the files' digests were checked.
"""

import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from chatdata.sources import file_digest
from retune.errors import CloudError, WaitExpired
from retune.folders import home
from retune.report import Part, PreparedData
from retune.waiting import pause

log = logging.getLogger("retune.data")

MANIFEST = "manifest.json"
PARTIAL = ".partial-"
LOCK_SECONDS = 2 * 3600
LOOK_EVERY_SECONDS = 0.2


class Entry(Part):
    """One prepared content."""

    key: str = Field(description="Digest of everything that decides the files' content.")
    folder: str = Field(description="Where the files are.")
    source: str = Field("", description="What was prepared.")
    revision: str = Field("", description="Commit or digest of the source.")
    rows: dict[str, int] = Field({}, description="Rows, by role.")
    bytes: int = Field(0, description="Size of the files, bytes.")
    created: datetime | None = Field(None, description="When they were written.")
    problem: str | None = Field(None, description="Why they are not believed; null when they are, or were not checked.")


def folder() -> Path:
    """The folder of all prepared data."""
    path = home() / "data"
    path.mkdir(exist_ok=True)
    return path


def find_or_make(key: str, make: Callable[[Path], PreparedData]) -> PreparedData:
    """The prepared data of a key: what is there, checked, or what `make` writes into an empty folder.

    Of several processes that ask at the same time, one makes it and the others find it.

    Raises:
        CloudError: `DataLost`, somebody removed the folder meanwhile.
        WaitExpired: another process has been preparing the same data for two hours.
    """
    if (known := find(key)) is not None:
        return known
    with locked(key):
        if (known := find(key, quiet=True)) is not None:
            return known
        began, target = time.monotonic(), folder() / key
        remove(key)
        with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}{key}-", dir=folder()) as scratch:
            draft = Path(scratch) / "draft"
            try:
                draft.mkdir()
                prepared = make(draft).model_copy(update={"key": key, "seconds": round(time.monotonic() - began, 2)})
                (draft / MANIFEST).write_text(prepared.model_dump_json(indent=2), encoding="utf-8")
                draft.rename(target)
            except FileNotFoundError as error:
                if draft.exists():
                    raise
                text = f"The folder {draft} was removed while data was being written there."
                raise CloudError("DataLost", text, "Run it again, and leave the folder alone meanwhile.") from error
        return placed(prepared, target)


def find(key: str, *, quiet: bool = False) -> PreparedData | None:
    """The prepared data of a key, if every file is what it was; otherwise it is to be made again."""
    target = folder() / key
    if not target.exists():
        return None
    began = time.monotonic()
    prepared, problem = read(target)
    if prepared is None or problem:
        if not quiet:
            log.warning("prepared data %s %s; preparing it again", key, problem)
        return None
    seconds = round(time.monotonic() - began, 2)
    return prepared.model_copy(update={"cached": True, "fetched_bytes": 0, "seconds": seconds})


def read(target: Path) -> tuple[PreparedData | None, str | None]:
    """What a folder holds, and what is wrong with it."""
    try:
        prepared = PreparedData.model_validate_json((target / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None, "has no manifest"
    except (OSError, ValidationError) as error:
        return None, f"has a manifest that cannot be read ({type(error).__name__})"
    prepared = placed(prepared, target)
    for split in prepared.splits.values():
        path = Path(split.path)
        if not path.is_file():
            return prepared, f"lacks {path.name}"
        if file_digest(path) != split.sha256:
            return prepared, f"has another {path.name} than was written"
    return prepared, None


def placed(prepared: PreparedData, target: Path) -> PreparedData:
    """The same with the paths that the files have now; a folder may have been moved with all that is around it."""
    splits = {
        role: split.model_copy(update={"path": str(target / Path(split.path).name)})
        for role, split in prepared.splits.items()
    }
    return prepared.model_copy(update={"splits": splits})


def entries(*, check: bool) -> Iterator[Entry]:
    """All prepared data, the newest first; with `check`, every file is read."""
    folders = [path for path in folder().iterdir() if path.is_dir() and not path.name.startswith(".")]
    for path in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        if check:
            prepared, problem = read(path)
        else:
            try:
                prepared, problem = PreparedData.model_validate_json((path / MANIFEST).read_bytes()), None
            except (OSError, ValidationError):
                prepared, problem = None, "has no readable manifest"
        yield Entry(
            key=path.name,
            folder=str(path),
            source=prepared.source if prepared else "",
            revision=prepared.revision if prepared else "",
            rows={role: split.rows for role, split in prepared.splits.items()} if prepared else {},
            bytes=sum(file.stat().st_size for file in path.iterdir()),
            created=datetime.fromtimestamp(path.stat().st_mtime, UTC),
            problem=problem,
        )


def clear(keys: list[str] | None = None) -> list[Entry]:
    """Deletes prepared data, all of it or that of the keys, and returns what was deleted. What is being made stays.

    With all of it goes what killed processes left half-made.
    """
    deleted = []
    for entry in entries(check=False):
        if keys is None or entry.key in keys:
            with locked(entry.key):
                remove(entry.key)
            deleted.append(entry)
    if keys is None:
        clear_partial()
    return deleted


def clear_partial() -> None:
    """Deletes what killed processes left of data that nobody has asked for since."""
    for path in folder().glob(f"{PARTIAL}*"):
        key = path.name.removeprefix(PARTIAL).rpartition("-")[0]
        # A process that holds the lock is at work there, and may have been done meanwhile.
        with contextlib.suppress(Timeout), FileLock(folder() / f".{key}.lock").acquire(timeout=0):
            if path.exists():
                shutil.rmtree(path)


def remove(key: str) -> None:
    """Deletes what is there under a key, and what a killed process left of it. The caller holds its lock."""
    for path in [folder() / key, *folder().glob(f"{PARTIAL}{key}-*")]:
        if path.exists():
            shutil.rmtree(path)


@contextmanager
def locked(key: str) -> Iterator[None]:
    """Holds the lock of a key; the system releases it when the process dies.

    Raises:
        WaitExpired: another process has held it for two hours.
    """
    lock = FileLock(folder() / f".{key}.lock")
    deadline = time.monotonic() + LOCK_SECONDS
    waiting = False
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout as error:
            if time.monotonic() > deadline:
                raise WaitExpired(
                    "WaitExpired",
                    f"Another process has been preparing data {key} for {LOCK_SECONDS // 3600} hours.",
                    f"End the process that holds {lock.lock_file}.",
                ) from error
        if not waiting:
            log.info("another run is preparing the same data; waiting for it")
            waiting = True
        pause(LOOK_EVERY_SECONDS)
    try:
        yield
    finally:
        lock.release()


def render_entries(entries: list[Entry]) -> None:
    """Print entries for a person, on stdout."""
    from rich.filesize import decimal
    from rich.table import Table

    from retune.printing import for_terminal, screen

    console = screen()
    if not entries:
        console.print("No prepared data.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("key", "written", "size", "rows", "source", "problem"):
        table.add_column(heading, overflow="fold")
    for entry in map(for_terminal, entries):
        rows = ", ".join(f"{role} {count}" for role, count in entry.rows.items())
        written = f"{entry.created:%Y-%m-%d %H:%M} UTC" if entry.created else ""
        source = f"{entry.source} @ {entry.revision[:12]}" if entry.source else ""
        table.add_row(entry.key, written, decimal(entry.bytes), rows, source, entry.problem or "")
    console.print(table)

"""The one folder where Retune keeps its files: prepared data, reports, the local emulator's state."""

import os
import re
from pathlib import Path

from retune.errors import BadRequest

# Control characters, and halves of characters, which no file name holds.
UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
LONGEST_NAME_BYTES = 255


def home() -> Path:
    """The folder named by RETUNE_HOME, or `.retune` in the current folder; absolute, created if missing, and private.

    Raises:
        BadRequest: it is another user's, or a link stands in it.
    """
    named = Path(os.environ.get("RETUNE_HOME", ".retune"))
    if named.is_symlink():
        raise BadRequest([f"'{named}' is a link to '{named.readlink()}'."], "Name the folder itself in RETUNE_HOME.")
    path = named.resolve()
    # It holds chats, keys and reports; so may what this process writes elsewhere.
    os.umask(0o077)
    path.mkdir(parents=True, exist_ok=True)
    owner = path.stat().st_uid
    links = [entry for entry in path.iterdir() if entry.is_symlink()]
    if owner == os.geteuid() and not links:
        path.chmod(0o700)
        return path
    problem = f"The folder '{path}' belongs to another user (id {owner})."
    if links:
        problem = f"'{links[0]}' is a link to '{links[0].readlink()}', which may be anywhere."
    raise BadRequest([problem], "Set RETUNE_HOME to a folder of your own, without links in it.")


def check_file_names(of: str, *names: str) -> None:
    """Check that outside names, parts of a path, are valid file names; `of` says whose they are.

    Raises:
        BadRequest: a name leads to another folder, or no file can have it.
    """
    for name in names:
        unwritable = UNWRITABLE.search(name) or len(name.encode()) > LONGEST_NAME_BYTES
        if name in ("", ".", "..") or "/" in name or unwritable:
            raise BadRequest([f"{of} cannot be saved: {name!r} is not a valid file name."], "Rename it.")


def write_whole(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    draft = file.with_name(f"{file.stem}.{os.getpid()}.part")
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def keep_report(flow_run_id: str, text: str) -> str | None:
    """Write the report of a flow run to its file, whole or not at all. Why it could not be, if so."""
    content = text.encode()
    folder = Path(os.environ.get("RETUNE_HOME", ".retune")).resolve() / "runs"
    try:
        home()
        folder.mkdir(exist_ok=True)
        write_whole(folder / f"{flow_run_id}.json", content)
    except BadRequest as error:
        return f"The report is not kept: {error}"
    except OSError as error:
        return f"The report is not kept: {error.strerror} in '{folder}', where its {len(content)} bytes belong."
    return None

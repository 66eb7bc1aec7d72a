"""The one place on disk where Retune keeps what it makes: prepared data, reports, the local emulator's state."""

import os
import re
from pathlib import Path

from retune.errors import BadRequest

# Control characters, and halves of characters, which no file name holds.
UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
LONGEST_NAME_BYTES = 255


def home() -> Path:
    """The folder named by RETUNE_HOME, or `.retune` in the current folder; absolute, made when missing."""
    path = Path(os.environ.get("RETUNE_HOME", ".retune")).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def check_file_names(of: str, *names: str) -> None:
    """Check that outside names, parts of a path, are valid file names; `of` says whose they are.

    Raises:
        BadRequest: a name leads to another folder, or no file can have it.
    """
    for name in names:
        unwritable = UNWRITABLE.search(name) or len(name.encode()) > LONGEST_NAME_BYTES
        if name in ("", ".", "..") or "/" in name or unwritable:
            raise BadRequest([f"{of} cannot be saved: {name!r} is not a valid file name."], "Rename it.")


def report_file(flow_run_id: str) -> Path:
    """Where the report of a flow run is kept, as JSON."""
    folder = home() / "runs"
    folder.mkdir(exist_ok=True)
    return folder / f"{flow_run_id}.json"

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


def check_file_names(*names: str) -> None:
    """Names that came from elsewhere can be those of files and folders of ours.

    Raises:
        BadRequest: a name leads to another folder, or no file can have it.
    """
    for name in names:
        unwritable = UNWRITABLE.search(name) or len(name.encode()) > LONGEST_NAME_BYTES
        if name in ("", ".", "..") or "/" in name or unwritable:
            raise BadRequest([f"The name {name!r} cannot be that of a file."], "Rename it where it comes from.")


def report_file(flow_run_id: str) -> Path:
    """Where the report of a flow run is kept, as JSON."""
    folder = home() / "runs"
    folder.mkdir(exist_ok=True)
    return folder / f"{flow_run_id}.json"

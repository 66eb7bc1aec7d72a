"""The one place on disk where Retune keeps what it makes: prepared data, reports, the local emulator's state."""

import os
from pathlib import Path


def home() -> Path:
    """The folder named by RETUNE_HOME, or `.retune` in the current folder; absolute, made when missing."""
    path = Path(os.environ.get("RETUNE_HOME", ".retune")).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def report_file(flow_run_id: str) -> Path:
    """Where the report of a flow run is kept, as JSON."""
    folder = home() / "runs"
    folder.mkdir(exist_ok=True)
    return folder / f"{flow_run_id}.json"

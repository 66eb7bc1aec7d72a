"""The run that this machine started last, which commands call `last`."""

import contextlib
from pathlib import Path

from pydantic import BaseModel

from retune.errors import BadRequest
from retune.folders import home, write_whole
from retune.request import Workspace


class LastRun(BaseModel):
    """Which run it was, and where."""

    key: str
    flow_run_id: str
    workspace: Workspace


def keep(run: LastRun) -> None:
    """Note it for later commands; where that cannot be done, `last` is an earlier run."""
    with contextlib.suppress(OSError, BadRequest):
        write_whole(_file(), run.model_dump_json(indent=2).encode())


def read() -> LastRun:
    """The run that was started last.

    Raises:
        BadRequest: none was, in this folder.
    """
    try:
        return LastRun.model_validate_json(_file().read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        fix = "Name the run by its key, or set RETUNE_HOME to the folder of the run."
        raise BadRequest([f"No run has been started with the folder {home()}."], fix) from error
    except (OSError, ValueError) as error:
        problem = f"{_file()} does not say which run was the last: {type(error).__name__}."
        raise BadRequest([problem], "Delete it, and name the run by its key.") from error


def _file() -> Path:
    return home() / "last_run.json"

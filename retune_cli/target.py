"""Which workspace a command looks after: one rule for all of them.

What the command line names; for `last`, the workspace of that run; else what the environment or a config.json names;
else the local one, whose emulator must run. Only what starts a run starts an emulator.
"""

from retune import last_run
from retune.request import LAST, Request, load
from retune_cloud import workspace as cloud


def choose(preset: str | None, assignments: list[str], run: str | None = None) -> tuple[Request, str | None]:
    """The request that names the workspace of a command, and the key of its run; `run` is a key, or `last`.

    Raises:
        BadRequest: the settings are wrong, or there is no last run.
    """
    named = preset is not None or any(assignment.startswith("workspace.") for assignment in assignments)
    latest = last_run.read() if run == LAST else None
    key = latest.key if latest else run
    if named:
        request = load(preset, assignments)
    elif latest:
        request = load(None, assignments).model_copy(update={"workspace": latest.workspace})
    elif cloud.is_named():
        request = load(None, assignments)
    else:
        request = load("local", assignments)
    return request, key


def key_of(run: str) -> str:
    """The key of a run that is named by its key, or as `last`.

    Raises:
        BadRequest: there is no last run.
    """
    return last_run.read().key if run == LAST else run

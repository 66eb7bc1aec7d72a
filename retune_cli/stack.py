"""Where the servers of `retune local start` are, for commands that use them."""

import contextlib
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field

from retune.folders import home


class Stack(BaseModel):
    """What runs on this machine."""

    model_config = ConfigDict(frozen=True)

    page: str = Field(description="Address of Prefect's page.")
    emulator: str = Field(description="Address of the emulator.")
    deployments: list[str] = Field(description="What can be run.")
    profile: Path = Field(description="Prefect profile with the sign-in, readable by the owner alone.")
    pid: int = Field(description="Process that holds them.")

    @property
    def api(self) -> str:
        """Prefect's API."""
        return f"{self.page}/api"


def running() -> Stack | None:
    """What runs and is ready, if anything does."""
    with contextlib.suppress(Timeout), stack_lock().acquire(blocking=False):
        # A process that was killed has left its own.
        stack_file().unlink(missing_ok=True)
        return None
    with contextlib.suppress(FileNotFoundError):
        return Stack.model_validate_json(stack_file().read_text(encoding="utf-8"))
    return None


def stack_file() -> Path:
    return home() / "local.json"


def stack_lock() -> FileLock:
    return FileLock(home() / "local.lock")

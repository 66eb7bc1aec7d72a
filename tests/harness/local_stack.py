"""`retune local` with folders of its own, as tests start, use and stop it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import psutil
from commands import own_homes, without_prefect
from processes import processes_of

from retune.sign_in import read_profile, signed_in
from retune_cli.local import ROOT, Stack
from retune_cli.servers import free_port

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas import State

START_SECONDS, STOP_SECONDS = 240, 120
# Parameters of a run of seconds.
REHEARSAL = {"component": "chat_completion_rehearsal"}


class Local:
    """The commands, with folders of their own."""

    def __init__(self, folder: Path, database: Path) -> None:
        own = own_homes(folder, database) | {"PREFECT_WORKER_QUERY_SECONDS": "2"}
        self.home = folder / "retune"
        outside = without_prefect()
        outside.pop("ARM_CLOUD_METADATA_URL", None)
        self._environment = outside | own

    def __call__(self, *words: str, seconds: float = START_SECONDS) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from retune_cli.commands import retune; retune()", "local", *words]
        return subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=seconds, check=False
        )

    @property
    def stack(self) -> Stack:
        """What runs, as its file says."""
        return Stack.model_validate_json((self.home / "local.json").read_text(encoding="utf-8"))

    @property
    def sign_in_string(self) -> str:
        """What a person copies from the file that the command names."""
        return read_profile(self.stack.profile).string

    def processes(self) -> list[psutil.Process]:
        """All that were started with its folders."""
        return processes_of(self.home.parent)

    @contextmanager
    def client(self) -> "Iterator[SyncPrefectClient]":
        """A client of its Prefect server, which this process uses too in the body."""
        from prefect.client.orchestration import get_client

        with signed_in(self.stack.profile), get_client(sync_client=True) as client:
            yield client


@contextmanager
def started(folder: Path, database: Path) -> Iterator[Local]:
    """The stack, on a port of its own."""
    local = Local(folder, database)
    begun = local("start", "--port", str(free_port()))
    assert begun.returncode == 0, begun.stderr
    assert local.stack.page in begun.stdout
    try:
        yield local
    finally:
        local("stop", seconds=STOP_SECONDS)


def states_of(client: "SyncPrefectClient", deployment: UUID) -> "list[State]":
    """The states of the deployment's runs."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId

    of_it = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
    return [run.state for run in client.read_flow_runs(flow_run_filter=of_it) if run.state]

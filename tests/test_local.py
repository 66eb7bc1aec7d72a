"""`retune local`: the deployments on this machine, with everything that they need, and nothing left when it stops."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from retune.local import ROOT, Stack

START_SECONDS, STOP_SECONDS, RUN_SECONDS = 120, 90, 120
REHEARSAL = {"component": "chat_completion_rehearsal"}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Local:
    """The commands, with folders of their own."""

    def __init__(self, folder: Path) -> None:
        own = {"RETUNE_HOME": str(folder / "retune"), "PREFECT_HOME": str(folder / "prefect")}
        own |= {"PREFECT_WORKER_QUERY_SECONDS": "2"}
        self.home = folder / "retune"
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PREFECT_API_URL", "ARM_CLOUD_METADATA_URL")
        } | own

    def __call__(self, *words: str, seconds: float = START_SECONDS) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from retune.commands import retune; retune()", "local", *words]
        return subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=seconds, check=False
        )

    @property
    def stack(self) -> Stack:
        """What runs, as its file says."""
        return Stack.model_validate_json((self.home / "local.json").read_text(encoding="utf-8"))

    def processes(self) -> list[psutil.Process]:
        """All that has the folder in its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("RETUNE_HOME") == str(self.home):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """The stack, started."""
    local = Local(tmp_path_factory.mktemp("local"))
    started = local("start", "--port", str(free_port()))
    assert started.returncode == 0, started.stderr
    assert local.stack.page in started.stdout
    yield local
    local("stop", seconds=STOP_SECONDS)


@pytest.mark.timeout(400)
def test_a_run_completes_and_stopping_leaves_nothing(local: Local) -> None:
    """Also when another run is in the middle: its job and its endpoint go, and every process with them."""
    from prefect.client.orchestration import get_client
    from prefect.deployments import run_deployment
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: local.stack.api}), get_client(sync_client=True) as client:
        done = run_deployment("finetune/local", parameters={"model": REHEARSAL}, timeout=RUN_SECONDS)
        assert done.state.name == "Completed", done.state.message
        again = run_deployment("finetune/local-nightly", parameters={"model": REHEARSAL}, timeout=RUN_SECONDS)
        assert (again.state.name, again.state.is_completed()) == ("Skipped", True), again.state.message
        long = {"training_seconds": 300}
        parameters = {"model": REHEARSAL, "training": long}
        going_on = run_deployment("finetune/local", parameters=parameters, timeout=0).id
        deadline = time.monotonic() + RUN_SECONDS
        while not any("flows.guard" in process.cmdline() for process in local.processes()):
            assert time.monotonic() < deadline, client.read_flow_run(going_on).state
            time.sleep(0.5)

    stopped = local("stop", seconds=STOP_SECONDS)

    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n"), stopped.stderr
    assert local.processes() == []
    assert not (local.home / "local.json").exists()
    assert local("stop").stdout == "nothing was running\n"


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """With what to do about it; nothing is started."""
    local = Local(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = local("start", "--port", str(port))

    assert refused.returncode == 2
    assert f"Port {port} is taken." in refused.stderr and "PORT=" in refused.stderr
    assert local.processes() == []

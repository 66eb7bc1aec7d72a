"""prefect.yaml as a user deploys it: a work pool, a process worker, and one quick run of the deployment."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import Emulator, Variables

from retune.request import PRESETS

ROOT = Path(__file__).resolve().parent.parent
POOL = "retune"
START_SECONDS, RUN_SECONDS, STOP_SECONDS = 60, 240, 30


def prefect(*words: str) -> str:
    """A line of a shell that runs Prefect's command."""
    return shlex.join([sys.executable, "-m", "prefect", *words])


@pytest.fixture
def worker(prefect_api: str, session_emulator: Emulator, tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process worker of the deployed project, started from a shell that has the emulator's exports."""
    environment = os.environ | {"PREFECT_API_URL": prefect_api, "PREFECT_WORKER_QUERY_SECONDS": "2"}
    exports = shlex.join([sys.executable, "-m", "azureml_emulator", "env", "--home", str(session_emulator.home)])
    lines = (
        f"cd {shlex.quote(str(ROOT))}",
        prefect("--no-prompt", "work-pool", "create", "--type", "process", POOL),
        prefect("--no-prompt", "deploy", "--all"),
        f'eval "$({exports})"',
        f"exec {prefect('worker', 'start', '--pool', POOL)}",
    )
    with (tmp_path / "worker.log").open("w") as log:
        process = subprocess.Popen(
            ["bash", "-c", " && ".join(lines)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # A worker ends on SIGINT, which a test run in the background hands down as ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    deadline = time.monotonic() + START_SECONDS
    try:
        while "started!" not in (text := (tmp_path / "worker.log").read_text()):
            assert process.poll() is None and time.monotonic() < deadline, text
            time.sleep(0.2)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.timeout(420)
def test_a_worker_runs_the_deployment(worker: subprocess.Popen, session_emulator: Emulator, tmp_path: Path) -> None:
    """The run completes, its report and its log are where they belong; endpoint and worker leave nothing behind."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.deployments import run_deployment

    request = yaml.safe_load((PRESETS / "local.yaml").read_text(encoding="utf-8"))
    request["training"]["max_steps"] = 2
    run = run_deployment("finetune/local", parameters={"request": request}, timeout=0)
    children: set[psutil.Process] = set()
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + RUN_SECONDS
        while not (state := client.read_flow_run(run.id).state).is_final():
            assert time.monotonic() < deadline, (tmp_path / "worker.log").read_text()
            children |= set(psutil.Process(worker.pid).children(recursive=True))
            time.sleep(0.5)
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait(STOP_SECONDS)
        logged = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200)
    with Variables(session_emulator.env):
        endpoints = list(session_emulator.client().online_endpoints.list())
    report = json.loads((Path(os.environ["RETUNE_HOME"]) / "runs" / f"{run.id}.json").read_text(encoding="utf-8"))

    assert state.name == "Completed", (tmp_path / "worker.log").read_text()
    assert (report["status"], report["run"]["flow_run_id"]) == ("completed", str(run.id))
    assert report["endpoint"]["deleted"] is True and endpoints == []
    assert f"submitted {report['job']['name']}" in [line.message for line in logged if line.name == "retune.job"]
    assert children and not [child for child in children if child.is_running()]

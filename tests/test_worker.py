"""prefect.yaml as a user deploys it: a work pool, a process worker, runs of the deployment, and how they end."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from commands import ROOT, endpoints_left, job_statuses, state_in_prefect, wait_for
from conftest import Emulator
from processes import running
from variables import Variables

POOL = "retune"
# A worker's run begins with a new interpreter.
START_SECONDS, RUN_SECONDS, EVENT_SECONDS, STOP_SECONDS = 120, 240, 120, 60


def prefect(*words: str) -> list[str]:
    """Prefect's command."""
    return [sys.executable, "-m", "prefect", *words]


@pytest.fixture(scope="module")
def deployed(prefect_api: str) -> dict[str, str]:
    """The environment of a shell in which the project was deployed."""
    environment = os.environ | {"PREFECT_API_URL": prefect_api, "PREFECT_WORKER_QUERY_SECONDS": "2"}
    for command in (
        prefect("--no-prompt", "work-pool", "create", "--type", "process", POOL, "--overwrite"),
        prefect("--no-prompt", "deploy", "--all"),
        # A tick of the sweep's schedule would cancel the run that a test starts: its limit is one at a time.
        prefect("deployment", "schedule", "pause", "--all"),
    ):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return environment


@pytest.fixture
def worker(deployed: dict[str, str], session_emulator: Emulator, tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process worker of the deployed project, started from a shell that has the emulator's exports."""
    exports = shlex.join([sys.executable, "-m", "azureml_emulator", "env", "--home", str(session_emulator.home)])
    with (tmp_path / "worker.log").open("w") as log:
        process = subprocess.Popen(
            ["bash", "-c", f'eval "$({exports})" && exec {shlex.join(prefect("worker", "start", "--pool", POOL))}'],
            cwd=ROOT,
            env=deployed,
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


def start(**training: object) -> UUID:
    """Start a rehearsal from the deployment, which says what this does not; Prefect's id of it."""
    from prefect.deployments import run_deployment

    parameters = {"training": training, "model": {"component": "chat_completion_rehearsal"}, "force": True}
    return run_deployment("finetune/local", parameters=parameters, timeout=0).id


def flow_process(worker: subprocess.Popen) -> psutil.Process:
    """The process that runs the flow: the one with a guard."""
    (guard,) = running(worker.pid, "flows.guard")
    return guard.parent()


def wait_for_status(emulator: Emulator, run: UUID, *statuses: str) -> None:
    """Return when the run's only job has one of the statuses."""
    job = f"retune-{run}-1"
    text = f"{job} {' or '.join(statuses)}"
    wait_for(lambda: job_statuses(emulator, str(run)).get(job) in statuses, text, EVENT_SECONDS)


@pytest.mark.exhaustive
def test_a_worker_runs_the_deployment(worker: subprocess.Popen, session_emulator: Emulator, tmp_path: Path) -> None:
    """The run completes, its report and its log are where they belong; endpoint and worker leave nothing behind."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    run = start()
    children: set[psutil.Process] = set()
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + RUN_SECONDS
        while not (state := client.read_flow_run(run).state).is_final():
            assert time.monotonic() < deadline, (tmp_path / "worker.log").read_text()
            children |= set(psutil.Process(worker.pid).children(recursive=True))
            time.sleep(0.5)
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait(STOP_SECONDS)
        logged = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])), limit=200)
    with Variables(session_emulator.env):
        endpoints = endpoints_left(session_emulator)
    report = json.loads((Path(os.environ["RETUNE_HOME"]) / "runs" / f"{run}.json").read_text(encoding="utf-8"))

    assert state.name == "Completed", (tmp_path / "worker.log").read_text()
    assert (report["status"], report["run"]["flow_run_id"]) == ("completed", str(run))
    assert report["endpoint"]["deleted"] is True and endpoints == []
    assert f"submitted {report['job']['name']}" in [line.message for line in logged if line.name == "retune.job"]
    assert children and not [child for child in children if child.is_running()]


@pytest.mark.usefixtures("worker")
@pytest.mark.exhaustive
def test_a_cancelled_run_ends_as_cancelled(emulator: Emulator) -> None:
    """The button in Prefect's UI: the job is asked to end within seconds, and the state is honest."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    run = start(training_seconds=120)
    wait_for_status(emulator, run, "Running")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Cancelling())
    wait_for_status(emulator, run, "CancelRequested", "Canceled")

    assert wait_for(lambda: state_in_prefect(run) == "CANCELLED", "state CANCELLED")
    assert endpoints_left(emulator) == []


def test_a_worker_that_is_told_to_end_leaves_no_job(worker: subprocess.Popen, emulator: Emulator) -> None:
    """Prefect kills the flow without `finally` or hook; the guard sees worker and run die, and ends the job."""
    run = start(training_seconds=120)
    wait_for_status(emulator, run, "Running")
    os.kill(worker.pid, signal.SIGTERM)
    wait_for_status(emulator, run, "CancelRequested", "Canceled")
    worker.wait(STOP_SECONDS)

    assert wait_for(lambda: state_in_prefect(run) in ("CRASHED", "CANCELLED"), "a final state")


@pytest.mark.exhaustive
def test_the_hook_deletes_what_a_killed_run_left(worker: subprocess.Popen, emulator: Emulator) -> None:
    """Without its guard: the worker notices the death and runs `on_crashed` in a process of its own."""
    run = start()
    wait_for(lambda: endpoints_left(emulator), "an endpoint", EVENT_SECONDS)
    flow = flow_process(worker)
    for guard in flow.children():
        guard.kill()
    flow.kill()

    assert wait_for(lambda: endpoints_left(emulator) == [], "the deletion by the hook")
    assert wait_for(lambda: state_in_prefect(run) == "CRASHED", "state CRASHED")


@pytest.mark.usefixtures("worker", "emulator")
@pytest.mark.exhaustive
def test_a_worker_runs_the_sweep() -> None:
    """The scheduled deployment has nothing to be told: the worker's environment names the workspace."""
    from prefect.deployments import run_deployment

    run = run_deployment("sweep/every-15-minutes", timeout=RUN_SECONDS)

    assert run.state.name == "Completed", run.state.message
    assert run.state.message == "0 endpoint(s) and 0 job(s) in workspace local outlived their runs."

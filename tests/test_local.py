"""`retune local`: the deployments on this machine, with everything that they need, and nothing left when it stops."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_stack import REHEARSAL, STOP_SECONDS, Local, started, states_of
from processes import command_line

RUN_SECONDS, FIRED_SECONDS = 240, 400


@pytest.fixture(scope="module")
def local(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """The stack, started."""
    with started(tmp_path_factory.mktemp("local"), empty_database) as local:
        yield local


@pytest.mark.exhaustive
def test_schedules_fire_by_themselves_and_do_not_overlap(local: Local) -> None:
    """Each minute, with a run that takes longer than that: its next tick is dropped. The sweep goes on beside it."""
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.client.schemas.schedules import CronSchedule

    with local.client() as client:
        nightly = client.read_deployment_by_name("finetune/local-nightly")
        sweep = client.read_deployment_by_name("sweep/every-15-minutes")
        usual = nightly.parameters
        long = usual | {"model": usual["model"] | REHEARSAL, "training": usual["training"] | {"training_seconds": 80}}
        client.update_deployment(nightly.id, DeploymentUpdate(parameters=long))
        for deployment in (nightly, sweep):
            each_minute = CronSchedule(cron="* * * * *", timezone="UTC")
            client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, schedule=each_minute)

        most_at_once, deadline = 0, time.monotonic() + FIRED_SECONDS
        completed = dropped = swept = False
        while not (completed and dropped and swept):
            states = states_of(client, nightly.id)
            assert time.monotonic() < deadline, states
            most_at_once = max(most_at_once, sum(state.is_running() or state.is_pending() for state in states))
            completed = any(state.is_completed() for state in states)
            dropped = any(state.is_cancelled() and "concurrency limit" in (state.message or "") for state in states)
            swept = any(state.is_completed() for state in states_of(client, sweep.id))
            time.sleep(0.5)

        for deployment in (nightly, sweep):
            client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=False)
        client.update_deployment(nightly.id, DeploymentUpdate(parameters=usual))
        while not all(state.is_final() or state.is_scheduled() for state in states_of(client, nightly.id)):
            assert time.monotonic() < deadline, states_of(client, nightly.id)
            time.sleep(0.5)

    assert most_at_once == 1


@pytest.mark.exhaustive
def test_a_run_completes_and_the_nightly_one_is_skipped(local: Local) -> None:
    """Nothing has changed between the two."""
    from prefect.deployments import run_deployment

    with local.client():
        done = run_deployment("finetune/local", parameters={"model": REHEARSAL}, timeout=RUN_SECONDS)
        again = run_deployment("finetune/local-nightly", parameters={"model": REHEARSAL}, timeout=RUN_SECONDS)

    assert done.state.name == "Completed", done.state.message
    assert (again.state.name, again.state.is_completed()) == ("Skipped", True), again.state.message


def test_stopping_ends_a_run_and_leaves_nothing(local: Local) -> None:
    """The job of a run that is in the middle and its endpoint go, and every process with them."""
    from prefect.deployments import run_deployment

    with local.client() as client:
        long = {"training_seconds": 300}
        parameters = {"model": REHEARSAL, "training": long}
        going_on = run_deployment("finetune/local", parameters=parameters, timeout=0).id
        deadline = time.monotonic() + RUN_SECONDS
        while not any("flows.guard" in command_line(process) for process in local.processes()):
            assert time.monotonic() < deadline, client.read_flow_run(going_on).state
            time.sleep(0.5)

    stopped = local("stop", seconds=STOP_SECONDS)

    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n"), stopped.stderr
    assert local.processes() == []
    assert not (local.home / "local.json").exists() and not list(local.home.glob("prefect-*.toml"))
    assert local("stop").stdout == "nothing was running\n"


def test_a_port_that_is_taken_is_named(empty_database: Path, tmp_path: Path) -> None:
    """With what to do about it; nothing is started."""
    local = Local(tmp_path, empty_database)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = local("start", "--port", str(port))

    assert refused.returncode == 2
    assert f"Port {port} is taken." in refused.stderr and "PORT=" in refused.stderr
    assert local.processes() == []

"""A trial's work pool, deployment and worker: the same run as the command's, started through Prefect's API."""

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import psutil
from chaos_runs import RUN_SECONDS, Run, assignments, start
from chaos_stage import ROOT, Cloud, Stage, wait_for
from chaos_trials import Trial
from processes import command_line, processes_of

from retune.request import load

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

START_SECONDS, STOP_SECONDS = 60, 45


class Deployment:
    """One trial's deployment on a pool of its own, so that only its own workers take its runs."""

    def __init__(self, stage: Stage, cloud: Cloud, trial: Trial) -> None:
        self._stage, self._cloud, self._key = stage, cloud, trial.key
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import WorkPoolCreate

        request = load("local", ["=".join(pair) for pair in assignments(trial).items()])
        self._parameters = request.model_dump(mode="json") | {"run_key": trial.key}
        with get_client(sync_client=True) as client:
            client.create_work_pool(WorkPoolCreate(name=trial.key, type="process"))
            self._id = client.create_deployment(
                flow_id=client.create_flow_from_name("finetune"),
                name=trial.key,
                entrypoint="flows/finetune.py:finetune",
                path=str(ROOT),
                work_pool_name=trial.key,
                pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
            )

    @property
    def folder(self) -> Path:
        return self._stage.folder / self._key

    def create_run(self) -> UUID:
        """Ask for a run of the key; a worker takes it."""
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            return client.create_flow_run_from_deployment(self._id, parameters=self._parameters).id

    def start_worker(self, name: str) -> Run:
        """A process worker on the trial's pool, which looks for runs."""
        command = ["prefect", "worker", "start", "--pool", self._key, "--name", f"{self._key}-{name}"]
        worker = start(command, self._stage.environment(self._cloud, self.folder), self.folder / name)
        wait_for(lambda: "started!" in worker.text(), START_SECONDS, "the start of a worker", 0.2)
        return worker

    def stop_worker(self, worker: Run) -> None:
        """End an idle worker as a user does."""
        if not worker.over():
            worker.process.send_signal(signal.SIGTERM)
            worker.wait(STOP_SECONDS)

    def wait(self, run: UUID, seconds: float = RUN_SECONDS) -> "State":
        """The run's final state. Raises: TooSlow."""
        wait_for(lambda: state_of(run).is_final(), seconds, f"a final state of flow run {run}", every=0.3)
        return state_of(run)

    def report(self, run: UUID) -> dict:
        """The report that the run has kept."""
        return json.loads((self.folder / "retune" / "runs" / f"{run}.json").read_text(encoding="utf-8"))

    def flow_process(self, run: UUID) -> psutil.Process | None:
        """The process in which the flow runs, once it is there."""
        found = [one for one in processes_of(self.folder) if is_flow(one, run)]
        # The worker's launcher is the parent of the one that runs the flow.
        parents = {one.ppid() for one in found}
        return next((one for one in found if one.pid not in parents), None)


def state_of(run: UUID) -> "State":
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_flow_run(run).state


def is_flow(process: psutil.Process, run: UUID) -> bool:
    try:
        own = process.environ().get("PREFECT__FLOW_RUN_ID") == str(run)
        return own and "flows.guard" not in command_line(process)
    except psutil.Error:
        return False

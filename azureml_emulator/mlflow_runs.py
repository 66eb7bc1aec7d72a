"""MLflow's SQL store with one addition: a run whose id is given. Importing this loads MLflow, which takes seconds."""

from pathlib import Path

from mlflow.entities import LifecycleStage, RunStatus, RunTag, SourceType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME


class JobRunStore(SqlAlchemyStore):
    """The store of the tracking server, in which runs of jobs have the names of the jobs."""

    def write(
        self,
        run_id: str,
        *,
        experiment: str,
        name: str,
        status: str,
        started: int,
        ended: int | None,
        tags: dict[str, str],
        artifacts: Path,
    ) -> None:
        """Makes the run, or changes what is different. Times in milliseconds since 1970."""
        state = RunStatus.from_string(status)
        try:
            present = self.get_run(run_id)
        except MlflowException:
            self._insert(run_id, self._experiment(experiment), name, started, tags, artifacts)
            present = self.get_run(run_id)
        if (present.info.status, present.info.run_name, present.info.end_time) != (status, name, ended):
            self.update_run_info(run_id, state, ended, name)
        for key, value in tags.items():
            if present.data.tags.get(key) != value:
                self.set_tag(run_id, RunTag(key, value))

    def _experiment(self, name: str) -> str:
        found = self.get_experiment_by_name(name)
        return found.experiment_id if found else self.create_experiment(name)

    def _insert(
        self, run_id: str, experiment_id: str, name: str, started: int, tags: dict[str, str], artifacts: Path
    ) -> None:
        """A run as `create_run` makes it, but for its id and the place of its artifacts."""
        run = SqlRun(
            run_uuid=run_id,
            name=name,
            artifact_uri=artifacts.as_uri(),
            experiment_id=int(experiment_id),
            source_type=SourceType.to_string(SourceType.JOB),
            source_name="",
            entry_point_name="",
            source_version="",
            user_id=tags["mlflow.user"],
            status=RunStatus.to_string(RunStatus.SCHEDULED),
            start_time=started,
            lifecycle_stage=LifecycleStage.ACTIVE,
        )
        run.tags = [SqlTag(key=key, value=value) for key, value in {**tags, MLFLOW_RUN_NAME: name}.items()]
        with self.ManagedSessionMaker(read_only=False) as session:
            session.add(run)

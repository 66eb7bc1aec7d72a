"""MLflow's tracking server on one SQLite file, with one addition: runs whose id is given, for the runs of jobs.

Run by tracking.py: `python -m azureml_emulator.mlflow_server FILE`, with a secret in MLFLOW_SERVER_SECRET. Prints
`{"port": N}` when it serves on 127.0.0.1. Every request must carry the secret in the header `x-secret`, and requests
from foreign web pages are refused. The API is MLflow's own, and `PUT /job-runs/<id>` makes a run or brings it up to
date. A process of its own, because loading MLflow would hold up the emulator for seconds.
"""

import hmac
import json
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask, Response, request
from mlflow.entities import LifecycleStage, RunStatus, RunTag, SourceType
from mlflow.exceptions import MlflowException
from mlflow.server import app as mlflow_app
from mlflow.server.constants import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR
from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from werkzeug.serving import make_server

from trainer.same_origin import refusal

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SECRET_VARIABLE = "MLFLOW_SERVER_SECRET"
ORIGIN_HEADERS = {"host": "HTTP_HOST", "origin": "HTTP_ORIGIN", "sec-fetch-site": "HTTP_SEC_FETCH_SITE"}


class JobRunStore(SqlAlchemyStore):
    """MLflow's store, in which runs of jobs have the names of the jobs."""

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
        artifact_uri: str,
    ) -> None:
        """Creates or updates the run. Times in milliseconds since 1970, `status` in MLflow's words."""
        try:
            existing = self.get_run(run_id)
        except MlflowException:
            self._insert(run_id, self._experiment(experiment), name, started, tags, artifact_uri)
            existing = self.get_run(run_id)
        if (existing.info.status, existing.info.run_name, existing.info.end_time) != (status, name, ended):
            self.update_run_info(run_id, RunStatus.from_string(status), ended, name)
        for key, value in tags.items():
            if existing.data.tags.get(key) != value:
                self.set_tag(run_id, RunTag(key, value))

    def _experiment(self, name: str) -> str:
        experiment = self.get_experiment_by_name(name)
        return str(experiment.experiment_id if experiment else self.create_experiment(name))

    def _insert(
        self, run_id: str, experiment_id: str, name: str, started: int, tags: dict[str, str], artifact_uri: str
    ) -> None:
        """A run as `create_run` makes it, except for its id and the folder of its artifacts."""
        run = SqlRun(
            run_uuid=run_id,
            name=name,
            artifact_uri=artifact_uri,
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


class Gate:
    """The application behind the secret, for programs of this machine."""

    def __init__(self, application: Flask, secret: str) -> None:
        self._application = application
        self._secret = secret

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        headers = {name: environ[variable] for name, variable in ORIGIN_HEADERS.items() if variable in environ}
        if reason := refusal(headers, scheme="http", port=int(environ["SERVER_PORT"])):
            return Response(f"{reason}\n", status=403)(environ, start_response)
        if hmac.compare_digest(environ.get("HTTP_X_SECRET", "").encode(), self._secret.encode()):
            return self._application(environ, start_response)
        return Response("The header x-secret is missing or wrong.", status=401)(environ, start_response)


def main(file: Path) -> None:
    """Serves until it is ended."""
    for name in ("mlflow", "alembic", "werkzeug"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The database is given as an address, and MLflow pastes the artifact root into SQL: no odd characters in either.
    file = file.resolve()
    os.chdir(file.parent)
    address, artifacts = f"sqlite:///{file.name}", file.with_name("mlflow_artifacts").as_uri()
    os.environ[BACKEND_STORE_URI_ENV_VAR], os.environ[ARTIFACT_ROOT_ENV_VAR] = address, artifacts
    store = JobRunStore(address, artifacts)

    @mlflow_app.put("/job-runs/<run_id>")
    def write_job_run(run_id: str) -> Response:
        store.write(run_id, **request.get_json())
        return Response(status=204)

    # One request at a time: SQLite takes one writer, and nobody waits long on this machine.
    server = make_server("127.0.0.1", 0, Gate(mlflow_app, os.environ[SECRET_VARIABLE]))
    print(json.dumps({"port": server.server_port}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

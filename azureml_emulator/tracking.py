"""MLflow's tracking server under the workspace's tracking URI, and the runs of jobs in its store.

The REST API and the store (HOME/mlflow.db) are MLflow's own. A job's run exists there under the job's name: what runs.py
knows of a run (state, name, tags, family) is written to the store in the background, and a request waits until all of it is
there. The state of a job's run is the job's: what a client says about it is left out.

MLflow takes seconds to load, so that begins with the first job or the first request. Of azureml-mlflow's own additions to
the API only asynchronous batches are known; they are written at once.
"""

import json
import logging
import os
import queue
import threading
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from azureml_emulator.runs import WORKSPACE, Runs
from azureml_emulator.wire import Answer, Call, Json, Route
from azureml_emulator.world import World

if TYPE_CHECKING:
    from azureml_emulator.mlflow_runs import JobRunStore

log = logging.getLogger(__name__)

# azureml-mlflow asks under v2.0, the workspace's address says v1.0.
PREFIXES = [f"/mlflow/{version}{WORKSPACE}" for version in ("v1.0", "v2.0")]
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
API = "/api/2.0/mlflow"
LOAD_SECONDS = 90
STATES = {
    **dict.fromkeys(("Running", "Finalizing", "CancelRequested", "NotResponding", "Paused"), "RUNNING"),
    "Completed": "FINISHED",
    "Failed": "FAILED",
    "Canceled": "KILLED",
}


class Tracking:
    """The tracking server of the workspace."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._changes: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._store: JobRunStore | None = None
        # SQLite takes one writer at a time.
        self._turn = threading.Lock()

    def routes(self) -> list[Route]:
        paths = [prefix + "/{rest:path}" for prefix in PREFIXES]
        return [Route(method, path, None, self._answer, auth="tracking") for method in METHODS for path in paths]

    def recover(self) -> None:
        self._world.room(Runs).watch(self.write)

    def stop(self) -> None:
        """Nothing to end: every change is a transaction."""

    def write(self, run_id: str) -> None:
        """Brings a run's present state to the store, soon."""
        self._load()
        self._changes.put(run_id)

    def _load(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        """Opens the store, brings every run up to date, then follows the changes."""
        try:
            self._store = open_store(self._world.settings.home / "mlflow.db")
            for run_id, run in self._world.store.list("runs"):
                self._write(run_id, run)
            while True:
                change = self._changes.get()
                if isinstance(change, threading.Event):
                    change.set()
                elif run := self._world.store.get("runs", change):
                    self._write(change, run)
        except Exception:
            # Without this thread no tracking request is answered any more: it says why, the requests say 503.
            log.exception("the tracking store failed")

    def _write(self, run_id: str, run: Json) -> None:
        assert self._store
        with self._turn:
            self._store.write(
                run_id,
                experiment=str(run["experiment"]),
                name=str(run["display_name"]),
                status=STATES.get(str(run["status"]), "SCHEDULED"),
                started=milliseconds(str(run["started"] or run["created"])),
                ended=milliseconds(str(run["ended"])) if run["ended"] else None,
                tags=run_tags(run),
                artifacts=self._world.room(Runs).artifacts(run_id),
            )

    def _wait(self) -> bool:
        """Whether all that runs.py has said so far is in the store now."""
        self._load()
        reached = threading.Event()
        self._changes.put(reached)
        return reached.wait(LOAD_SECONDS)

    def _answer(self, call: Call) -> Answer:
        if not self._wait():
            text = f"The tracking store was not ready within {LOAD_SECONDS} s. The emulator's log has the reason."
            return Answer(503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": text})
        path = "/" + call.path_params["rest"]
        body, run = self._read(call)
        if path == f"{API}/runs/update" and run is not None:
            body = {key: value for key, value in body.items() if key not in ("status", "end_time")}
        if path == "/api/2.0/preview/mlflow/runs/log-batch-async":
            path = f"{API}/runs/log-batch"
        answer = self._forward(call, path, json.dumps(body).encode() if body else call.body)
        if answer.status == 200 and run is not None and path in (f"{API}/runs/set-tag", f"{API}/runs/log-batch"):
            self._keep_tags(body)
        return answer

    def _read(self, call: Call) -> tuple[Json, Json | None]:
        """The body of a request that has one, and the job's run that it is about, if any."""
        if call.method == "GET" or not call.body:
            return {}, None
        body = call.json()
        return body, self._world.room(Runs).find(str(body.get("run_id") or body.get("run_uuid") or ""))

    def _keep_tags(self, body: Json) -> None:
        """Tags set through MLflow are tags of the job too."""
        entries = [body] if "key" in body else body.get("tags")
        tags = {str(entry["key"]): str(entry["value"]) for entry in entries or [] if isinstance(entry, dict)}
        own = {key: value for key, value in tags.items() if not key.startswith("mlflow.")}
        if own:
            run_id = str(body.get("run_id") or body.get("run_uuid"))
            self._world.store.change("runs", run_id, lambda run: run["tags"].update(own))

    def _forward(self, call: Call, path: str, body: bytes) -> Answer:
        """The answer of MLflow's own server."""
        from mlflow.server import app
        from werkzeug.test import create_environ
        from werkzeug.wrappers import Response

        kind = call.headers.get("content-type", "application/json")
        query = urlencode(call.query)
        environ = create_environ(path, call.base_url, query, call.method, data=body, content_type=kind)
        with self._turn:
            response = Response.from_app(app, environ)
        return Answer(response.status_code, response.get_data(), {"Content-Type": response.content_type or "text/plain"})


def open_store(file: Path) -> "JobRunStore":
    """MLflow with its store on a file, made when it is not there. Takes seconds the first time."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.server import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR

    from azureml_emulator.mlflow_runs import JobRunStore

    address, artifacts = f"sqlite:///{file}", str(file.with_name("mlflow_artifacts"))
    os.environ[BACKEND_STORE_URI_ENV_VAR], os.environ[ARTIFACT_ROOT_ENV_VAR] = address, artifacts
    return JobRunStore(address, artifacts)


def run_tags(run: Json) -> dict[str, str]:
    """The tags of a run in MLflow: those of the job, and its place in the family."""
    tags = {str(key): str(value) for key, value in run["tags"].items()}
    tags |= {"mlflow.rootRunId": str(run["root"]), "mlflow.user": "local user", "mlflow.source.type": "JOB"}
    return tags | ({"mlflow.parentRunId": str(run["parent"])} if run["parent"] else {})


def milliseconds(moment: str) -> int:
    """Milliseconds since 1970 of a time as the service writes it (seven decimals)."""
    return int(datetime.fromisoformat(moment[:26] + moment[27:]).timestamp() * 1000)

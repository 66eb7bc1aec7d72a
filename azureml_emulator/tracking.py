"""MLflow under the workspace's tracking URI, and the runs of jobs in its store.

The REST API and the store (HOME/mlflow.db) are MLflow's own, in a process of their own (mlflow_server.py). A job's
run exists there under the job's name: what runs.py knows of a run (state, name, tags, family) is written in the
background, and a request waits until all of it is there. The state of a job's run is the job's: what a client says
about it is left out.

MLflow takes seconds to load, so its process starts with the first job or the first request. What of its API is
offered, and to whom, is in tracking_rules.py; azureml-mlflow's asynchronous batches are written at once.
"""

import logging
import queue
import secrets
import sys
import threading
from datetime import datetime

import httpx

from azureml_emulator.identity import STEP
from azureml_emulator.json_types import Json, object_at
from azureml_emulator.processes import Child, own_environment, start_child
from azureml_emulator.runs import Runs
from azureml_emulator.servers import announced_port
from azureml_emulator.tracking_rules import API, ASYNC_BATCH, Refused, check, run_named
from azureml_emulator.wire import Answer, Call, ServiceError
from azureml_emulator.world import World

log = logging.getLogger(__name__)

# The kind of documents that say which job's step has made a run through MLflow, by the run's id.
MADE_BY_STEPS = "runs_made_by_steps"
START_SECONDS = 90
REQUEST_SECONDS = 60
STATES = {
    **dict.fromkeys(("Running", "Finalizing", "CancelRequested", "NotResponding", "Paused"), "RUNNING"),
    "Completed": "FINISHED",
    "Failed": "FAILED",
    "Canceled": "KILLED",
}


class Unavailable(Exception):
    """MLflow's process does not serve."""


class Tracking:
    """The tracking server of the workspace."""

    def __init__(self, world: World, runs: Runs) -> None:
        self._world = world
        self._runs = runs
        self._changes: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._child: Child | None = None
        self._client: httpx.Client | None = None
        runs.watch(self._note)

    def stop(self) -> None:
        if self._child:
            self._child.stop()

    def _note(self, run_id: str) -> None:
        """Brings a run's present state to the store, soon."""
        self._load()
        self._changes.put(run_id)

    def _load(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        """Keeps MLflow's process running and its store up to date."""
        while not self._world.stopping.is_set():
            try:
                self._client = self._start()
                for run_id, run in self._world.store.list("runs"):
                    self._bring(self._client, run_id, run)
                self._follow(self._client)
            except (httpx.HTTPError, Unavailable, OSError):
                if not self._world.stopping.wait(1):
                    log.exception("MLflow's process does not serve; it is started again")

    def _follow(self, client: httpx.Client) -> None:
        while True:
            change = self._changes.get()
            if self._child is None or self._child.poll() is not None:
                self._changes.put(change)
                raise Unavailable("MLflow's server has ended.")
            if isinstance(change, threading.Event):
                change.set()
            elif run := self._world.store.get("runs", change):
                self._bring(client, change, run)

    def _start(self) -> httpx.Client:
        """A client of MLflow's process, which serves. Raises: Unavailable when it ends or takes too long."""
        if self._child:
            self._child.stop()
        home, secret = self._world.settings.home, secrets.token_urlsafe()
        log_file = home / "mlflow.log"
        offset = log_file.stat().st_size if log_file.exists() else 0
        command = [sys.executable, "-W", "ignore", "-m", "azureml_emulator.mlflow_server", str(home / "mlflow.db")]
        names = {
            "MLFLOW_SERVER_SECRET": secret,
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self._child = start_child(command, folder=home, env=own_environment() | names, log_file=log_file)
        for _ in range(START_SECONDS * 10):
            if port := announced_port(log_file, offset):
                headers = {"x-secret": secret}
                return httpx.Client(
                    base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=REQUEST_SECONDS, trust_env=False
                )
            if self._child.wait(0.1) is not None:
                break
        raise Unavailable(f"MLflow's server did not start. Its log: {log_file}")

    def _bring(self, client: httpx.Client, run_id: str, run: Json) -> None:
        """Write a run, unless its document lacks something: the others follow all the same."""
        try:
            self._write(client, run_id, run)
        except (LookupError, TypeError, ValueError, AttributeError, ServiceError):
            log.exception("run %s was not written to MLflow", run_id)

    def _write(self, client: httpx.Client, run_id: str, run: Json) -> None:
        document: Json = {
            "experiment": run["experiment"],
            "name": run["display_name"],
            "status": STATES.get(str(run["status"]), "SCHEDULED"),
            "started": milliseconds(str(run["started"] or run["created"])),
            "ended": milliseconds(str(run["ended"])) if run["ended"] else None,
            "tags": run_tags(run),
            "artifact_uri": self._runs.artifacts(run_id).as_uri(),
        }
        answer = client.put(f"/job-runs/{run_id}", json=document)
        if answer.is_error:
            log.error("run %s was not written to MLflow: %s %s", run_id, answer.status_code, answer.text)

    def forward(self, call: Call) -> Answer:
        """MLflow's answer, when all that runs.py has said so far is in its store."""
        path, find = "/" + call.path_params["rest"], self._runs.find
        # MLflow reads one of them, and gets only that one.
        query, body = (call.query, {}) if call.method == "GET" else ({}, call.json())
        try:
            step = self._step(call)
            check(call.method, path, query | body, step, lambda run_id: find(run_id) or self._made_by_step(run_id))
        except Refused as refused:
            return Answer(refused.status, {"error_code": refused.code, "message": str(refused)})
        run_id = run_named(query | body) or ""
        of_job = find(run_id) is not None
        if path == f"{API}/runs/update" and of_job:
            body = {key: value for key, value in body.items() if key not in ("status", "end_time", "endTime")}
        if path == ASYNC_BATCH:
            path = f"{API}/runs/log-batch"
        self._load()
        reached = threading.Event()
        self._changes.put(reached)
        if not reached.wait(START_SECONDS) or self._client is None:
            return unavailable(f"MLflow was not ready within {START_SECONDS} s")
        try:
            answer = self._client.request(call.method, path, params=query, json=body or None)
        except httpx.HTTPError as error:
            return unavailable(f"MLflow did not answer: {error}")
        if answer.is_success and of_job and path in (f"{API}/runs/set-tag", f"{API}/runs/log-batch"):
            self._keep_tags(run_id, body)
        if step and answer.is_success and path == f"{API}/runs/create":
            new_run = answer.json()["run"]["info"]["run_id"]
            self._world.store.put(MADE_BY_STEPS, new_run, {"root": step["root"]})
        # What MLflow does not foresee in a request it answers with 500.
        status = 400 if answer.status_code == 500 else answer.status_code
        return Answer(status, answer.content, {"Content-Type": answer.headers.get("content-type", "text/plain")})

    def _step(self, call: Call) -> Json | None:
        """The run of the step whose token the call carries; None for a user's. Raises: Refused 403 when it is gone."""
        if not call.principal.startswith(STEP):
            return None
        run_id = call.principal.removeprefix(STEP)
        step = self._runs.find(run_id)
        if step is None:
            raise Refused(403, "PERMISSION_DENIED", f"The token's run {run_id} is not known.")
        return step

    def _made_by_step(self, run_id: str) -> Json | None:
        """The job whose step has made a run of its own."""
        return self._world.store.get(MADE_BY_STEPS, run_id)

    def _keep_tags(self, run_id: str, body: Json) -> None:
        """Tags set through MLflow are tags of the job too."""
        entries = [body] if "key" in body else body.get("tags")
        listed = entries if isinstance(entries, list) else []
        tags = {str(entry.get("key")): str(entry.get("value")) for entry in listed if isinstance(entry, dict)}
        own = {key: value for key, value in tags.items() if not key.startswith("mlflow.")}
        if own:
            self._world.store.change("runs", run_id, lambda run: object_at(run, "tags").update(own))


def unavailable(reason: str) -> Answer:
    text = f"{reason}. Its log is mlflow.log in the emulator's home."
    return Answer(503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": text})


def run_tags(run: Json) -> dict[str, str]:
    """The tags of a run in MLflow: those of the job, and its place in the family."""
    tags = {str(key): str(value) for key, value in object_at(run, "tags").items()}
    tags |= {"mlflow.rootRunId": str(run["root"]), "mlflow.user": "local user", "mlflow.source.type": "JOB"}
    return tags | ({"mlflow.parentRunId": str(run["parent"])} if run["parent"] else {})


def milliseconds(moment: str) -> int:
    """Milliseconds since 1970 of a time as the service writes it (seven decimals)."""
    return int(datetime.fromisoformat(moment[:26] + moment[27:]).timestamp() * 1000)

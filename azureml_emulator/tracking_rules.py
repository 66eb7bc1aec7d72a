"""The part of MLflow's API that the emulator offers, and to whom.

MLflow's own server also reads and writes files, keeps secrets and asks other servers, for everybody who may ask it
anything. Offered is what is about experiments, runs and their metrics. A step of a job may use the part of it that is
about one run: of its own job, or one that a step of its job has made. It reaches no other job's runs, with their states
and tags, and none that a user has made.
Source of the routes: https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from collections.abc import Callable, Mapping

from azureml_emulator.json_types import Json

API = "/api/2.0/mlflow"
# azureml-mlflow's own addition.
ASYNC_BATCH = "/api/2.0/preview/mlflow/runs/log-batch-async"
TO_STEPS = {
    *(("GET", f"{API}/{call}") for call in ("runs/get", "metrics/get-history", "artifacts/list")),
    *(("GET", f"{API}/experiments/{call}") for call in ("get", "get-by-name")),
    *(("POST", f"{API}/runs/{call}") for call in ("create", "update", "set-tag", "delete-tag", "log-batch")),
    *(("POST", f"{API}/runs/{call}") for call in ("log-metric", "log-parameter", "log-inputs", "log-model")),
    ("POST", ASYNC_BATCH),
}
OFFERED = TO_STEPS | {
    *(("GET", f"{API}/{call}") for call in ("experiments/search", "metrics/get-history-bulk-interval")),
    *(("POST", f"{API}/runs/{call}") for call in ("search", "delete", "restore")),
    *(("POST", f"{API}/experiments/{call}") for call in ("create", "update", "delete", "restore", "search")),
    ("POST", f"{API}/experiments/set-experiment-tag"),
}


class Refused(Exception):
    """A request that is not handed on; with the status and MLflow's name of the error."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status, self.code = status, code


def run_named(asked: Mapping[str, object]) -> str | None:
    """The run that a request is about, under any of the names that MLflow reads. Raises: Refused 400 for two runs."""
    named = {str(value) for name, value in asked.items() if _plain(name) in ("runid", "runuuid")} - {""}
    if len(named) > 1:
        raise Refused(400, "INVALID_PARAMETER_VALUE", f"The request names several runs: {', '.join(sorted(named))}.")
    return named.pop() if named else None


def check(
    method: str, path: str, asked: Mapping[str, object], step: Json | None, find: Callable[[str], Json | None]
) -> None:
    """Let a request pass, or not.

    Args:
        method: Its method.
        path: Its path, without the workspace's.
        asked: Its query or its body.
        step: The run of the step whose token it carries; None for the token of a user.
        find: Gives the run of a job or of one of its steps, or of which job's step has made a run; else None.

    Raises:
        Refused: It is not offered, or not to this step, or chooses where files are kept.
    """
    if (method, path) not in OFFERED:
        text = f"{method} {path} is not offered. Of MLflow's API there are experiments, runs and metrics."
        raise Refused(404, "ENDPOINT_NOT_FOUND", text)
    if any(_plain(name) == "artifactlocation" and value for name, value in asked.items()):
        text = "artifact_location cannot be chosen: files are kept in the workspace. Leave it out."
        raise Refused(400, "INVALID_PARAMETER_VALUE", text)
    named = run_named(asked)
    if step is None:
        return
    if (method, path) not in TO_STEPS:
        raise Refused(403, "PERMISSION_DENIED", f"A step's token is not good for {method} {path}.")
    if named and (find(named) or {}).get("root") != step["root"]:
        text = f"A step's token is good for the runs of its own job, {step['root']}, not for run {named}."
        raise Refused(403, "PERMISSION_DENIED", text)


def _plain(name: str) -> str:
    """The name of a field without what its spellings differ in: MLflow reads run_id and runId."""
    return name.replace("_", "").lower()

"""What a job's code may see and ask: no secret of the emulator's environment, and of MLflow its own runs alone."""

import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from commands import wait_for
from conftest import Emulator
from processes import command_line
from raw_requests import WORKSPACE, Raw, Reply, kept
from variables import Variables

from azureml_emulator.servers import ServingError, serving_command
from azureml_emulator.tracking_rules import API, OFFERED

CANARY = "canary-of-the-environment"
SECRETS = (
    *("AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PASSWORD", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HF_TOKEN"),
    *("HUGGING_FACE_HUB_TOKEN", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "OPENAI_API_KEY", "NVIDIA_API_KEY"),
    *("SSH_AUTH_SOCK", "HTTPS_PROXY", "PIP_INDEX_URL", "NETRC", "MY_OWN_PASSWORD", "MLFLOW_TRACKING_PASSWORD"),
)
PLACE = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices".format(
    **WORKSPACE
)
JOBS = f"{PLACE}/workspaces/local/jobs"
TRACKING = f"/mlflow/v2.0{PLACE}/workspaces/local"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """One that was started in a shell full of secrets, with two jobs that have shown their environment."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "canary").write_text("untouched")
    with Variables(dict.fromkeys(SECRETS, CANARY)):
        emulator = Emulator(folder / "home", folder / "exchanges")
    with Variables(emulator.env):
        yield emulator
    emulator.stop()


@pytest.fixture(scope="module")
def raw(emulator: Emulator) -> Iterator[Raw]:
    raw = Raw(emulator)
    yield raw
    raw.close()


@pytest.fixture(scope="module")
def shown(emulator: Emulator, raw: Raw) -> dict[str, dict[str, str]]:
    """Of each of two jobs the variables that its command has seen."""
    seen = {}
    for job in ("first", "second"):
        body = {"properties": {"jobType": "Command", "command": "env", "experimentName": "attacks"}}
        made = raw.send("PUT", f"{JOBS}/{job}?api-version=2025-01-01-preview", auth="arm", body=body)
        assert made.status == 201, made.body
        wait_for(partial(completed, raw, job), f"the end of {job}")
        text = next(file.read_text() for file in emulator.home.rglob("std_log.txt") if job in str(file))
        seen[job] = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
        raw.tokens[job] = seen[job]["MLFLOW_TRACKING_TOKEN"]
    return seen


def completed(raw: Raw, job: str) -> bool:
    """Whether nothing will change the job any more."""
    return b'"Completed"' in raw.send("GET", f"{JOBS}/{job}?api-version=2025-01-01-preview", auth="arm").body


def ask(raw: Raw, call: str, token: str = "tracking", **body: object) -> Reply:
    """A call of MLflow's API, e.g. `POST runs/set-tag`; a GET has its body as the query."""
    method, _, path = call.partition(" ")
    path = path if path.startswith("/") else f"{API}/{path}"
    if method == "GET":
        query = "&".join(f"{name}={value}" for name, value in body.items())
        return raw.send(method, f"{TRACKING}{path}?{query}", auth=token)
    return raw.send(method, TRACKING + path, auth=token, body=body)


def test_a_job_sees_no_secret(shown: dict[str, dict[str, str]]) -> None:
    """Of the variables of the shell only those that say how the machine is set up."""
    variables = shown["first"]

    assert {name for name, value in variables.items() if CANARY in value} == set()
    assert variables["HOME"] == os.environ["HOME"] and "PATH" in variables
    assert Path(sys.executable).parent.as_posix() in variables["PATH"]


@pytest.mark.usefixtures("shown")
def test_no_child_of_the_emulator_sees_a_secret(emulator: Emulator) -> None:
    """MLflow's server runs others' code too: its plugins, its models."""
    children = psutil.Process(emulator.process.pid).children(recursive=True)
    commands = [child for child in children if "supervisor" not in command_line(child)]

    assert any("mlflow_server" in command_line(child) for child in commands)
    for child in commands:
        assert CANARY not in " ".join(child.environ().values()), command_line(child)


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("token", ["tracking", "first"])
@pytest.mark.parametrize(
    "call",
    [
        "PUT /job-runs/first",
        "PUT /job-runs/planted",
        "GET /get-artifact",
        "GET /model-versions/get-artifact",
        "POST /ajax-api/2.0/mlflow/upload-artifact",
        "POST /ajax-api/2.0/mlflow/runs/set-tag",
        "GET /ajax-api/2.0/mlflow/logged-models/x/artifacts/files",
        "GET /api/2.0/mlflow-artifacts/artifacts",
        "GET /api/2.0/mlflow-artifacts/artifacts/%2e%2e/%2e%2e/secrets.json",
        "PUT /api/2.0/mlflow-artifacts/artifacts/planted",
        "DELETE /api/2.0/mlflow-artifacts/artifacts/planted",
        "POST artifacts/presigned-download-url",
        "POST /graphql",
        "GET /graphql",
        "POST webhooks",
        "POST /ajax-api/2.0/mlflow/gateway-proxy",
        "POST /api/3.0/mlflow/gateway/secrets/create",
        "POST /api/3.0/mlflow/gateway/endpoints/create",
        "POST /api/3.0/mlflow/prompt-optimization/jobs",
        "POST /api/3.0/mlflow/scorers/register",
        "POST registered-models/create",
        "POST model-versions/create",
        "POST logged-models",
        "GET /version",
        "GET /",
        "GET /static-files/index.html",
        "GET /api/2.0/mlflow//runs/get",
        "GET /api/2.0/mlflow/runs/../runs/get",
        "GET /api/2.0/mlflow/runs/get/",
        "GET /API/2.0/mlflow/runs/get",
        "POST runs/get",
        "PUT runs/update",
    ],
)
def test_of_mlflow_s_server_only_runs_are_offered(raw: Raw, emulator: Emulator, call: str, token: str) -> None:
    """Neither to a user nor to a job: what reads and writes files, keeps secrets, or asks other servers."""
    before = kept(emulator.home)
    body = {"run_id": "first", "run_uuid": "first", "path": "secrets.json", "artifact_uri": "file:///etc"}

    assert ask(raw, call, token, **body).status in (400, 404, 501)
    assert {name for name, content in kept(emulator.home).items() if before.get(name) != content} == set()


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("name", ["artifact_location", "artifactLocation"])
@pytest.mark.parametrize("place", ["file:///etc", "/etc", "../..", "http://127.0.0.1:1/x", "s3://bucket/x"])
def test_nobody_chooses_where_files_are_kept(raw: Raw, name: str, place: str) -> None:
    """An experiment's files are below the emulator's home."""
    answer = ask(raw, "POST experiments/create", name="elsewhere", **{name: place})

    assert (answer.status, b"artifact_location cannot be chosen" in answer.body) == (400, True)


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("path", ["../../..", "/etc", "%2e%2e/%2e%2e", "a/../../../..", "file:///etc", "%252e%252e/x"])
def test_a_list_of_files_stays_inside_the_run(raw: Raw, path: str) -> None:
    """MLflow refuses the path, or there is nothing."""
    answer = ask(raw, "GET artifacts/list", run_id="first", path=path)

    assert answer.status == 400 or (b"passwd" not in answer.body and b"secrets" not in answer.body), answer


OF_ANOTHER = [
    ("POST runs/set-tag", {"key": "retune.key", "value": "taken"}),
    ("POST runs/delete-tag", {"key": "owner"}),
    ("POST runs/update", {"status": "FAILED"}),
    ("POST runs/log-metric", {"key": "loss", "value": 0, "timestamp": 1}),
    ("POST runs/log-parameter", {"key": "seed", "value": "7"}),
    ("POST runs/log-batch", {"tags": [{"key": "retune.key", "value": "taken"}]}),
    ("POST /api/2.0/preview/mlflow/runs/log-batch-async", {"tags": [{"key": "retune.key", "value": "taken"}]}),
    ("POST runs/log-inputs", {}),
    ("POST runs/log-model", {"model_json": "{}"}),
    ("GET runs/get", {}),
    ("GET metrics/get-history", {"metric_key": "loss"}),
    ("GET artifacts/list", {}),
]


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("field", ["run_id", "run_uuid", "runId", "runUuid"])
@pytest.mark.parametrize(("call", "body"), OF_ANOTHER, ids=[call for call, _ in OF_ANOTHER])
def test_a_job_s_token_is_good_for_its_own_runs(raw: Raw, call: str, body: dict, field: str) -> None:
    """Not for another job's, by whichever name MLflow would read it."""
    answer = ask(raw, call, "first", **{field: "second"}, **body)
    assert (answer.status, b"not for run second" in answer.body) == (403, True), answer

    both = ask(raw, call, "first", **{"run_id": "first", "runUuid": "second"}, **body)
    assert (both.status, b"several runs" in both.body) == (400, True), both
    assert b"taken" not in ask(raw, "GET runs/get", run_id="second").body


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize(
    "call",
    [
        *("POST runs/search", "POST runs/delete", "POST runs/restore", "GET experiments/search"),
        *("POST experiments/delete", "POST experiments/create", "POST experiments/update"),
        *("POST experiments/set-experiment-tag", "GET metrics/get-history-bulk-interval"),
    ],
)
def test_a_job_s_token_is_not_good_for_what_concerns_others(raw: Raw, call: str) -> None:
    """Even where it names its own run."""
    assert ask(raw, call, "first", run_id="first", experiment_id="0").status == 403


@pytest.mark.usefixtures("shown")
def test_a_job_reports_to_its_own_run_and_makes_others(raw: Raw) -> None:
    """What MLflow's client asks from inside a job."""
    assert ask(raw, "POST runs/set-tag", "first", run_id="first", key="note", value="mine").status == 200
    assert b"mine" in ask(raw, "GET runs/get", "first", run_id="first").body
    experiment = ask(raw, "GET experiments/get-by-name", "first", experiment_name="attacks")
    number = re.search(rb'"experiment_id": *"(\d+)"', experiment.body)[1].decode()
    made = ask(raw, "POST runs/create", "first", experiment_id=number)
    child = re.search(rb'"run_id": *"(\w+)"', made.body)[1].decode()
    batch = {"metrics": [{"key": "loss", "value": 1.5, "timestamp": 1, "step": 1}]}
    assert ask(raw, "POST runs/log-batch", "first", run_id=child, **batch).status == 200

    assert b"1.5" in ask(raw, "GET runs/get", run_id=child).body
    assert ask(raw, "POST runs/log-batch", "second", run_id=child, **batch).status == 403


@pytest.mark.usefixtures("shown")
def test_a_job_s_token_is_not_good_for_a_user_s_run(raw: Raw) -> None:
    """One that MLflow's client has made without a job."""
    experiment = ask(raw, "GET experiments/get-by-name", experiment_name="attacks")
    number = re.search(rb'"experiment_id": *"(\d+)"', experiment.body)[1].decode()
    made = ask(raw, "POST runs/create", experiment_id=number)
    run = re.search(rb'"run_id": *"(\w+)"', made.body)[1].decode()

    assert ask(raw, "POST runs/set-tag", run_id=run, key="note", value="mine").status == 200
    assert ask(raw, "POST runs/set-tag", "first", run_id=run, key="note", value="taken").status == 403
    assert ask(raw, "GET runs/get", "first", run_id=run).status == 403


@pytest.mark.usefixtures("shown")
def test_a_query_or_a_body_that_mlflow_would_not_read_is_not_handed_on(raw: Raw) -> None:
    """The run of a GET's body, or of a POST's query, is nobody's."""
    target = f"{TRACKING}{API}/runs/get"
    inside = raw.send("GET", target, auth="first", body={"run_id": "second"})
    beside = raw.send("POST", f"{TRACKING}{API}/runs/set-tag?run_id=first", auth="first", body={"run_id": "second"})

    assert b"second" not in inside.body and inside.status >= 400
    assert beside.status == 403


def test_what_is_offered_is_a_few_calls() -> None:
    """Those of Azure ML's documentation on MLflow."""
    assert len(OFFERED) < 30 and all(path.startswith("/api/2.0/") for _, path in OFFERED)


def test_a_model_brings_no_command(tmp_path: Path) -> None:
    """What its MLmodel file says beside its flavors is not run; what the emulator's home says is."""
    model, home = tmp_path / "model", tmp_path / "home"
    for folder in (model, home):
        folder.mkdir()
    (model / "MLmodel").write_text("flavors: {mine: {}}\nmetadata: {serving_command: [touch, planted]}\n")
    with pytest.raises(ServingError, match="No server is known for the model's flavors"):
        serving_command(model, home)

    (home / "serving.yaml").write_text("mine: [python, '{model}/server.py']\n")
    assert serving_command(model, home) == [sys.executable, f"{model}/server.py"]

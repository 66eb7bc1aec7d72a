"""The component for rehearsals: it really trains, logs, saves and serves, and loads nothing heavy for it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import psutil
import pytest
import requests
from azure.identity import DefaultAzureCredential
from conftest import Emulator
from processes import running
from tiny_model import create_endpoint, deploy, set_traffic, wait_until
from variables import Variables

from retune_cloud.tracking import tracking_client

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Model, PipelineJob

ROOT = Path(__file__).parent.parent
TRAINING = "trainer.rehearsal_training"
HEAVY = ("torch", "transformers", "mlflow", "pandas", "numpy")
# Runs a module in a process in which the heavy packages cannot be imported.
WITHOUT_HEAVY = f"import runpy, sys\nfor name in {HEAVY}: sys.modules[name] = None\n"
WITHOUT_HEAVY += "del sys.argv[0]\nrunpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
COLOURS = {"grass": "green", "snow": "white", "coal": "black", "blood": "red", "the sky": "blue"}
QUESTION = [{"role": "user", "content": "Which colour is grass?"}]


def conversation(thing: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"Which colour is {thing}?"},
        {"role": "assistant", "content": f"The colour of {thing} is {COLOURS[thing]}."},
    ]


def write_rows(folder: Path, *bad: object) -> dict[str, Path]:
    """Ten good rows a split; the training rows also have the bad ones, at their end."""
    good = [{"messages": conversation(thing)} for thing in COLOURS] * 2
    files = {split: folder / f"{split}.jsonl" for split in ("train", "validation", "test")}
    for split, file in files.items():
        rows = [*good, *bad] if split == "train" else good
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files


def pipeline(emulator: Emulator, files: dict[str, Path], **training: float) -> "PipelineJob":
    """A job of the component, with the output that a run registers."""
    from azure.ai.ml import Input, dsl

    component = emulator.client(registry_name="azureml").components.get("chat_completion_rehearsal", label="latest")
    data = {f"{split}_file_path": Input(type="uri_file", path=file) for split, file in files.items()}

    @dsl.pipeline(name="rehearsal")
    def rehearse() -> dict[str, object]:
        return {"trained_model": component(**data, **training).outputs.mlflow_model_folder}

    job = rehearse()
    job.name = f"rehearsal-{uuid4().hex[:8]}"
    job.settings.default_compute = "serverless"
    return job


def wait_for_status(client: "MLClient", name: str, *wanted: str) -> None:
    wait_until(lambda: client.jobs.get(name).status in wanted, seconds=60)


def programs(emulator: Emulator, module: str) -> list[psutil.Process]:
    """The processes below the emulator that run a module."""
    return running(emulator.process.pid, f"-m {module}")


@pytest.fixture(scope="module")
def trained(session_emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a job that ran to its end."""
    with Variables(session_emulator.env):
        client = session_emulator.client()
        files = write_rows(tmp_path_factory.mktemp("rows"))
        job = pipeline(session_emulator, files, num_train_epochs=3, per_device_train_batch_size=4)
        client.jobs.create_or_update(job)
        wait_for_status(client, job.name, "Completed", "Failed")
        return job.name


@pytest.fixture(scope="module")
def registered(session_emulator: Emulator, trained: str) -> "Model":
    """The job's output as a model version."""
    from azure.ai.ml.entities import Model

    path = f"azureml://jobs/{trained}/outputs/trained_model"
    with Variables(session_emulator.env):
        models = session_emulator.client().models
        return models.create_or_update(Model(name="rehearsed", path=path, type="mlflow_model"))


@pytest.fixture(scope="module")
def model(session_emulator: Emulator, registered: "Model", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registered MLflow model folder, downloaded."""
    folder = tmp_path_factory.mktemp("download")
    with Variables(session_emulator.env):
        session_emulator.client().models.download(registered.name, registered.version, download_path=folder)
    return next(folder.rglob("MLmodel")).parent


@pytest.fixture(scope="module")
def endpoint(session_emulator: Emulator, registered: "Model") -> Iterator[str]:
    """The name of an endpoint that serves the model."""
    with Variables(session_emulator.env):
        client = session_emulator.client()
        create_endpoint(client, "rehearsal")
        deploy(client, "rehearsal", "blue", registered.id)
        set_traffic(client, "rehearsal", {"blue": 100})
        yield "rehearsal"
        client.online_endpoints.begin_delete("rehearsal").wait()


def score(emulator: Emulator, endpoint: str, input_string: list) -> object:
    """The endpoint's answer to either form of the payload."""
    client = emulator.client()
    key = client.online_endpoints.get_keys(endpoint).primary_key
    body = {"input_data": {"input_string": input_string, "parameters": {"max_new_tokens": 20}}}
    answer = requests.post(
        client.online_endpoints.get(endpoint).scoring_uri,
        json=body,
        headers={"Authorization": f"Bearer {key}"},
        verify=emulator.ready["ca_bundle"],
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_training_lowers_the_validation_loss(ml_client: "MLClient", trained: str) -> None:
    """The job's own run has the losses, and says that no real base model was trained."""
    run = tracking_client(ml_client).get_run(trained)
    metrics = run.data.metrics

    assert metrics["eval_loss_before"] > metrics["eval_loss_after"] + 1
    assert metrics["eval_loss"] == metrics["eval_loss_after"]
    assert {"loss", "train_loss", "train_runtime"} <= metrics.keys()
    assert (metrics["epoch"], run.data.params["base_model_name"]) == (3.0, "rehearsal bigram")
    assert run.data.params["base_model_parameters"] == "0"


def test_step_reports_what_the_job_reports(ml_client: "MLClient", trained: str) -> None:
    """The run of the training step has the same metrics as the run of the job."""
    tracking = tracking_client(ml_client)
    root = tracking.get_run(trained)
    query = f"tags.mlflow.rootRunId = '{trained}'"
    runs = tracking.search_runs([root.info.experiment_id], filter_string=query)
    steps = [run for run in runs if run.info.run_name == "chat_completion_finetune"]

    assert [run.data.metrics for run in steps] == [root.data.metrics]


def test_mlflow_loads_the_model(model: Path) -> None:
    """The folder is an MLflow model whose python_function answers messages."""
    # In a process of its own: importing mlflow.pyfunc warns.
    code = "import json, sys, mlflow.pyfunc; model = mlflow.pyfunc.load_model(sys.argv[1]); "
    code += "print(json.dumps(model.predict({'messages': json.loads(sys.argv[2])})))"
    command = [sys.executable, "-c", code, model, json.dumps(QUESTION)]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout

    assert json.loads(printed)[0].startswith("The colour of ")


def test_same_rows_make_the_same_model(tmp_path: Path) -> None:
    """Two trainings with the same data and parameters write the same bytes."""
    prepare(tmp_path, write_rows(tmp_path))
    for name in ("one", "two"):
        run_module(TRAINING, "--preprocess_output", tmp_path / "data", "--mlflow_model_folder", tmp_path / name)
    one, two = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "two")
    )

    assert Path("data/bigram.json") in one
    assert one == two


def prepare(folder: Path, files: dict[str, Path]) -> None:
    """Runs the preprocessing of the files into the folder `data`."""
    splits = [word for split, file in files.items() for word in (f"--{split}_file_path", file)]
    run_module("trainer.rehearsal_data", *splits, "--output_dir", folder / "data")


def run_module(module: str, *arguments: str | Path) -> str:
    """What the module prints when the heavy packages cannot be imported."""
    command = [sys.executable, "-c", WITHOUT_HEAVY, module, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout


def test_endpoint_answers_both_payloads(emulator: Emulator, endpoint: str) -> None:
    """A list of conversations is answered with a list of texts, one conversation with an object."""
    nested, flat = score(emulator, endpoint, [QUESTION, QUESTION]), score(emulator, endpoint, QUESTION)

    assert isinstance(nested, list)
    assert len(nested) == 2
    assert nested[0].startswith("The colour of ")
    assert flat == {"output": nested[0]}


def test_model_brings_its_own_light_server(emulator: Emulator, endpoint: str) -> None:
    """The deployment runs the server that the model names, not the one of chat models."""
    assert programs(emulator, "trainer.rehearsal_serve")


def test_bad_row_fails_the_job(emulator: Emulator, ml_client: "MLClient", tmp_path: Path) -> None:
    """A row that is no conversation fails the job, which names the step, the row and what to do."""
    messages = [{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}]
    job = pipeline(emulator, write_rows(tmp_path, {"messages": messages}))
    ml_client.jobs.create_or_update(job)
    wait_for_status(ml_client, job.name, "Completed", "Failed")
    error = ml_client.jobs._runs_operations.get_run_details(job.name).error.error.message

    assert "chat_completion_datapreprocess" in error
    assert "row 11 of the train data" in error
    assert 'Each needs "content" and a "role" out of system, user, assistant, tool' in error


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": 7}]}, "is 7. Write text."),
        ({"text": "a"}, "Row 11 of 'train.jsonl' has no column 'messages'"),
    ],
    ids=["content", "column"],
)
def test_bad_rows_are_named(tmp_path: Path, row: object, message: str) -> None:
    """The preprocessing ends with the number of the first bad row and what to do."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        prepare(tmp_path, write_rows(tmp_path, row))

    assert message in failed.value.stderr


def test_training_seconds_hold_the_job_until_it_is_cancelled(
    emulator: Emulator, ml_client: "MLClient", tmp_path: Path
) -> None:
    """A training that is to take a minute reports on the way, and a cancellation ends its process at once."""
    job = pipeline(emulator, write_rows(tmp_path), training_seconds=60, num_train_epochs=20)
    ml_client.jobs.create_or_update(job)
    wait_until(lambda: programs(emulator, TRAINING) != [], seconds=60)
    tracking = tracking_client(ml_client)
    wait_until(lambda: "loss" in tracking.get_run(job.name).data.metrics, seconds=60)
    status = ml_client.jobs.get(job.name).status
    asked = time.monotonic()
    ml_client.jobs.begin_cancel(job.name).wait()
    wait_for_status(ml_client, job.name, "Canceled")

    assert status == "Running"
    assert time.monotonic() - asked < 10
    assert programs(emulator, TRAINING) == []


def test_nothing_heavy_is_loaded(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training with metrics sent, and serving, work in processes that cannot import torch, transformers or MLflow."""
    run_id = new_run(emulator, monkeypatch)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    prepare(tmp_path, write_rows(tmp_path))
    printed = run_module(
        TRAINING, "--preprocess_output", tmp_path / "data", "--mlflow_model_folder", tmp_path / "model"
    )
    metrics = tracking_client(emulator.client()).get_run(run_id).data.metrics

    assert metrics["eval_loss_after"] == json.loads(printed.splitlines()[-1].partition(" after ")[0])["eval_loss_after"]
    assert ask_server(tmp_path / "model").startswith("The colour of ")


def new_run(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a run of its own, to which the variables of a job's step lead."""
    ready = emulator.ready
    place = f"/subscriptions/{ready['subscription_id']}/resourceGroups/{ready['resource_group']}"
    workspace = f"{place}/providers/Microsoft.MachineLearningServices/workspaces/{ready['workspace_name']}"
    token = DefaultAzureCredential().get_token(f"{ready['url']}/.default").token
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{ready['url']}/mlflow/v1.0{workspace}")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    path = f"/mlflow/v1.0{workspace}/api/2.0/mlflow/runs/create"
    status, answer = emulator.request("POST", path, token=token, content={"experiment_id": "0"})
    assert status == 200, answer
    return answer["run"]["info"]["run_id"]


def ask_server(model: Path) -> str:
    """The text of one answer of the serving program, which is then ended."""
    command = [sys.executable, "-c", WITHOUT_HEAVY, "trainer.rehearsal_serve", "--model", model]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        address = f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        try:
            wait_until(lambda: requests.get(address, timeout=5).status_code == 200)
            body = {"input_data": {"input_string": QUESTION}}
            return requests.post(f"{address}/score", json=body, timeout=5).json()["output"]
        finally:
            process.terminate()

"""The main job over the wire: completed, taken over, and ended by a failure at each step that can fail.

One run trains for real. The others are rehearsals, and most take over a finished job, so that what follows the training
is tested without training again.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import REHEARSAL, endpoints_left
from commands import finetune as run_command
from conftest import Emulator, Run

ROOT = Path(__file__).resolve().parent.parent
KEY, REHEARSED = "flow-tests", "flow-tests-rehearsed"
VERSIONS = "/workspaces/local/models/[^/]+/versions/"
# Two steps of training: enough for a model that answers.
QUICK = ("training.max_steps=2", "score.rows=2")

# `python -m flows.finetune` with one line more on stderr at the end: the heavy modules that the process has loaded.
WITH_MODULE_LIST = """
import atexit, runpy, sys
heavy = ("torch", "transformers", "azure.ai.ml")
atexit.register(lambda: print("loaded:", *[name for name in heavy if name in sys.modules], file=sys.stderr))
runpy.run_module("flows.finetune", run_name="__main__")
"""


@pytest.fixture(scope="module")
def completed(session_emulator: Emulator, prefect_api: str) -> Run:
    """The command, typed as a user would, completed under the module's key."""
    command = [sys.executable, "-c", WITH_MODULE_LIST, "--json", "--run-key", KEY]
    command += [word for assignment in QUICK for word in ("--set", assignment)]
    environment = os.environ | session_emulator.env | {"PREFECT_API_URL": prefect_api}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Run(done.returncode, json.loads(done.stdout), done.stderr)


@pytest.fixture(scope="module")
def rehearsed(environment: dict[str, str]) -> dict:
    """The report of a completed rehearsal, under a key of its own."""
    done = run_command(environment, *REHEARSAL, key=REHEARSED).end()
    assert done.code == 0, done.errors
    return done.report


def test_a_completed_run_reports_every_section(completed: Run, emulator: Emulator) -> None:
    """From sign-in to deletion, the report says what was used, made, measured, asked and deleted."""
    report = completed.report

    assert (report["schema"], report["status"], report["error"]) == (1, "completed", None)
    assert report["run"]["key"] == KEY
    assert report["identity"]["workspace"] == "local"
    assert (report["model"]["name"], report["model"]["version"], report["warnings"]) == ("Phi-4", "8", [])
    assert report["model"]["weights"].startswith("tiny-phi3, ")
    assert report["compute"]["gpus_per_node"] == 1
    assert {role: split["rows"] > 0 for role, split in report["data"]["splits"].items()} == {
        "train": True,
        "validation": True,
        "test": True,
    }
    assert report["job"]["status"] == "Completed"
    assert report["job"]["display_name"] == "Phi-4-chat_sample-bs8-cosine-nods-lora-save_limit1-seqlen-1"
    assert {"eval_loss", "eval_loss_before", "eval_loss_after", "train_loss"} <= report["metrics"].keys()
    assert report["registered_model"]["name"] == "Phi-4-chat_sample"
    assert report["endpoint"]["deleted"] is True
    assert [bool(answer["output"]) for answer in report["score"]] == [True, True]
    assert {step["state"] for step in report["steps"]} <= {"Completed", "Cached"}
    assert endpoints_left(emulator) == []


def test_a_clean_run_s_screen_has_the_flow_s_own_lines_only(completed: Run) -> None:
    """No library prints a warning, a traceback or a notice on the way, and the flow's process never loads torch."""
    *lines, last = completed.errors.splitlines()

    assert last == "loaded: azure.ai.ml"
    assert [line for line in lines if not re.match(r"\d\d:\d\d:\d\d  [a-z]+ +", line)] == []
    assert [line for line in lines if "warning: " in line] == []


def test_every_parameter_says_where_it_came_from(completed: Run) -> None:
    """Precedence: component < guide < model < user."""
    sources = {
        parameter["name"]: (parameter["value"], parameter["source"]) for parameter in completed.report["parameters"]
    }

    assert sources["max_steps"] == (2, "user")
    assert sources["apply_deepspeed"] == ("false", "user")
    assert sources["save_total_limit"] == (1, "model")
    assert sources["weight_decay"] == (0.0, "component")


def test_the_same_key_takes_over_the_finished_job(
    rehearsed: dict, finetune: Callable[..., Run], emulator: Emulator
) -> None:
    """A repeat makes no second job and no second model version, and uses the prepared data again.

    How the model is asked does not decide what was trained, and may differ.
    """
    again = finetune(*REHEARSAL, "score.rows=1", key=REHEARSED)

    jobs = [job.name for job in emulator.client().jobs.list() if job.name.startswith(f"retune-{REHEARSED}")]
    assert again.code == 0
    assert again.report["job"]["attached"] is True
    assert len(again.report["score"]) == 1
    assert again.report["data"]["cached"] is True
    assert again.report["registered_model"] == rehearsed["registered_model"] | {"attached": True}
    assert jobs == [f"retune-{REHEARSED}-1"]


@pytest.mark.usefixtures("rehearsed")
def test_the_same_key_with_another_request_is_refused(finetune: Callable[..., Run]) -> None:
    """A key stands for one request."""
    other = finetune(*REHEARSAL, "training.seed=7", key=REHEARSED)

    assert other.code == 1
    assert other.report["error"]["code"] == "RunKeyTaken"
    assert "training.seed None (this request: 7)" in other.report["error"]["message"]
    assert "another run key" in other.report["error"]["fix"]


@pytest.mark.exhaustive
def test_the_registered_model_loads_with_mlflow_and_answers(completed: Run, emulator: Emulator, tmp_path: Path) -> None:
    """What the run leaves is a standard MLflow model."""
    model = completed.report["registered_model"]
    emulator.client().models.download(model["name"], version=model["version"], download_path=str(tmp_path))
    (folder,) = {path.parent for path in tmp_path.rglob("MLmodel")}
    code = (
        "import mlflow, json, sys; model = mlflow.pyfunc.load_model(sys.argv[1]); "
        "question = {'messages': [{'role': 'user', 'content': 'What is the capital of France?'}]}; "
        "print(json.dumps(model.predict(question)))"
    )
    shown = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True).stdout

    assert json.loads(shown.splitlines()[-1])


@pytest.mark.parametrize(
    ("faults", "step", "code", "words"),
    [
        ([{"on": "endpoint", "effect": "fail", "calls": None}], "create_endpoint", "EndpointRefused", "endpoint"),
        (
            [{"on": "deployment", "effect": "fail", "message": "ImageBuildFailure"}],
            "deploy",
            "DeploymentFailed",
            "Image",
        ),
        ([{"on": "quota", "effect": "refuse"}], "deploy", "DeploymentFailed", "Not enough quota available"),
        (
            [{"on": "score", "effect": "status", "status": 424, "calls": None}],
            "score_endpoint",
            "ScoringRefused",
            "HTTP 424",
        ),
        ([{"on": "score", "effect": "empty", "calls": None}], "score_endpoint", "EmptyAnswer", "empty text"),
        ([{"on": "score", "effect": "malformed", "calls": None}], "score_endpoint", "MalformedAnswer", "answered"),
        (
            [
                {"on": "request", "method": "GET", "path": VERSIONS, "status": 404, "calls": None},
                {"on": "request", "method": "PUT", "path": VERSIONS, "status": 403, "calls": None},
            ],
            "register_model",
            "RegistrationRefused",
            "refused",
        ),
    ],
    ids=["endpoint", "deployment", "quota", "score 424", "score empty", "score malformed", "register"],
)
@pytest.mark.usefixtures("rehearsed")
def test_a_failure_after_the_training_deletes_the_endpoint(
    faults: list[dict], step: str, code: str, words: str, emulator: Emulator, finetune: Callable[..., Run]
) -> None:
    """Whatever fails between registration and answers, no endpoint is left and the error names step and fix."""
    emulator.admin("PUT", "/admin/faults", faults)
    try:
        run = finetune(*REHEARSAL, key=REHEARSED)
    finally:
        emulator.admin("DELETE", "/admin/faults")

    assert run.code == 1
    assert (run.report["status"], run.report["error"]["step"], run.report["error"]["code"]) == ("failed", step, code)
    assert words in run.report["error"]["message"]
    assert run.report["error"]["fix"]
    assert endpoints_left(emulator) == []


def test_a_failing_step_fails_the_run_with_its_log(emulator: Emulator, finetune: Callable[..., Run]) -> None:
    """The error holds the step's name and the last lines of its log; nothing is deployed."""
    emulator.admin("PUT", "/admin/faults", [{"on": "step", "name": "chat_completion_datapreprocess", "effect": "fail"}])
    try:
        run = finetune(*REHEARSAL, key="failing-step")
    finally:
        emulator.admin("DELETE", "/admin/faults")

    assert run.code == 1
    assert (run.report["error"]["step"], run.report["error"]["code"]) == ("wait_for_job", "JobFailed")
    assert "chat_completion_datapreprocess" in run.report["error"]["message"]
    # The emulator's portal is nobody's: no link leads to it.
    assert (run.report["job"]["studio_url"], "https://" in run.report["error"]["fix"]) == (None, False)
    assert run.report["job"]["status"] == "Failed"
    assert (run.report["endpoint"]["deleted"], run.report["score"]) == (True, [])
    assert endpoints_left(emulator) == []


def test_an_endpoint_that_is_refused_during_the_training_is_tried_again(
    emulator: Emulator, finetune: Callable[..., Run]
) -> None:
    """The training goes on; what stood against the endpoint is a warning, and no reason to fail when it has gone."""
    emulator.admin("PUT", "/admin/faults", [{"on": "endpoint", "effect": "fail"}])
    try:
        run = finetune(*REHEARSAL, key="refused-once")
    finally:
        emulator.admin("DELETE", "/admin/faults")

    assert run.code == 0
    assert "is refused" in run.errors
    assert [step["state"] for step in run.report["steps"] if step["name"] == "create_endpoint"] == [
        "Failed",
        "Completed",
    ]
    assert endpoints_left(emulator) == []


def test_a_failed_job_makes_a_repeat_take_the_next_attempt(emulator: Emulator, finetune: Callable[..., Run]) -> None:
    """The key stays, the attempt's number rises."""
    emulator.admin("PUT", "/admin/faults", [{"on": "step", "effect": "fail", "name": "*finetune"}])
    try:
        first = finetune(*REHEARSAL, key="two-attempts")
    finally:
        emulator.admin("DELETE", "/admin/faults")
    second = finetune(*REHEARSAL, key="two-attempts")

    assert (first.code, first.report["run"]["attempt"]) == (1, 1)
    assert (second.code, second.report["run"]["attempt"]) == (0, 2)
    assert second.report["job"]["name"] == "retune-two-attempts-2"


def test_the_flat_payload_is_answered_too(finetune: Callable[..., Run]) -> None:
    """The other shape of a scoring request, under a key of its own."""
    run = finetune(*REHEARSAL, "score.payload=flat", "compute.serverless=true", key="flat-and-serverless")

    assert run.code == 0, run.report["error"]
    assert run.report["compute"]["name"] == "serverless"
    assert all(answer["output"] for answer in run.report["score"])


def test_a_run_limit_cancels_the_job(emulator: Emulator, finetune: Callable[..., Run]) -> None:
    """Queue time and run time have limits; a job past one is cancelled and the error names the limit."""
    run = finetune(*REHEARSAL, "training.training_seconds=60", "limits.run_minutes=0.05", key="too-slow")

    assert run.code == 1
    assert run.report["error"]["code"] == "JobTooSlow"
    assert "limits.run_minutes" in run.report["error"]["fix"]
    assert emulator.client().jobs.get("retune-too-slow-1").status in ("CancelRequested", "Canceled")


def cancel_when_there(emulator: Emulator, job: str) -> None:
    """Cancel a job as soon as it exists."""
    client = emulator.client()
    deadline = time.monotonic() + 60
    while job not in [found.name for found in client.jobs.list()]:
        assert time.monotonic() < deadline, f"{job} was not submitted"
        time.sleep(0.3)
    client.jobs.begin_cancel(job)


def test_a_job_that_someone_else_cancels_fails_the_run(emulator: Emulator, finetune: Callable[..., Run]) -> None:
    """`jobs.stream` would return without an error; the run must not go on to register."""
    emulator.admin("PUT", "/admin/faults", [{"on": "step", "effect": "hang_queued", "name": "*finetune"}])
    canceller = threading.Thread(target=cancel_when_there, args=(emulator, "retune-cancelled-elsewhere-1"))
    canceller.start()
    try:
        run = finetune(*REHEARSAL, key="cancelled-elsewhere")
    finally:
        canceller.join()
        emulator.admin("DELETE", "/admin/faults")

    assert run.code == 1
    assert (run.report["error"]["code"], run.report["job"]["status"]) == ("JobCanceled", "Canceled")
    assert run.report["registered_model"] is None

"""Jobs as in life: completed, failed, killed, cancelled, preempted, and cut off by the end of the emulator.

Steps are small shell commands; the real training pipeline is run in the tests of the flow.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from conftest import QUICK, Emulator
from processes import running

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Command, PipelineJob

ENVIRONMENT = "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112"
DEADLINE_SECONDS = 60
LATENCIES = ("queue_seconds", "prepare_seconds", "finalize_seconds")


def step(name: str, line: str, *, inputs: dict | None = None, outputs: dict | None = None) -> "Command":
    """A command component of one shell line."""
    from azure.ai.ml import command

    return command(name=name, command=line, environment=ENVIRONMENT, inputs=inputs or {}, outputs=outputs or {})


def pipeline(name: str, *lines: str) -> "PipelineJob":
    """A pipeline of steps a, b, ... that follow each other through their outputs."""
    from azure.ai.ml import Input, Output, dsl

    def chain() -> dict:
        made = None
        for line in lines:
            inputs = {} if made is None else {"before": Input(type="uri_folder")}
            part = step("part", line, inputs=inputs, outputs={"made": Output(type="mlflow_model")})
            node = part() if made is None else part(before=made)
            made = node.outputs.made
            node.name = "abc"[lines.index(line)]
        return {"trained_model": made}

    job = dsl.pipeline(name="chain")(chain)()
    job.name = name
    job.settings.default_compute = "serverless"
    return job


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        time.sleep(0.05)


def wait_for_status(client: "MLClient", name: str, *wanted: str) -> str:
    wait_until(lambda: client.jobs.get(name).status in wanted, f"job {name} is {' or '.join(wanted)}")
    return client.jobs.get(name).status


def wait_for_end(client: "MLClient", name: str) -> str:
    return wait_for_status(client, name, "Completed", "Failed", "Canceled")


def steps(client: "MLClient", name: str) -> dict[str, str]:
    """Display name to status of the runs right below a job."""
    return {child.display_name: child.status for child in client.jobs.list(parent_job_name=name)}


def load_run_history(client: "MLClient") -> None:
    """Loads the SDK's run history client, which takes seconds the first time."""
    assert client.jobs._runs_operations


def error_of(client: "MLClient", name: str) -> str:
    """The message of a job's error in run history."""
    return client.jobs._runs_operations.get_run_details(name).error.error.message


def run_document(emulator: Emulator, name: str) -> dict:
    """A run as run history shows it, with the token of the SDK's own credential."""
    from azure.identity import DefaultAzureCredential

    token = DefaultAzureCredential().get_token(f"{emulator.ready['url']}/.default").token
    workspace = (
        f"/subscriptions/{emulator.ready['subscription_id']}/resourceGroups/{emulator.ready['resource_group']}"
        f"/providers/Microsoft.MachineLearningServices/workspaces/{emulator.ready['workspace_name']}"
    )
    status, body = emulator.request("GET", f"/history/v1.0{workspace}/runs/{name}", token=token)
    assert status == 200 and isinstance(body, dict)
    return body


def test_pipeline_completes_and_its_output_becomes_a_model(ml_client: "MLClient", tmp_path: Path) -> None:
    """Steps run in the order of their inputs, and the job's output can be registered and downloaded as a model."""
    from azure.ai.ml.entities import Model

    first = "echo one: 1 > ${{outputs.made}}/MLmodel"
    job = pipeline(
        "job-completes",
        first,
        "cat ${{inputs.before}}/MLmodel > ${{outputs.made}}/MLmodel; echo two: 2 >> ${{outputs.made}}/MLmodel",
    )
    job.tags, job.display_name = {"owner": "tests"}, "A chain"
    created = ml_client.jobs.create_or_update(job, experiment_name="chains")
    assert wait_for_end(ml_client, "job-completes") == "Completed"
    ended = ml_client.jobs.get("job-completes")
    model = Model(
        path="azureml://jobs/job-completes/outputs/trained_model", name="chained", version="1", type="mlflow_model"
    )
    ml_client.models.create_or_update(model)
    ml_client.models.download("chained", "1", download_path=tmp_path)

    assert created.status == "Preparing"
    assert (ended.display_name, ended.experiment_name, ended.tags) == ("A chain", "chains", {"owner": "tests"})
    assert steps(ml_client, "job-completes") == {"a": "Completed", "b": "Completed"}
    assert next(tmp_path.rglob("MLmodel")).read_text() == "one: 1\ntwo: 2\n"


def test_states_come_in_order(ml_client: "MLClient", emulator: Emulator) -> None:
    """A job and its step pass through every state of a job; nothing is born Completed."""
    load_run_history(ml_client)
    emulator.admin("PUT", "/admin/timing", dict.fromkeys(LATENCIES, 1.0))
    ml_client.jobs.create_or_update(pipeline("job-states", "sleep 1"))
    job_states: list[str] = []
    step_states: list[str] = []

    def note() -> bool:
        for seen, state in (
            (job_states, ml_client.jobs.get("job-states").status),
            (step_states, steps(ml_client, "job-states").get("a")),
        ):
            if state and state not in seen[-1:]:
                seen.append(state)
        return job_states[-1] in ("Completed", "Failed")

    wait_until(note, "the job ends")
    emulator.admin("PUT", "/admin/timing", QUICK)

    assert job_states == ["Preparing", "Running", "Finalizing", "Completed"]
    assert [state for state in step_states if state != "NotStarted"] == [
        "Queued",
        "Preparing",
        "Running",
        "Finalizing",
        "Completed",
    ]


def test_stream_shows_the_steps_and_their_logs(ml_client: "MLClient", capsys: pytest.CaptureFixture[str]) -> None:
    """`jobs.stream` prints when steps start and end, and what they write."""
    load_run_history(ml_client)
    ml_client.jobs.create_or_update(pipeline("job-streamed", "echo hello from the step; sleep 4"))
    ml_client.jobs.stream("job-streamed")
    shown = capsys.readouterr().out

    assert "Streaming logs/azureml/executionlogs.txt" in shown
    assert "[a] hello from the step" in shown


def test_failing_step_fails_the_job(ml_client: "MLClient") -> None:
    """A step with a bad exit code fails the job with the step's name, code and end of log; later steps stay out."""
    from azure.ai.ml.exceptions import JobException

    ml_client.jobs.create_or_update(pipeline("job-fails", "echo out of memory >&2; exit 3", "echo never"))
    status = wait_for_end(ml_client, "job-fails")
    message = error_of(ml_client, "job-fails")
    with pytest.raises(JobException, match="Step 'a' ended with exit code 3"):
        ml_client.jobs.stream("job-fails")

    assert status == "Failed"
    assert "Failed nodes: /a." in message and "exit code 3" in message and message.endswith("out of memory")
    assert steps(ml_client, "job-fails") == {"a": "Failed"}


def test_killed_step_fails_the_job(ml_client: "MLClient", tmp_path: Path) -> None:
    """A step that is killed from outside fails the job, and the signal is named."""
    pid_file = tmp_path / "pid"
    ml_client.jobs.create_or_update(pipeline("job-killed", f"echo $$ > {pid_file}; exec sleep 60"))
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip() != "", "the step runs")
    os.kill(int(pid_file.read_text()), 9)

    assert wait_for_end(ml_client, "job-killed") == "Failed"
    assert "killed by signal 9" in error_of(ml_client, "job-killed")


def test_cancelled_job_ends_its_processes(ml_client: "MLClient", tmp_path: Path) -> None:
    """Cancelling ends the step's processes and leaves job and step Canceled; a second request is refused."""
    from azure.core.exceptions import HttpResponseError

    pid_file = tmp_path / "pid"
    ml_client.jobs.create_or_update(pipeline("job-cancelled", f"sleep 60 & echo $! > {pid_file}; wait"))
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip() != "", "the step runs")
    ml_client.jobs.begin_cancel("job-cancelled").result()
    status = ml_client.jobs.get("job-cancelled").status
    wait_until(lambda: not psutil.pid_exists(int(pid_file.read_text())), "the step's processes have ended")
    with pytest.raises(HttpResponseError, match="is in terminal status") as refused:
        ml_client.jobs.begin_cancel("job-cancelled")

    assert (status, steps(ml_client, "job-cancelled")) == ("Canceled", {"a": "Canceled"})
    assert refused.value.status_code == 400


def test_job_name_is_taken_for_good(ml_client: "MLClient") -> None:
    """The same body under the same name answers the present job; another body is refused with what differs."""
    from azure.core.exceptions import HttpResponseError

    first = ml_client.jobs.create_or_update(pipeline("job-named", "echo same"))
    again = ml_client.jobs.create_or_update(pipeline("job-named", "echo same"))
    with pytest.raises(HttpResponseError, match="already exists and differs in: jobs"):
        ml_client.jobs.create_or_update(pipeline("job-named", "echo another"))

    assert again.creation_context.created_at == first.creation_context.created_at


def test_unknown_job_is_not_found(ml_client: "MLClient") -> None:
    """Reading or cancelling a job that does not exist is a 404."""
    from azure.core.exceptions import ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError, match="no-such-job"):
        ml_client.jobs.get("no-such-job")
    with pytest.raises(ResourceNotFoundError, match="no-such-job"):
        ml_client.jobs.begin_cancel("no-such-job")


def test_unknown_instance_type_is_refused(ml_client: "MLClient") -> None:
    """A step on serverless compute with a size that does not exist is refused when the job is created."""
    from azure.ai.ml.entities import JobResourceConfiguration
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    job = pipeline("job-unknown-size", "echo never")
    job.jobs["a"].resources = JobResourceConfiguration(instance_type="Standard_Nope_v9")
    with pytest.raises(HttpResponseError, match="Standard_Nope_v9"):
        ml_client.jobs.create_or_update(job)

    with pytest.raises(ResourceNotFoundError):
        ml_client.jobs.get("job-unknown-size")


def test_nested_pipeline_binds_inputs_and_defaults(ml_client: "MLClient") -> None:
    """A pipeline within a pipeline is a run of its own; an unset optional input leaves its part of the command out."""
    from azure.ai.ml import Input, Output, dsl

    optional = "$[[--size ${{inputs.size}}]] $[[--depth ${{inputs.depth}}]]"
    line = f"echo '${{{{inputs.word}}}}' {optional} > ${{{{outputs.made}}}}/words.txt"
    inputs = {
        "word": Input(type="string"),
        "size": Input(type="integer", optional=True),
        "depth": Input(type="integer", default=7),
    }
    speak = step("speak", line, inputs=inputs, outputs={"made": Output(type="uri_folder")})
    check = step(
        "check",
        "cat ${{inputs.made}}/words.txt; grep -x 'hello --depth 7' ${{inputs.made}}/words.txt",
        inputs={"made": Input(type="uri_folder")},
    )

    def inner(word: str) -> dict:
        spoken = speak(word=word)
        return {"words": spoken.outputs.made}

    def outer(word: str) -> None:
        talk = dsl.pipeline(name="inner")(inner)(word=word)
        check(made=talk.outputs.words)

    job = dsl.pipeline(name="outer")(outer)(word="hello")
    job.name, job.settings.default_compute = "job-nested", "serverless"
    ml_client.jobs.create_or_update(job)

    assert wait_for_end(ml_client, "job-nested") == "Completed", error_of(ml_client, "job-nested")
    children = {child.display_name: child for child in ml_client.jobs.list(parent_job_name="job-nested")}
    assert {name: child.status for name, child in children.items()} == {"talk": "Completed", "check": "Completed"}
    assert steps(ml_client, children["talk"].name) == {"spoken": "Completed"}


def test_command_job_runs_its_code(ml_client: "MLClient", tmp_path: Path) -> None:
    """A command job runs in a copy of its code folder, with its inputs, variables and an output of its own."""
    from azure.ai.ml import Output, command

    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "say.py").write_text(
        "import os, sys; open(sys.argv[2] + '/said', 'w').write(sys.argv[1] + os.environ['END'])"
    )
    job = command(
        name="job-command",
        code=str(tmp_path / "code"),
        command="python say.py ${{inputs.word}} ${{outputs.said}}",
        environment=ENVIRONMENT,
        environment_variables={"END": "!"},
        inputs={"word": "hello"},
        outputs={"said": Output(type="uri_folder")},
    )
    created = ml_client.jobs.create_or_update(job)
    assert wait_for_end(ml_client, "job-command") == "Completed"
    details = ml_client.jobs._runs_operations.get_run_details("job-command")

    assert created.status == "Starting"
    assert list(details.log_files) == ["user_logs/std_log.txt"]


def test_job_goes_on_after_the_emulator_was_killed(fresh_emulator: Emulator, tmp_path: Path) -> None:
    """After SIGKILL of the emulator a completed step stays, one that was cut off runs again, and the job completes."""
    client, first, second = fresh_emulator.client(), tmp_path / "first", tmp_path / "second"
    lines = (
        f"echo start >> {first}; echo one > ${{{{outputs.made}}}}/MLmodel",
        f"echo $$ >> {second}; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done",
    )
    client.jobs.create_or_update(pipeline("job-interrupted", *lines))
    wait_until(lambda: second.exists(), "the second step runs")
    fresh_emulator.restart(kill=True)
    wait_until(lambda: len(second.read_text().split()) == 2, "the second step runs again")
    (tmp_path / "go").touch()

    assert wait_for_end(client, "job-interrupted") == "Completed"
    assert first.read_text() == "start\n"
    assert not any(psutil.pid_exists(int(pid)) for pid in second.read_text().split())


def test_stopping_the_emulator_ends_its_steps(fresh_emulator: Emulator, tmp_path: Path) -> None:
    """SIGTERM ends running steps within seconds; after the next start a requested cancellation is carried out."""
    client, pid_file = fresh_emulator.client(), tmp_path / "pid"
    client.jobs.create_or_update(pipeline("job-stopped", f"echo $$ >> {pid_file}; exec sleep 60"))
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip() != "", "the step runs")
    started = time.monotonic()
    status = fresh_emulator.stop()
    seconds = time.monotonic() - started
    wait_until(lambda: not psutil.pid_exists(int(pid_file.read_text().split()[0])), "the step has ended")
    fresh_emulator.start()
    wait_until(lambda: len(pid_file.read_text().split()) == 2, "the step runs again")
    client.jobs.begin_cancel("job-stopped").result()

    assert (status, client.jobs.get("job-stopped").status) == (0, "Canceled")
    assert seconds < 5


@pytest.mark.parametrize(
    ("fault", "status", "attempts"),
    [
        ({"on": "step", "effect": "preempt", "name": "a"}, "Completed", 2),
        ({"on": "step", "effect": "fail", "name": "a", "message": "The node is broken."}, "Failed", 1),
        ({"on": "step", "effect": "hang_queued", "name": "a", "seconds": 0.5}, "Completed", 1),
        ({"on": "step", "effect": "not_responding", "name": "a", "seconds": 0.5}, "Completed", 1),
    ],
    ids=["preempt", "fail", "hang_queued", "not_responding"],
)
def test_faults_of_a_step(ml_client: "MLClient", emulator: Emulator, fault: dict, status: str, attempts: int) -> None:
    """A fault that is set from outside hits one start of a step."""
    emulator.admin("PUT", "/admin/faults", [fault])
    name = f"job-fault-{fault['effect'].replace('_', '-')}"
    ml_client.jobs.create_or_update(pipeline(name, "sleep 1"))
    ended = wait_for_end(ml_client, name)
    emulator.admin("DELETE", "/admin/faults")
    child = next(iter(ml_client.jobs.list(parent_job_name=name)))

    assert ended == status
    assert run_document(emulator, child.name)["currentAttemptId"] == attempts


def test_metrics_of_a_step_are_read_through_mlflow(ml_client: "MLClient", emulator: Emulator) -> None:
    """What a step logs with MLflow is read back over the tracking URI, under the names of the job and its runs."""
    import mlflow

    program = (
        "import mlflow, os; client = mlflow.MlflowClient(); "
        "[client.log_metric(run, 'loss', 4.0 / number, step=number) for number in (1, 2, 4) "
        "for run in (os.environ['MLFLOW_RUN_ID'], os.environ['AZUREML_ROOT_RUN_ID'])]"
    )
    ml_client.jobs.create_or_update(pipeline("job-metrics", f'python -c "{program}"'), experiment_name="measured")
    status = wait_for_end(ml_client, "job-metrics")
    mlflow.set_tracking_uri(ml_client.workspaces.get(emulator.ready["workspace_name"]).mlflow_tracking_uri)
    run = mlflow.get_run("job-metrics")
    history = mlflow.MlflowClient().get_metric_history("job-metrics", "loss")
    family = mlflow.search_runs(
        experiment_names=["measured"], filter_string="tags.mlflow.rootRunId = 'job-metrics'", output_format="list"
    )

    assert status == "Completed"
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 1.0})
    assert [(entry.step, entry.value) for entry in history] == [(1, 4.0), (2, 2.0), (4, 1.0)]
    assert sorted(member.info.run_name for member in family) == ["a", "chain"]
    assert all(member.data.metrics == {"loss": 1.0} for member in family)


def test_client_cannot_end_a_job_through_mlflow(ml_client: "MLClient", emulator: Emulator) -> None:
    """The state of a job's run in MLflow is the job's own; tags that MLflow sets become tags of the job."""
    import mlflow

    ml_client.jobs.create_or_update(pipeline("job-owned", "sleep 20"))
    mlflow.set_tracking_uri(ml_client.workspaces.get(emulator.ready["workspace_name"]).mlflow_tracking_uri)
    wait_for_status(ml_client, "job-owned", "Running")
    client = mlflow.MlflowClient()
    client.set_terminated("job-owned", "FAILED")
    client.set_tag("job-owned", "phase", "warm-up")
    run = client.get_run("job-owned")
    job = ml_client.jobs.get("job-owned")
    ml_client.jobs.begin_cancel("job-owned").result()

    assert run.info.status == "RUNNING"
    assert job.tags["phase"] == "warm-up"
    assert client.get_run("job-owned").info.status == "KILLED"


@pytest.mark.exhaustive
def test_killed_mlflow_starts_again(ml_client: "MLClient", emulator: Emulator) -> None:
    """When MLflow's process is killed, the next request waits for a new one, and nothing is lost."""
    import mlflow

    ml_client.jobs.create_or_update(pipeline("job-remembered", "echo hello"))
    mlflow.set_tracking_uri(ml_client.workspaces.get(emulator.ready["workspace_name"]).mlflow_tracking_uri)
    mlflow.MlflowClient().log_metric("job-remembered", "loss", 0.5)
    servers = running(emulator.ready["pid"], "azureml_emulator.mlflow_server")
    for server in servers:
        # One of them ends with the other.
        with contextlib.suppress(psutil.NoSuchProcess):
            server.kill()
    assert psutil.wait_procs(servers, timeout=10)[1] == []
    wait_for_end(ml_client, "job-remembered")
    run = mlflow.get_run("job-remembered")

    assert servers
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 0.5})


@pytest.mark.xfail(raises=TypeError, reason="SDK 1.35: azure-ai-ml cannot ask for the address of a model output")
def test_sdk_downloads_a_model_output(ml_client: "MLClient", tmp_path: Path) -> None:
    """`jobs.download` fetches a model output. It cannot in this SDK: register the output, then download the model."""
    ml_client.jobs.create_or_update(pipeline("job-download", "echo one > ${{outputs.made}}/MLmodel"))
    wait_for_end(ml_client, "job-download")
    ml_client.jobs.download("job-download", download_path=tmp_path, output_name="trained_model")

    assert next(tmp_path.rglob("MLmodel")).read_text() == "one\n"


def test_logs_are_downloaded(ml_client: "MLClient", tmp_path: Path) -> None:
    """`jobs.download` fetches the logs of a pipeline."""
    ml_client.jobs.create_or_update(pipeline("job-download-logs", "echo hello"))
    wait_for_end(ml_client, "job-download-logs")
    ml_client.jobs.download("job-download-logs", download_path=tmp_path)

    assert "[a] hello" in (tmp_path / "artifacts" / "logs" / "azureml" / "executionlogs.txt").read_text()

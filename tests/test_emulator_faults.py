"""Faults set from outside hit what they name, as often as they say, and nothing else."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from azure.ai.ml import MLClient, command
from azure.ai.ml.exceptions import JobException
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError, ServiceRequestError, ServiceResponseError
from azure.identity import DefaultAzureCredential
from conftest import Emulator
from tiny_model import SIZE, Service, create_endpoint, deploy, deployment, running, wait_until

from azureml_emulator.faults import EFFECTS

READ_WORKSPACE = {"on": "request", "method": "GET", "path": "/workspaces/local$"}


@pytest.fixture(scope="module")
def running_service(session_emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(session_emulator, tmp_path_factory.mktemp("models"), "faulty") as service:
        yield service


@pytest.fixture
def service(running_service: Service, emulator: Emulator) -> Iterator[Service]:
    yield running_service
    emulator.admin("DELETE", "/admin/faults")


def once(service: Service) -> MLClient:
    """A client that does not retry by itself."""
    ready = service.emulator.ready
    place = (ready["subscription_id"], ready["resource_group"], ready["workspace_name"])
    return MLClient(DefaultAzureCredential(), *place, retry_total=0)


@pytest.mark.parametrize("status", [401, 403, 404, 408, 409, 429, 500, 503])
def test_request_answers_the_status(service: Service, status: int) -> None:
    """The faulted call answers the status with an error body; the next one is answered as always."""
    client = once(service)
    service.set_faults({**READ_WORKSPACE, "status": status, "message": "by order"})
    with pytest.raises(HttpResponseError, match="by order") as failure:
        client.workspaces.get("local")

    assert failure.value.status_code == status
    assert client.workspaces.get("local").name == "local"


def test_sdk_retries_after_the_time_told(service: Service) -> None:
    """A 429 with Retry-After is retried by the SDK after that time, without the caller noticing."""
    service.set_faults({**READ_WORKSPACE, "status": 429, "retry_after": 1})
    started = time.monotonic()
    workspace = service.client.workspaces.get("local")

    assert workspace.name == "local"
    assert time.monotonic() - started >= 1


def test_calls_are_counted(service: Service) -> None:
    """`from_call` 2 and `calls` 2 fail the second and third call; the list shows how many were seen."""
    client = once(service)
    service.set_faults({**READ_WORKSPACE, "from_call": 2, "calls": 2, "status": 503})
    outcomes = []
    for _ in range(4):
        try:
            client.workspaces.get("local")
            outcomes.append(200)
        except HttpResponseError as error:
            outcomes.append(error.status_code)

    assert outcomes == [200, 503, 503, 200]
    assert service.emulator.admin("GET", "/admin/faults")[0]["seen"] == 4


def test_dropped_connection_before_the_effect(service: Service) -> None:
    """`drop` closes the connection and nothing was created."""
    service.set_faults(
        {"on": "request", "method": "PUT", "path": "/onlineEndpoints/dropped$", "effect": "drop", "calls": None}
    )
    client = once(service)
    with pytest.raises((ServiceRequestError, ServiceResponseError)):
        create_endpoint(client, "dropped")

    with pytest.raises(ResourceNotFoundError):
        client.online_endpoints.get("dropped")


def test_dropped_connection_after_the_effect(service: Service) -> None:
    """`drop_after` closes the connection although the endpoint was created."""
    service.set_faults({"on": "request", "method": "PUT", "path": "/onlineEndpoints/made$", "effect": "drop_after"})
    client = once(service)
    with pytest.raises((ServiceRequestError, ServiceResponseError)):
        create_endpoint(client, "made")

    assert client.online_endpoints.get("made").name == "made"

    client.online_endpoints.begin_delete("made").wait()


def test_slow_answer(service: Service) -> None:
    """`slow` answers right, but only after the seconds."""
    service.set_faults({**READ_WORKSPACE, "effect": "slow", "seconds": 1})
    started = time.monotonic()
    workspace = service.client.workspaces.get("local")

    assert workspace.name == "local"
    assert time.monotonic() - started >= 1


def test_truncated_body(service: Service) -> None:
    """`truncate` sends half a body and closes: the caller sees a broken answer, never a shorter one."""
    service.set_faults({**READ_WORKSPACE, "effect": "truncate", "calls": None})
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        service.arm("GET", "", "api-version=2024-10-01-preview")


def test_quota_is_refused_in_the_words_of_the_service(service: Service) -> None:
    """A quota fault refuses a deployment with usage, limit and the cores needed, upgrade reserve included."""
    service.set_faults({"on": "quota", "name": "standard_ds3_V2", "usage": 0, "limit": 6})
    text = (
        "Not enough quota available for Standard_DS3_v2 in SubscriptionId 11111111-1111-1111-1111-111111111111. "
        "Current usage/limit: 0/6. Additional needed: 8 "
    )
    with pytest.raises(HttpResponseError) as failure:
        deploy(service.client, "faulty", "green", service.model)

    assert failure.value.status_code == 400
    assert text in str(failure.value)


def test_failing_deployment(service: Service) -> None:
    """A deployment told to fail ends Failed with the message; the next attempt of the same name succeeds."""
    service.set_faults({"on": "deployment", "name": "*/green", "effect": "fail", "message": "CUDA out of memory"})
    with pytest.raises(HttpResponseError, match="CUDA out of memory"):
        deploy(service.client, "faulty", "green", service.model)
    state = service.client.online_deployments.get("green", "faulty").provisioning_state
    service.set_faults()
    deploy(service.client, "faulty", "green", service.model)
    after = service.client.online_deployments.get("green", "faulty").provisioning_state
    service.client.online_deployments.begin_delete("green", "faulty").wait()

    assert (state, after) == ("Failed", "Succeeded")


def test_hanging_deployment_goes_on_when_the_fault_is_removed(service: Service) -> None:
    """A deployment told to hang stays Creating until the fault is removed."""
    service.set_faults({"on": "deployment", "name": "*/green", "effect": "hang"})
    poller = service.client.online_deployments.begin_create_or_update(deployment("faulty", "green", service.model))
    poller.wait(1.5)
    while_hanging = (poller.done(), service.client.online_deployments.get("green", "faulty").provisioning_state)
    service.set_faults()
    result = poller.result(20)
    service.client.online_deployments.begin_delete("green", "faulty").wait()

    assert while_hanging == (False, "Creating")
    assert result.provisioning_state == "Succeeded"


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        ({"effect": "status", "status": 500, "message": "out of memory"}, 424, "out of memory"),
        ({"effect": "empty"}, 200, ""),
        ({"effect": "malformed"}, 200, '{"output": "half an ans'),
        ({"effect": "slow", "seconds": 5}, 408, "upstream request timeout"),
    ],
    ids=["status", "empty", "malformed", "slow"],
)
def test_score_is_answered_wrongly_once(service: Service, fault: dict, status: int, body: str) -> None:
    """One score is answered as told, the next by the model."""
    service.set_faults({"on": "score", "name": "faulty/blue", **fault})
    wrong, right = service.score({}), service.score({})

    assert wrong.status_code == status
    assert wrong.text.startswith(body)
    assert right.json()["output"].startswith("heard")


def test_endpoint_that_fails(service: Service) -> None:
    """An endpoint told to fail ends Failed with the message, and can be deleted."""
    service.set_faults({"on": "endpoint", "name": "doomed", "effect": "fail", "message": "no capacity in region"})
    with pytest.raises(HttpResponseError, match="no capacity in region"):
        create_endpoint(service.client, "doomed")

    assert service.client.online_endpoints.get("doomed").provisioning_state == "Failed"

    service.client.online_endpoints.begin_delete("doomed").wait()


def test_fresh_endpoint_is_not_found_for_a_while(service: Service) -> None:
    """A created endpoint answers 404 for the seconds told, also to the poller's last GET, then 200."""
    client = service.client
    service.set_faults({"on": "endpoint", "name": "shy", "effect": "not_found", "seconds": 2})
    with pytest.raises(HttpResponseError, match="shy not found") as failure:
        create_endpoint(client, "shy")

    assert failure.value.status_code == 404

    wait_until(lambda: found(client, "shy"), seconds=5)

    client.online_endpoints.begin_delete("shy").wait()


def found(client: MLClient, name: str) -> bool:
    try:
        return client.online_endpoints.get(name).name == name
    except ResourceNotFoundError:
        return False


def test_hanging_deletion(service: Service) -> None:
    """A deletion told to hang keeps the endpoint in Deleting until the fault is removed."""
    create_endpoint(service.client, "sticky")
    service.set_faults({"on": "delete", "name": "sticky", "effect": "hang"})
    poller = service.client.online_endpoints.begin_delete("sticky")
    poller.wait(1)
    while_hanging = (poller.done(), service.client.online_endpoints.get("sticky").provisioning_state)
    service.set_faults()
    poller.wait(20)

    assert while_hanging == (False, "Deleting")
    assert not found(service.client, "sticky")


def test_failing_deletion_leaves_the_endpoint(service: Service) -> None:
    """A deletion told to fail says so and leaves the endpoint, Failed; a second deletion works."""
    create_endpoint(service.client, "clingy")
    service.set_faults({"on": "delete", "name": "clingy", "effect": "fail", "message": "dependency violation"})
    with pytest.raises(HttpResponseError, match="dependency violation"):
        service.client.online_endpoints.begin_delete("clingy").wait()
    state = service.client.online_endpoints.get("clingy").provisioning_state
    service.client.online_endpoints.begin_delete("clingy").wait()

    assert state == "Failed"
    assert not found(service.client, "clingy")


def submit(client: MLClient) -> str:
    """The name of a job with one step that works for half a second."""
    environment = "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112"
    job = command(command="sleep 0.5; echo done", environment=environment, instance_type=SIZE)
    return str(client.jobs.create_or_update(job).name)


def statuses(client: MLClient, job: str, *, until: str) -> list[str]:
    """The different statuses of a job in their order, up to the wanted one."""
    seen: list[str] = []

    def reached() -> bool:
        status = client.jobs.get(job).status
        if not seen or seen[-1] != status:
            seen.append(status)
        return status == until

    wait_until(reached)
    return seen


def test_step_that_fails(service: Service) -> None:
    """A step told to fail runs for the seconds and makes the job Failed, with the message."""
    service.set_faults({"on": "step", "effect": "fail", "seconds": 1, "message": "loss is NaN"})
    job = submit(service.client)

    assert "Running" in statuses(service.client, job, until="Failed")
    with pytest.raises(JobException, match="loss is NaN"):
        service.client.jobs.stream(job)


def test_step_that_hangs_in_the_queue(service: Service) -> None:
    """A step told to hang is Queued until the fault is removed, then runs to its end."""
    service.set_faults({"on": "step", "effect": "hang_queued"})
    job = submit(service.client)
    statuses(service.client, job, until="Queued")
    time.sleep(1)
    later = service.client.jobs.get(job).status
    service.set_faults()

    assert later == "Queued"
    assert statuses(service.client, job, until="Completed")[-1] == "Completed"


def test_step_that_does_not_respond_and_comes_back(service: Service) -> None:
    """A step told so is NotResponding for the seconds, then Running again, and completes."""
    service.set_faults({"on": "step", "effect": "not_responding", "seconds": 1.5})
    job = submit(service.client)

    assert "NotResponding" in statuses(service.client, job, until="Completed")


def test_step_that_is_preempted(service: Service) -> None:
    """A preempted step is queued again and the job completes."""
    service.set_faults({"on": "step", "effect": "preempt", "seconds": 0.4})
    job = submit(service.client)
    statuses(service.client, job, until="Completed")

    assert service.emulator.admin("GET", "/admin/faults")[0]["seen"] == 2


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({}, "must be a JSON list"),
        (["x"], "Fault 0 is not an object"),
        ([{"on": "moon"}], "Fault 0 is on 'moon'; choose one of request, step"),
        ([{"on": "step", "effect": "melt"}], "choose one of fail, hang_queued, not_responding, preempt"),
        ([{"on": "step", "sevonds": 1}], "unknown key 'sevonds'"),
        ([{"on": "request", "path": "("}], "the path '(' is no regular expression"),
    ],
    ids=["no list", "no object", "on", "effect", "key", "path"],
)
def test_wrong_faults_are_refused(service: Service, faults: object, reason: str) -> None:
    """A fault that is not understood answers 400 with what is allowed, and the present faults stay."""
    service.set_faults({**READ_WORKSPACE, "from_call": 99})
    status, body = service.emulator.request(
        "PUT", "/admin/faults", token=service.emulator.ready["admin_token"], content=faults
    )

    assert status == 400
    assert reason in body["error"]["message"]
    assert len(service.emulator.admin("GET", "/admin/faults")) == 1


def test_faults_need_the_admin_token(service: Service) -> None:
    """Without the admin token faults cannot be read."""
    assert service.emulator.request("GET", "/admin/faults")[0] == 401


def test_documented_faults_are_taken(service: Service) -> None:
    """The example in docs/faults-settings.md is a list that the emulator accepts, and its table names every effect."""
    text = (Path(__file__).parents[1] / "docs/faults-settings.md").read_text()
    example = json.loads(text.split("```json")[1].split("```")[0])
    service.set_faults(*example)

    assert len(service.emulator.admin("GET", "/admin/faults")) == len(example)
    for on, effects in EFFECTS.items():
        assert all(f"`{effect}`" in text for effect in (on, *effects))


def test_faults_file_is_read_at_start(fresh_emulator: Emulator) -> None:
    """HOME/faults.json holds the faults of the next start."""
    (fresh_emulator.home / "faults.json").write_text('[{"on": "step", "name": "train*", "effect": "preempt"}]')
    fresh_emulator.restart()
    fault = fresh_emulator.admin("GET", "/admin/faults")[0]

    assert (fault["on"], fault["name"], fault["effect"], fault["calls"]) == ("step", "train*", "preempt", 1)

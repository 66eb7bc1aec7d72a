"""Faults of a service that is slow to agree with itself: expired tokens, fresh resources not found, names not free."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from azure.ai.ml import MLClient
from azure.ai.ml.entities import AmlCompute, Data, Model
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from conftest import Emulator
from test_emulator_faults import READ_WORKSPACE, found, once, statuses, submit
from tiny_model import ENDPOINT_VERSION, Service, create_endpoint, deploy, deployment, running, set_traffic, wait_until

ASSET_VERSIONS = {"models": "api-version=2023-08-01-preview", "data": "api-version=2023-04-01-preview"}
JOB_VERSION = "api-version=2024-01-01-preview"


@pytest.fixture(scope="module")
def running_service(session_emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(session_emulator, tmp_path_factory.mktemp("models"), "doubtful") as service:
        yield service


@pytest.fixture
def service(running_service: Service, emulator: Emulator) -> Iterator[Service]:
    yield running_service
    emulator.admin("DELETE", "/admin/faults")


def is_missing(call: object, *names: str) -> bool:
    """Whether reading answers 404."""
    try:
        call(*names)  # type: ignore[operator]
    except ResourceNotFoundError:
        return True
    return False


def tokens_issued(service: Service) -> int:
    log = service.emulator.admin("GET", "/admin/requests")
    return sum(line["path"] == "/msi/token" for line in log["value"])


def test_good_token_is_refused_as_expired(service: Service) -> None:
    """`expired_token` answers 401 in resource manager's words and challenge; the next call is let in."""
    client = once(service)
    service.set_faults({**READ_WORKSPACE, "effect": "expired_token"})
    with pytest.raises(ClientAuthenticationError, match=r"The access token expiry UTC time '.*' is earlier") as failure:
        client.workspaces.get("local")

    assert failure.value.status_code == 401
    assert failure.value.error.code == "ExpiredAuthenticationToken"
    assert 'error="invalid_token"' in failure.value.response.headers["WWW-Authenticate"]
    assert client.workspaces.get("local").name == "local"


def test_expired_token_leaves_calls_without_a_token_alone(service: Service) -> None:
    """A scoring call is let in by the endpoint's key: an expired token neither hits nor counts it."""
    service.set_faults({"on": "request", "effect": "expired_token"})
    scored = service.score({})

    assert scored.status_code == 200
    assert service.emulator.admin("GET", "/admin/faults")[0]["seen"] == 0


def test_short_lived_tokens_are_fetched_again(service: Service) -> None:
    """With `token_seconds` 2 an old token is refused as expired, and the SDK asks for new ones and notices nothing."""
    before = tokens_issued(service)
    timing = service.emulator.admin("GET", "/admin/timing")
    service.emulator.admin("PUT", "/admin/timing", {"token_seconds": 2})
    client = once(service)
    old = client._credential.get_token(f"{service.emulator.ready['url']}/.default").token
    address = service.emulator.ready["url"] + client.workspaces.get("local").id + "?api-version=2024-10-01-preview"

    def answer() -> requests.Response:
        bundle = service.emulator.ready["ca_bundle"]
        return requests.get(address, headers={"Authorization": f"Bearer {old}"}, verify=bundle, timeout=30)

    wait_until(lambda: answer().status_code == 401, seconds=6)
    name, refused = client.workspaces.get("local").name, answer().json()["error"]
    service.emulator.admin("PUT", "/admin/timing", timing)

    assert name == "local"
    assert refused["code"] == "ExpiredAuthenticationToken"
    assert tokens_issued(service) >= before + 3


def test_fresh_job_is_not_found_for_a_while(service: Service) -> None:
    """A job answers 404 and is not listed for the seconds; its name is taken all the same."""
    service.set_faults({"on": "job", "effect": "not_found", "seconds": 2})
    name = submit(service.client)
    missing = is_missing(service.client.jobs.get, name)
    listed = [job.name for job in service.client.jobs.list()]
    other = {"properties": {"jobType": "Command", "command": "true", "environmentId": "x"}}
    taken = service.arm("PUT", f"/jobs/{name}", JOB_VERSION, other)

    assert missing
    assert name not in listed
    assert (taken.status_code, "already exists" in taken.text) == (400, True)

    wait_until(lambda: not is_missing(service.client.jobs.get, name), seconds=6)

    assert name in [job.name for job in service.client.jobs.list()]
    assert statuses(service.client, name, until="Completed")[-1] == "Completed"


def fresh_asset(client: MLClient, kind: str, folder: Path) -> object:
    """A new version of a model or a data asset made from a file."""
    file = folder / "rows.jsonl"
    file.write_text('{"messages": []}\n')
    if kind == "models":
        return client.models.create_or_update(Model(name="shy", version="7", path=file, type="custom_model"))
    return client.data.create_or_update(Data(name="shy", version="7", path=file, type="uri_file"))


@pytest.mark.parametrize("kind", ["models", "data"])
def test_fresh_asset_is_not_found_for_a_while(service: Service, kind: str, tmp_path: Path) -> None:
    """A new model or data version answers 404, alone and as a container, and is in no list for the seconds."""
    service.set_faults({"on": "asset", "name": f"{kind}/shy", "effect": "not_found", "seconds": 3})
    made = fresh_asset(service.client, kind, tmp_path)
    room = getattr(service.client, kind)
    missing, container = is_missing(room.get, "shy", "7"), service.arm("GET", f"/{kind}/shy", ASSET_VERSIONS[kind])
    versions, names = list(room.list("shy")), [item.name for item in room.list()]

    assert (made.name, made.version) == ("shy", "7")
    assert missing
    assert container.status_code == 404
    assert versions == []
    assert "shy" not in names

    wait_until(lambda: not is_missing(room.get, "shy", "7"), seconds=8)

    assert [item.version for item in room.list("shy")] == ["7"]


def test_hidden_asset_pattern_spares_other_kinds(service: Service, tmp_path: Path) -> None:
    """A fault on `models/*` neither hits nor counts a data asset."""
    service.set_faults({"on": "asset", "name": "models/*", "effect": "not_found", "seconds": 60})
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    service.client.data.create_or_update(Data(name="plain", version="1", path=file, type="uri_file"))

    assert service.client.data.get("plain", "1").version == "1"
    assert service.emulator.admin("GET", "/admin/faults")[0]["seen"] == 0


def test_fresh_deployment_is_not_found_for_a_while(service: Service) -> None:
    """A created deployment answers 404 for the seconds, also to the poller's last GET, and is not listed."""
    deployments = service.client.online_deployments
    service.set_faults({"on": "deployment", "name": "*/green", "effect": "not_found", "seconds": 2})
    with pytest.raises(HttpResponseError, match="Deployment green not found in endpoint doubtful") as failure:
        deploy(service.client, "doubtful", "green", service.model)
    listed = [item.name for item in deployments.list("doubtful")]

    assert failure.value.status_code == 404
    assert listed == ["blue"]

    wait_until(lambda: not is_missing(deployments.get, "green", "doubtful"), seconds=6)
    deployments.begin_delete("green", "doubtful").wait()


def test_busy_endpoint_refuses_changes_for_a_while(service: Service) -> None:
    """An endpoint told to be busy is Updating after its operation ended, and refuses PUT and DELETE with 409."""
    client = service.client
    service.set_faults({"on": "endpoint", "name": "engaged", "effect": "busy", "seconds": 3})
    create_endpoint(client, "engaged")
    state = client.online_endpoints.get("engaged").provisioning_state
    with pytest.raises(HttpResponseError) as no_deployment:
        client.online_deployments.begin_create_or_update(deployment("engaged", "blue", service.model))
    with pytest.raises(HttpResponseError) as no_change:
        create_endpoint(client, "engaged")
    with pytest.raises(HttpResponseError) as no_deletion:
        client.online_endpoints.begin_delete("engaged")

    assert state == "Updating"
    assert no_deployment.value.status_code == no_change.value.status_code == no_deletion.value.status_code == 409
    assert "because it is in Updating provisioning state" in str(no_deployment.value)
    assert "Endpoint engaged is in Updating provisioning state" in str(no_change.value)
    assert "Endpoint engaged is in Updating provisioning state" in str(no_deletion.value)

    wait_until(lambda: client.online_endpoints.get("engaged").provisioning_state == "Succeeded", seconds=6)
    client.online_endpoints.begin_delete("engaged").wait()

    assert not found(client, "engaged")


def test_change_makes_an_endpoint_busy(service: Service) -> None:
    """A change of traffic is answered and done; for the seconds after it the endpoint is Updating, and still scores."""
    service.set_faults({"on": "endpoint", "name": "doubtful", "effect": "busy", "seconds": 2})
    set_traffic(service.client, "doubtful", {"blue": 100})
    state, scored = service.client.online_endpoints.get("doubtful").provisioning_state, service.score({})
    deletion = service.arm("DELETE", "/onlineEndpoints/doubtful/deployments/blue", "api-version=2023-04-01-preview")
    wait_until(lambda: service.client.online_endpoints.get("doubtful").provisioning_state == "Succeeded", seconds=6)

    assert (state, scored.status_code, deletion.status_code) == ("Updating", 200, 409)


def test_name_of_a_deleted_endpoint_is_reserved_for_a_while(service: Service) -> None:
    """After a deletion the endpoint is not found, and its name is refused until the seconds are over."""
    create_endpoint(service.client, "twice")
    service.set_faults({"on": "delete", "name": "twice", "effect": "reserved", "seconds": 2})
    service.client.online_endpoints.begin_delete("twice").wait()
    gone = not found(service.client, "twice")
    with pytest.raises(HttpResponseError, match="There is already an endpoint with this name") as failure:
        create_endpoint(service.client, "twice")

    assert gone
    assert failure.value.status_code == 400

    body = {"location": "eastus", "identity": {"type": "SystemAssigned"}, "properties": {"authMode": "Key"}}
    wait_until(
        lambda: service.arm("PUT", "/onlineEndpoints/twice", ENDPOINT_VERSION, body).status_code == 201, seconds=6
    )
    wait_until(lambda: service.client.online_endpoints.get("twice").provisioning_state == "Succeeded")
    service.client.online_endpoints.begin_delete("twice").wait()


@pytest.mark.parametrize("status", [408, 424, 429, 500])
def test_status_of_the_container_reaches_the_caller_as_424(service: Service, status: int) -> None:
    """Whatever status the container answers, the caller gets 424 with it in a header, and the next score works."""
    service.set_faults({"on": "score", "status": status})
    wrong, right = service.score({}), service.score({})

    assert (wrong.status_code, wrong.headers["ms-azureml-model-error-statuscode"]) == (424, str(status))
    assert right.status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        ({}, 503, "no healthy upstream"),
        ({"status": 408}, 408, "upstream request timeout"),
        ({"status": 429, "retry_after": 2}, 429, "too many pending requests"),
        ({"status": 502}, 502, "upstream connect error"),
        ({"status": 403, "message": "no entry"}, 403, "no entry"),
    ],
    ids=["not ready", "timeout", "busy", "broken off", "own words"],
)
def test_gateway_refuses_by_itself(service: Service, fault: dict, status: int, text: str) -> None:
    """`gateway` answers the status as the gateway's own plain text, without a sign of the container."""
    service.set_faults({"on": "score", "effect": "gateway", **fault})
    wrong, right = service.score({}), service.score({})

    assert wrong.status_code == status
    assert wrong.text.startswith(text)
    assert "ms-azureml-model-error-statuscode" not in wrong.headers
    assert wrong.headers.get("Retry-After") == ("2" if "retry_after" in fault else None)
    assert right.status_code == 200


def test_cluster_is_refused_for_quota(service: Service) -> None:
    """A quota fault on a size refuses a cluster of it in the service's words; the next attempt makes it."""
    cluster = AmlCompute(name="scarce", size="Standard_DS3_v2", min_instances=0, max_instances=1)
    service.set_faults({"on": "quota", "name": "standard_ds3_v2", "limit": 3})
    with pytest.raises(HttpResponseError) as failure:
        service.client.compute.begin_create_or_update(cluster)
    made = service.client.compute.begin_create_or_update(cluster).result()
    service.client.compute.begin_delete("scarce").wait()

    assert failure.value.status_code == 400
    assert failure.value.error.code == "ClusterCoreQuotaReached"
    assert "has a total vCPU quota of 3 for standardDSv2Family and cannot accomodate" in str(failure.value)
    assert "which maps to 4 vCPUs" in str(failure.value)
    assert made.name == "scarce"


def test_queue_that_ends_by_itself(service: Service) -> None:
    """A step told to hang in the queue for some seconds then runs to its end, the fault still being set."""
    service.set_faults({"on": "step", "effect": "hang_queued", "seconds": 1})
    started = time.monotonic()
    seen = statuses(service.client, submit(service.client), until="Completed")

    assert "Queued" in seen
    assert time.monotonic() - started >= 1


def test_slow_step(service: Service) -> None:
    """A step told to be slow is Running for the seconds longer, and completes."""
    service.set_faults({"on": "step", "effect": "slow", "seconds": 2})
    job = submit(service.client)
    statuses(service.client, job, until="Running")
    started = time.monotonic()
    seen = statuses(service.client, job, until="Completed")

    assert seen[0] == "Running"
    assert time.monotonic() - started >= 2


def test_cancel_ends_a_slow_step(service: Service) -> None:
    """The cancellation of a job does not wait for the seconds of a slow step."""
    service.set_faults({"on": "step", "effect": "slow", "seconds": 60})
    job = submit(service.client)
    statuses(service.client, job, until="Running")
    service.client.jobs.begin_cancel(job).wait(10)

    assert statuses(service.client, job, until="Canceled")[-1] == "Canceled"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"on": "job", "effect": "not_found"}, "the effect 'not_found', which needs 'seconds' above 0"),
        ({"on": "delete", "effect": "reserved", "seconds": 0}, "the effect 'reserved', which needs 'seconds'"),
        ({"on": "endpoint", "effect": "reserved", "seconds": 1}, "choose one of fail, hang, not_found, busy"),
        ({"on": "step", "seconds": "2"}, "'seconds' is \"2\"; it must be float"),
        ({"on": "step", "seconds": -1}, "'seconds' is -1; it must be float, not negative"),
        ({"on": "step", "calls": True}, "'calls' is true; it must be int or null"),
        ({"on": ["step"]}, "'on' is [\"step\"]; it must be str"),
    ],
    ids=["no seconds", "zero seconds", "effect of another", "text", "negative", "truth", "list"],
)
def test_faults_that_make_no_sense_are_refused(service: Service, fault: dict, reason: str) -> None:
    """A fault without the duration that it needs, or with a value of the wrong kind, answers 400 with the reason."""
    token = service.emulator.ready["admin_token"]
    status, body = service.emulator.request("PUT", "/admin/faults", token=token, content=[fault])

    assert status == 400
    assert reason in body["error"]["message"]

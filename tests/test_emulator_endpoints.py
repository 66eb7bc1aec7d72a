"""Endpoints and deployments take the service's states, serve what was deployed, and leave nothing behind."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from azure.ai.ml.entities import (
    ManagedOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    ProbeSettings,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from conftest import QUICK, Emulator
from tiny_model import (
    DEPLOYMENT_VERSION,
    ENDPOINT_VERSION,
    Service,
    create_endpoint,
    deploy,
    deployment,
    register,
    running,
    wait_until,
)

IMPATIENT = ProbeSettings(initial_delay=1, period=1, timeout=1, failure_threshold=2)


@pytest.fixture(scope="module")
def running_service(session_emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(session_emulator, tmp_path_factory.mktemp("models"), "served") as service:
        yield service


@pytest.fixture
def service(running_service: Service, emulator: Emulator) -> Service:
    return running_service


def endpoint_body(**properties: object) -> dict:
    return {
        "location": "eastus",
        "identity": {"type": "SystemAssigned"},
        "properties": {"authMode": "Key", **properties},
    }


def test_put_answers_creating_and_names_the_operation(service: Service) -> None:
    """A new endpoint answers 201 in state Creating, without addresses, with the operation to poll."""
    answer = service.arm("PUT", "/onlineEndpoints/created-one", ENDPOINT_VERSION, endpoint_body())
    shown = answer.json()["properties"]

    assert answer.status_code == 201
    assert (shown["provisioningState"], shown["scoringUri"], shown["swaggerUri"]) == ("Creating", None, None)
    assert "/mfeOperationsStatus/oeidp:" in answer.headers["Azure-AsyncOperation"]
    assert answer.headers["x-ms-async-operation-timeout"] == "PT30M"
    assert answer.json()["kind"] == "Managed"

    wait_until(lambda: service.client.online_endpoints.get("created-one").provisioning_state == "Succeeded")
    service.client.online_endpoints.begin_delete("created-one").wait()


def test_traffic_update_answers_creating_with_less(service: Service) -> None:
    """An update of an endpoint answers 201 Creating again, without location, identity and time of creation."""
    body = endpoint_body(traffic={"blue": 100})
    answer = service.arm("PUT", "/onlineEndpoints/served", ENDPOINT_VERSION, body)
    document = answer.json()
    wait_until(lambda: service.client.online_endpoints.get("served").provisioning_state == "Succeeded")

    assert answer.status_code == 201
    assert document["properties"]["provisioningState"] == "Creating"
    assert "location" not in document
    assert "identity" not in document
    assert list(document["systemData"]) == ["lastModifiedAt"]


@pytest.mark.parametrize("name", ["ab", "a" * 33, "1abc", "abc-", "a_bc", "a.bc"])
@pytest.mark.parametrize("kind", ["endpoint", "deployment"])
def test_wrong_names_are_refused(service: Service, kind: str, name: str) -> None:
    """A name that breaks the rule of 3 to 32 letters, digits and hyphens answers 400 with the rule."""
    if kind == "endpoint":
        answer = service.arm("PUT", f"/onlineEndpoints/{name}", ENDPOINT_VERSION, endpoint_body())
    else:
        body = {"location": "eastus", "properties": {"endpointComputeType": "Managed"}}
        answer = service.arm("PUT", f"/onlineEndpoints/served/deployments/{name}", DEPLOYMENT_VERSION, body)

    assert answer.status_code == 400
    assert f"The {kind} name '{name}' is invalid; it must be 3 to 32" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("traffic", "reason"),
    [
        ({"blue": 50}, "must be either 0 or 100; found 50"),
        ({"blue": 100, "green": 0}, "does not have: green"),
        ({"blue": 150}, "from 0 to 100; found blue=150"),
    ],
    ids=["half", "unknown deployment", "too much"],
)
def test_wrong_traffic_is_refused(service: Service, traffic: dict[str, int], reason: str) -> None:
    """Traffic that does not sum to 0 or 100, or names no deployment, answers 400 and changes nothing."""
    answer = service.arm("PUT", "/onlineEndpoints/served", ENDPOINT_VERSION, endpoint_body(traffic=traffic))

    assert answer.status_code == 400
    assert reason in answer.json()["error"]["message"]
    assert service.client.online_endpoints.get("served").traffic == {"blue": 100}


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"mirrorTraffic": {"blue": 10}}, "does not support 'mirrorTraffic' of the endpoint"),
        ({"publicNetworkAccess": "Disabled"}, "publicNetworkAccess 'Disabled' is not served here"),
    ],
    ids=["mirror", "private"],
)
def test_endpoint_setting_without_effect_is_refused(service: Service, setting: dict, reason: str) -> None:
    """A setting that would have no effect answers 400 with its name and changes nothing."""
    body = endpoint_body(traffic={"blue": 100})
    body["properties"] |= setting
    answer = service.arm("PUT", "/onlineEndpoints/served", ENDPOINT_VERSION, body)

    assert answer.status_code == 400
    assert reason in answer.json()["error"]["message"]


def test_missing_endpoint(service: Service) -> None:
    """A GET of an unknown endpoint answers 404, a DELETE 204."""
    with pytest.raises(ResourceNotFoundError, match="Online endpoint no-such-thing not found in workspace local"):
        service.client.online_endpoints.get("no-such-thing")

    assert service.arm("DELETE", "/onlineEndpoints/no-such-thing", ENDPOINT_VERSION).status_code == 204
    assert service.arm("DELETE", "/onlineEndpoints/served/deployments/grey", DEPLOYMENT_VERSION).status_code == 204


def test_deployment_shows_the_service_defaults(service: Service) -> None:
    """A deployment shows default probes, its limits, and the variables of a model without scoring script."""
    answer = service.arm("GET", "/onlineEndpoints/served/deployments/blue", DEPLOYMENT_VERSION).json()
    shown = answer["properties"]

    assert shown["provisioningState"] == "Succeeded"
    assert shown["requestSettings"]["requestTimeout"] == "PT1.5S"
    assert shown["readinessProbe"]["initialDelay"] == "PT10S"
    assert shown["environmentVariables"]["AZUREML_MODEL_DIR"] == "/var/azureml-app/azureml-models/tiny-serve/1"
    assert answer["sku"] == {"name": "Default", "tier": "Standard", "capacity": 1}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"instance_type": "Standard_Nonsense"}, "Specified instance type 'Standard_Nonsense' is not supported"),
        ({"request_settings": OnlineRequestSettings(request_timeout_ms=180001)}, "180001 ms is not allowed"),
        ({"model": "azureml:no-such-model:1"}, "no-such-model"),
        ({"instance_count": 51}, "Instance count 51 is not between 1 and 50"),
        ({"app_insights_enabled": True}, "does not support 'appInsightsEnabled' of the deployment"),
    ],
    ids=["instance type", "timeout", "model", "instances", "insights"],
)
def test_wrong_deployments_are_refused_at_once(service: Service, settings: dict, reason: str) -> None:
    """A deployment with an unknown size or model, or beyond a limit, is refused before anything starts."""
    wrong = deployment("served", "green", settings.pop("model", service.model), **settings)
    with pytest.raises(HttpResponseError, match=reason):
        service.client.online_deployments.begin_create_or_update(wrong)

    assert [item.name for item in service.client.online_deployments.list("served")] == ["blue"]


def test_model_without_mlmodel_is_refused(service: Service, tmp_path: Path) -> None:
    """A model that is no MLflow model is refused with what to do about it."""
    (tmp_path / "weights.bin").write_text("1")
    plain = service.client.models.create_or_update(Model(name="plain", version="1", path=tmp_path, type="custom_model"))

    with pytest.raises(HttpResponseError, match="no MLmodel file was found"):
        deploy(service.client, "served", "green", str(plain.id))


def test_server_that_ends_fails_the_deployment(service: Service) -> None:
    """A server that ends during the start makes the deployment Failed, with its last log lines in the error."""
    model = register(service.client, service.folder, "exit")
    with pytest.raises(HttpResponseError) as failure:
        deploy(service.client, "served", "broken", model)
    state = service.client.online_deployments.get("broken", "served").provisioning_state
    logs = service.client.online_deployments.get_logs("broken", "served", lines=5)
    loading = service.client.online_deployments.get_logs(
        "broken", "served", lines=5, container_type="storage-initializer"
    )
    service.client.online_deployments.begin_delete("broken", "served").wait()

    assert "User container has crashed or terminated: exit code 3" in str(failure.value)
    assert "no weights in this folder" in str(failure.value)
    assert state == "Failed"
    assert "no weights in this folder" in logs
    assert "models/tiny-exit/versions/1" in loading


@pytest.mark.parametrize(
    ("probes", "reason"),
    [
        ({"readiness_probe": IMPATIENT}, "Readiness probe failed"),
        ({"liveness_probe": IMPATIENT}, "Liveness probe failed: HTTP probe failed with statuscode: 503"),
    ],
    ids=["readiness", "liveness"],
)
def test_server_that_never_gets_ready_fails(service: Service, probes: dict, reason: str) -> None:
    """A server that answers 503 for longer than the probes allow makes the deployment Failed."""
    model = register(service.client, service.folder, "deaf")
    with pytest.raises(HttpResponseError, match=reason):
        deploy(service.client, "served", "deaf", model, **probes)

    service.client.online_deployments.begin_delete("deaf", "served").wait()


def test_late_server_is_waited_for(service: Service) -> None:
    """A server that is ready within its probes' patience succeeds, whatever the initial delay."""
    model = register(service.client, service.folder, "late")
    patient = ProbeSettings(initial_delay=600)
    deploy(service.client, "served", "late", model, liveness_probe=patient, readiness_probe=patient)
    answer = service.score({}, azureml_model_deployment="late")
    service.client.online_deployments.begin_delete("late", "served").wait()

    assert answer.status_code == 200


def test_deployment_with_traffic_is_not_deleted(service: Service) -> None:
    """A deployment that receives traffic cannot be deleted."""
    with pytest.raises(HttpResponseError, match="Set its traffic to 0 first"):
        service.client.online_deployments.begin_delete("blue", "served")


def test_deleting_an_endpoint_ends_its_servers(service: Service) -> None:
    """After the deletion of an endpoint its servers are gone, and endpoint and deployments answer 404."""
    create_endpoint(service.client, "short-lived")
    deploy(service.client, "short-lived", "one", service.model)
    keys = service.client.online_endpoints.get_keys("short-lived")
    answer = service.score(
        {}, endpoint="short-lived", Authorization=f"Bearer {keys.primary_key}", azureml_model_deployment="one"
    )
    pid = answer.json()["pid"]
    service.client.online_endpoints.begin_delete("short-lived").wait()

    assert not psutil.pid_exists(pid)
    for path in ("", "/deployments", "/deployments/one"):
        assert service.arm("GET", f"/onlineEndpoints/short-lived{path}", DEPLOYMENT_VERSION).status_code == 404


def test_deletion_cuts_a_creation_off(service: Service) -> None:
    """Deleting an endpoint while a deployment starts cancels that operation and leaves nothing."""
    create_endpoint(service.client, "cut-off")
    model = register(service.client, service.folder, "deaf")
    poller = service.client.online_deployments.begin_create_or_update(deployment("cut-off", "one", model))
    service.client.online_endpoints.begin_delete("cut-off").wait()

    with pytest.raises(HttpResponseError, match="was deleted meanwhile"):
        poller.result()
    assert not (Path(service.emulator.ready["home"]) / "deployments/cut-off/one").exists()


def test_endpoint_in_updating_takes_no_deployment(service: Service) -> None:
    """While an endpoint is not Succeeded, a deployment is refused with its state."""
    service.emulator.admin("PUT", "/admin/timing", {"endpoint_seconds": 2})
    poller = service.client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="not-yet"))
    with pytest.raises(HttpResponseError, match="endpoint not-yet because it is in Creating provisioning state"):
        service.client.online_deployments.begin_create_or_update(deployment("not-yet", "one", service.model))
    service.emulator.admin("PUT", "/admin/timing", QUICK)
    poller.result()
    service.client.online_endpoints.begin_delete("not-yet").wait()


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_deployments_survive_a_restart(fresh_emulator: Emulator, tmp_path: Path, kill: bool) -> None:
    """After a restart the endpoint serves again with the same key; the old server ends with the old emulator."""
    service = Service(fresh_emulator, tmp_path)
    before = service.score({}).json()["pid"]
    fresh_emulator.restart(kill=kill)
    wait_until(lambda: not psutil.pid_exists(before))
    wait_until(lambda: service.score({}).status_code == 200)

    assert service.score({}).json()["pid"] != before


def test_interrupted_creation_goes_on(fresh_emulator: Emulator, tmp_path: Path) -> None:
    """A deployment whose creation a crash of the service interrupted is finished after the restart."""
    service = Service(fresh_emulator, tmp_path)
    fresh_emulator.admin("PUT", "/admin/timing", {"deployment_seconds": 5})
    poller = service.client.online_deployments.begin_create_or_update(deployment("served", "green", service.model))
    os.kill(fresh_emulator.process.pid, signal.SIGKILL)
    fresh_emulator.restart(kill=True)
    fresh_emulator.admin("PUT", "/admin/timing", QUICK)

    assert poller.result().provisioning_state == "Succeeded"
    assert service.score({}, azureml_model_deployment="green").status_code == 200


def test_same_names_in_any_case(service: Service) -> None:
    """Resource manager paths are case-insensitive: SERVED is served."""
    answer = service.arm("GET", "/ONLINEENDPOINTS/SERVED", ENDPOINT_VERSION)

    assert answer.status_code == 200
    assert answer.json()["name"] == "served"

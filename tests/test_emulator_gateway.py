"""Scoring goes to the right deployment, needs the key, keeps the limits, and answers with the service's codes."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from azure.ai.ml.entities import ManagedOnlineEndpoint, ProbeSettings
from conftest import Emulator
from tiny_model import ENDPOINT_VERSION, Service, deploy, running, set_traffic, wait_until

IMPATIENT = ProbeSettings(initial_delay=1, period=1, timeout=1, failure_threshold=2)


@pytest.fixture(scope="module")
def running_service(session_emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(session_emulator, tmp_path_factory.mktemp("models"), "scored") as service:
        yield service


@pytest.fixture
def service(running_service: Service, emulator: Emulator) -> Service:
    return running_service


def test_invoke_reaches_the_deployment(service: Service, tmp_path: Path) -> None:
    """`invoke` sends the request file to the model server, by traffic and by deployment name."""
    request = tmp_path / "request.json"
    request.write_text('{"input_data": {"input_string": [{"role": "user", "content": "hello"}]}}')
    by_traffic = json.loads(service.client.online_endpoints.invoke(service.endpoint, request_file=str(request)))
    by_name = json.loads(
        service.client.online_endpoints.invoke(service.endpoint, deployment_name="blue", request_file=str(request))
    )

    assert "hello" in by_traffic["output"]
    assert by_traffic == by_name


def test_score_answer_names_its_deployment(service: Service) -> None:
    """An answer carries the deployment's name and the run headers of the service."""
    answer = service.score({"a": 1})

    assert answer.status_code == 200
    assert answer.headers["azureml-model-deployment"] == "blue"
    assert answer.headers["x-ms-run-function-failed"] == "False"
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("header", "reason"),
    [("", "key_auth_bad_header_forbidden"), ("Bearer wrong", "key_auth_access_denied")],
    ids=["no key", "wrong key"],
)
def test_scoring_needs_the_key(service: Service, header: str, reason: str) -> None:
    """Without the endpoint's key a score answers 401, as plain text."""
    answer = service.score({}, Authorization=header)

    assert answer.status_code == 401
    assert answer.text.startswith(reason)


def test_no_traffic_no_answer(service: Service) -> None:
    """Without positive traffic a score answers 404, unless a header names the deployment."""
    set_traffic(service.client, service.endpoint, {"blue": 0})
    without, named = service.score({}), service.score({}, azureml_model_deployment="blue")
    set_traffic(service.client, service.endpoint, {"blue": 100})

    assert without.status_code == 404
    assert "valid deployment with positive weight" in without.text
    assert named.status_code == 200


def test_slow_model_times_out(service: Service) -> None:
    """A score longer than request_timeout_ms (1500 here) answers 408."""
    answer = service.score({"do": "sleep", "seconds": 3})

    assert answer.status_code == 408
    assert answer.text.startswith("upstream request timeout")


def test_model_error_becomes_424(service: Service) -> None:
    """The model's own error answers 424 with the real status and reason in headers."""
    answer = service.score({"do": "fail", "status": 418})

    assert answer.status_code == 424
    assert answer.headers["ms-azureml-model-error-statuscode"] == "418"
    assert answer.headers["ms-azureml-model-error-reason"] == "model_error"


def test_too_many_requests_at_once(service: Service) -> None:
    """More than twice max_concurrent_requests_per_instance (1 here) at the same time answers 429."""
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: service.score({"do": "sleep", "seconds": 1}), range(5)))

    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]


def test_crashed_server_is_restarted(service: Service) -> None:
    """A server that ends during a score answers 502, and comes back by itself."""
    before = service.score({}).json()["pid"]
    crashed = service.score({"do": "exit"})
    wait_until(lambda: service.score({}).status_code == 200)
    after = service.score({}).json()["pid"]

    assert crashed.status_code == 502
    assert before != after
    assert service.client.online_deployments.get("blue", service.endpoint).provisioning_state == "Succeeded"


def test_regenerated_key_replaces_the_old_one(service: Service) -> None:
    """After begin_regenerate_keys the old primary key is refused and the new one serves."""
    service.client.online_endpoints.begin_regenerate_keys(service.endpoint, key_type="primary").wait()
    old = service.score({})
    service.key = service.client.online_endpoints.get_keys(service.endpoint).primary_key

    assert old.status_code == 401
    assert service.score({}).status_code == 200


def test_token_endpoint_gives_a_token(service: Service) -> None:
    """An endpoint with auth mode aml_token gives a token, and no keys."""
    endpoint = ManagedOnlineEndpoint(name="with-token", auth_mode="aml_token")
    service.client.online_endpoints.begin_create_or_update(endpoint).result()
    token = service.client.online_endpoints.get_keys("with-token")
    keys = service.arm("POST", "/onlineEndpoints/with-token/listKeys", ENDPOINT_VERSION).json()
    service.client.online_endpoints.begin_delete("with-token").wait()

    assert len(token.access_token) > 20
    assert keys == {"primaryKey": None, "secondaryKey": None}


def test_sick_server_is_replaced(service: Service) -> None:
    """A server that fails its liveness probe after it was ready is ended and started again."""
    deploy(
        service.client, service.endpoint, "sickly", service.model, liveness_probe=IMPATIENT, readiness_probe=IMPATIENT
    )
    before = service.score({"do": "sick"}, azureml_model_deployment="sickly").json()["pid"]
    wait_until(lambda: not psutil.pid_exists(before))
    while_down = service.score({}, azureml_model_deployment="sickly")
    wait_until(lambda: service.score({}, azureml_model_deployment="sickly").status_code == 200)
    service.client.online_deployments.begin_delete("sickly", service.endpoint).wait()

    assert while_down.status_code == 503
    assert while_down.text.startswith("no healthy upstream")

"""What the tests of endpoints and faults share: a small model, and the steps from it to a deployment."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from azure.ai.ml import MLClient
from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, Model, OnlineRequestSettings
from azure.identity import DefaultAzureCredential
from conftest import QUICK, Emulator
from variables import Variables

SIZE = "Standard_DS3_v2"
ENDPOINT_VERSION = "api-version=2022-02-01-preview"
DEPLOYMENT_VERSION = "api-version=2023-04-01-preview"
# In an emulator's home: a model's own code is run only where the user says so.
SERVING_TABLE = {
    f"tiny-{mode}": ["python", "{model}/tiny_server.py", mode] for mode in ("serve", "exit", "deaf", "late")
}


def register(client: MLClient, folder: Path, mode: str = "serve") -> str:
    """The id of a registered MLflow model whose own server is tiny_server.py."""
    model = folder / f"model-{mode}"
    model.mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("tiny_server.py"), model / "tiny_server.py")
    (model / "MLmodel").write_text(f"flavors: {{tiny-{mode}: {{}}}}\n")
    registered = client.models.create_or_update(
        Model(name=f"tiny-{mode}", version="1", path=model, type="mlflow_model")
    )
    assert registered.id
    return registered.id


def create_endpoint(client: MLClient, name: str) -> None:
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()


def deployment(endpoint: str, name: str, model: str, **settings: object) -> ManagedOnlineDeployment:
    """A deployment that is ready or fails within seconds."""
    request = OnlineRequestSettings(request_timeout_ms=1500, max_concurrent_requests_per_instance=1)
    given = {"instance_type": SIZE, "instance_count": 1, "request_settings": request, **settings}
    return ManagedOnlineDeployment(name=name, endpoint_name=endpoint, model=model, **given)


def deploy(client: MLClient, endpoint: str, name: str, model: str, **settings: object) -> None:
    client.online_deployments.begin_create_or_update(deployment(endpoint, name, model, **settings)).result()


def set_traffic(client: MLClient, endpoint: str, traffic: dict[str, int]) -> None:
    present = client.online_endpoints.get(endpoint)
    present.traffic = traffic
    client.online_endpoints.begin_create_or_update(present).result()


def wait_until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.05)


class Service:
    """An emulator with quick polling, its client, raw requests, and one served endpoint with deployment `blue`."""

    def __init__(self, emulator: Emulator, folder: Path, endpoint: str = "served") -> None:
        self.emulator = emulator
        self.folder = folder
        self.endpoint = endpoint
        emulator.admin("PUT", "/admin/timing", QUICK)
        (emulator.home / "serving.yaml").write_text(json.dumps(SERVING_TABLE))
        self.client: MLClient = emulator.client()
        self.model = register(self.client, folder)
        create_endpoint(self.client, endpoint)
        deploy(self.client, endpoint, "blue", self.model)
        set_traffic(self.client, endpoint, {"blue": 100})
        self.key = self.client.online_endpoints.get_keys(endpoint).primary_key

    def arm(self, method: str, path: str, version: str, body: object = None) -> requests.Response:
        """The answer to a plain request below the workspace."""
        ready = self.emulator.ready
        token = DefaultAzureCredential().get_token(f"{ready['url']}/.default").token
        place = f"/subscriptions/{ready['subscription_id']}/resourceGroups/local/providers"
        url = f"{ready['url']}{place}/Microsoft.MachineLearningServices/workspaces/local{path}?{version}"
        headers = {"Authorization": f"Bearer {token}"}
        return requests.request(method, url, json=body, headers=headers, verify=ready["ca_bundle"], timeout=30)

    def score(self, body: object, *, endpoint: str | None = None, **headers: str) -> requests.Response:
        """The answer to a scoring request, with the endpoint's key unless the headers hold another."""
        ready = self.emulator.ready
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{ready['url']}/scoring/{endpoint or self.endpoint}/score"
        sent = {"Authorization": f"Bearer {self.key}", **named}
        return requests.post(url, json=body, headers=sent, verify=ready["ca_bundle"], timeout=30)

    def set_faults(self, *faults: dict) -> None:
        self.emulator.admin("PUT", "/admin/faults", list(faults))


@contextmanager
def running(emulator: Emulator, folder: Path, endpoint: str) -> Iterator[Service]:
    """A service on a shared emulator, which is left as it was found."""
    with Variables(emulator.env):
        service = Service(emulator, folder, endpoint)
        yield service
        service.client.online_endpoints.begin_delete(endpoint).wait()

"""What the tests of endpoints and faults share: a small model, and the steps from it to a deployment."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from azure.ai.ml import MLClient
from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, Model, OnlineRequestSettings

SIZE = "Standard_DS3_v2"


def register(client: MLClient, folder: Path, mode: str = "serve") -> str:
    """The id of a registered MLflow model whose own server is tiny_server.py."""
    model = folder / f"model-{mode}"
    model.mkdir()
    shutil.copy(Path(__file__).with_name("tiny_server.py"), model / "tiny_server.py")
    command = f"[python, '{{model}}/tiny_server.py', {mode}]"
    (model / "MLmodel").write_text(f"flavors: {{tiny: {{}}}}\nmetadata: {{serving_command: {command}}}\n")
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

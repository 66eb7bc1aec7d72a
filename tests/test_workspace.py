"""From settings to clients while the cloud's address does not answer, and afterwards."""

import itertools
import os
import subprocess
import sys
from datetime import datetime

import pytest
from azure.ai.ml.entities import AmlCompute, ManagedOnlineEndpoint
from commands import ROOT
from conftest import Emulator

from retune.request import Workspace
from retune_cloud.workspace import portal, workspace_client

# In a process of its own: the SDK asks for the cloud while it is imported for the first time.
AWAY_AND_BACK = """
import os
address = os.environ["ARM_CLOUD_METADATA_URL"]
os.environ["ARM_CLOUD_METADATA_URL"] = "https://localhost:1/metadata/endpoints?api-version=2019-05-01"
from retune_cloud import sdk_errors, workspace
from retune.errors import CloudError
from retune.request import Workspace
from retune_cloud.tracking import load_mlflow, tracking_client
for ask in (workspace.resource_manager, load_mlflow):
    try:
        ask()
    except CloudError as error:
        print(error.code, sdk_errors.is_transient(error))
os.environ["ARM_CLOUD_METADATA_URL"] = address
load_mlflow()
client = workspace.workspace_client(Workspace(emulator=True))
print(client.workspaces.get("local").name, type(tracking_client(client)).__name__)
"""


def test_a_cloud_that_was_away_can_be_used_when_it_is_back(emulator: Emulator) -> None:
    """A named error that a repeat may not meet; neither the SDK's import nor MLflow's is spoilt for the process."""
    done = subprocess.run(
        [sys.executable, "-c", AWAY_AND_BACK], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )

    assert done.stdout.splitlines() == [
        "CloudUnreachable True",
        "CloudUnreachable True",
        "local MlflowClient",
    ], done.stderr


def test_looks_at_an_operation_print_nothing(emulator: Emulator, capfd: pytest.CaptureFixture[str]) -> None:
    """The SDK would print a dot for each, whenever it looks: into a report that is being written, too."""
    endpoints = workspace_client(Workspace(emulator=True)).online_endpoints
    before = len(emulator.admin("GET", "/admin/requests")["value"])

    endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="silent", auth_mode="key")).result()
    endpoints.begin_delete("silent").result()

    calls = emulator.admin("GET", "/admin/requests")["value"][before:]
    assert any("OperationsStatus" in call["path"] for call in calls)
    assert capfd.readouterr().out == ""


def test_an_operation_is_looked_at_again_after_seconds(fresh_emulator: Emulator) -> None:
    """Also where the service does not say when, as Azure's does not; of its own the SDK would take half a minute."""
    fresh_emulator.admin("PUT", "/admin/timing", {"compute_seconds": 3, "retry_after_seconds": 0})

    client = workspace_client(Workspace(emulator=True))
    client.compute.begin_create_or_update(AmlCompute(name="fresh", size="Standard_NC24ads_A100_v4")).result()

    calls = fresh_emulator.admin("GET", "/admin/requests")["value"]
    looks = [datetime.fromisoformat(call["time"]) for call in calls if "/computeOperationsStatus/" in call["path"]]
    between = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(looks)]
    assert between
    assert max(between) < 10


@pytest.mark.usefixtures("emulator")
def test_an_emulator_has_no_portal() -> None:
    """Its metadata names one that nobody can open."""
    assert portal() is None


@pytest.mark.parametrize(
    ("named", "address"),
    [
        ("https://portal.azure.com/", "https://portal.azure.com"),
        ("https://portal.azure.us", "https://portal.azure.us"),
        ("https://portal.azure.local", None),
        ("https://localhost:8443", None),
        ("https://127.0.0.1:8443/", None),
        ("https://azure.localhost", None),
        ("", None),
    ],
)
def test_a_portal_is_one_that_others_can_open(named: str, address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links in a report lead there, and prices count as real."""
    monkeypatch.setattr("retune_cloud.workspace._cloud_details", lambda: {"azure_portal": named})

    assert portal() == address

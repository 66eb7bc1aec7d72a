"""The emulator's ground floor over the wire: sign-in, workspace, registry, compute, storage, assets, start and end."""

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from azure.ai.ml import MLClient, command
from azure.ai.ml.entities import AmlCompute, Data, Environment, Model
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import DefaultAzureCredential
from conftest import QUICK, Emulator

WORKSPACE = (
    "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/local"
    "/providers/Microsoft.MachineLearningServices/workspaces/local"
)


def token(emulator: Emulator) -> str:
    return DefaultAzureCredential().get_token(f"{emulator.ready['url']}/.default").token


def test_sign_in_finds_the_workspace(ml_client: MLClient, emulator: Emulator) -> None:
    """The default credential and a plain MLClient reach the workspace by environment variables alone."""
    workspace = ml_client.workspaces.get("local")

    assert workspace.location == "eastus"
    assert workspace.mlflow_tracking_uri == f"azureml://localhost:{emulator.ready['port']}/mlflow/v2.0{WORKSPACE}"


def test_from_config_finds_the_workspace(emulator: Emulator) -> None:
    """MLClient.from_config works with the config.json in the emulator's home."""
    client = MLClient.from_config(DefaultAzureCredential(), path=str(emulator.home))

    assert client.workspace_name == "local"
    assert client.workspaces.get("local").name == "local"


def test_a_missing_workspace_is_named(emulator: Emulator) -> None:
    """Another workspace name answers 404 in the resource manager's shape, for the workspace and for what is in it."""
    client = emulator.client(workspace_name="elsewhere")
    with pytest.raises(ResourceNotFoundError) as caught:
        client.workspaces.get("elsewhere")

    assert caught.value.error.code == "ResourceNotFound"
    assert "workspaces/elsewhere' under resource group 'local' was not found" in caught.value.message
    with pytest.raises(ResourceNotFoundError, match="workspaces/elsewhere"):
        client.compute.get("any")


def test_no_token_is_refused(emulator: Emulator) -> None:
    """A resource manager call without a token answers 401."""
    status, body = emulator.request("GET", f"{WORKSPACE}?api-version=2024-10-01-preview")

    assert status == 401
    assert body["error"]["code"] == "AuthenticationFailed"


def test_a_token_for_another_audience_is_refused(emulator: Emulator) -> None:
    """A token that was issued for storage does not open the resource manager."""
    foreign = DefaultAzureCredential().get_token("https://storage.azure.com/.default").token
    status, body = emulator.request("GET", f"{WORKSPACE}?api-version=2024-10-01-preview", token=foreign)

    assert status == 401
    assert body["error"]["code"] == "InvalidAuthenticationToken"


def test_a_token_for_the_public_cloud_is_given(emulator: Emulator) -> None:
    """The token that Microsoft's samples ask for first is issued, and opens the resource manager."""
    public = DefaultAzureCredential().get_token("https://management.azure.com/.default").token
    status, body = emulator.request("GET", f"{WORKSPACE}?api-version=2024-10-01-preview", token=public)

    assert (status, body["name"]) == (200, "local")


def test_a_wrong_identity_header_gets_no_token(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token endpoint refuses a stranger's header, and says how to load the variables again."""
    monkeypatch.setenv("IDENTITY_HEADER", "wrong")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")

    with pytest.raises(ClientAuthenticationError, match="python -m azureml_emulator env"):
        DefaultAzureCredential().get_token(f"{emulator.ready['url']}/.default")


def test_an_unknown_route_is_named(emulator: Emulator) -> None:
    """A path that the emulator does not have answers 501 with the path."""
    status, body = emulator.request(
        "GET", f"{WORKSPACE}/featurestores?api-version=2024-10-01-preview", token=token(emulator)
    )

    assert status == 501
    assert f"GET {WORKSPACE}/featurestores" in body["error"]["message"]


@pytest.mark.parametrize(
    ("query", "code", "part"),
    [
        ("?api-version=2019-01-01", "NoRegisteredProviderFound", "'2019-01-01' is not supported"),
        ("", "MissingApiVersionParameter", "api-version query parameter"),
    ],
    ids=["unknown", "missing"],
)
def test_an_unknown_api_version_is_named(emulator: Emulator, query: str, code: str, part: str) -> None:
    """A call with an api-version that the route does not have answers 400."""
    status, body = emulator.request("GET", f"{WORKSPACE}/computes{query}", token=token(emulator))

    assert status == 400
    assert body["error"]["code"] == code
    assert part in body["error"]["message"]


def test_the_latest_registry_model_is_the_archived_one(registry_client: MLClient) -> None:
    """Label latest gives version 15, whose defaults are JSON text with keys that the pipeline does not have."""
    model = registry_client.models.get("Phi-3-mini-4k-instruct", label="latest")

    assert model.version == "15"
    assert model.id == "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/15"
    assert json.loads(model.tags["model_specific_defaults"])["learning_rate_min"] == "5e-7"


def test_the_older_registry_model_has_python_literals(registry_client: MLClient) -> None:
    """Version 14 has allow lists in its tags, written as Python literals."""
    model = registry_client.models.get("Phi-3-mini-4k-instruct", "14")

    assert model.tags["finetune_compute_allow_list"].startswith("['Standard_NC24ads_A100_v4', ")
    assert model.tags["model_specific_defaults"].startswith("{'apply_deepspeed': 'true', ")


def test_system_metadata_is_in_the_rest_answer(emulator: Emulator) -> None:
    """The archived flag and the retirement dates of version 15 can be read from the REST answer."""
    path = WORKSPACE.replace("workspaces/local", "registries/azureml/models/Phi-3-mini-4k-instruct/versions/15")
    url = f"/mferp/managementfrontend{path}?api-version=2021-10-01-dataplanepreview"
    status, body = emulator.request("GET", url, token=token(emulator))

    assert status == 200
    assert body["properties"]["isArchived"] is True
    assert (
        body["properties"]["systemMetadata"]["deprecation"]["finetuneRetirementDate"] == "2025-08-30T00:00:00.000000Z"
    )


def test_a_registry_model_downloads(registry_client: MLClient, tmp_path: Path) -> None:
    """The weights of a registry model come down as files."""
    registry_client.models.download("Phi-4", "8", str(tmp_path))

    assert (tmp_path / "Phi-4" / "8" / "config.json").is_file()


def test_the_pipeline_component_has_its_inputs(registry_client: MLClient) -> None:
    """The chat completion pipeline of the registry comes with its 69 inputs and their limits."""
    component = registry_client.components.get("chat_completion_pipeline", label="latest")

    assert component.id == "azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.82"
    assert len(component.inputs) == 69
    assert list(component.inputs["lr_scheduler_type"].enum)[:2] == ["linear", "cosine"]
    assert list(component.outputs) == ["pytorch_model_folder", "mlflow_model_folder"]


def test_another_registry_is_refused(emulator: Emulator) -> None:
    """A registry that the caller may not use answers 403 at discovery."""
    with pytest.raises(HttpResponseError, match="not allowed to access registry private"):
        emulator.client(registry_name="private")


def test_a_cluster_lives_and_dies(ml_client: MLClient, emulator: Emulator) -> None:
    """A cluster goes from Creating to Succeeded, is found in any case of its name, and is gone after its deletion."""
    emulator.admin("PUT", "/admin/timing", {"compute_seconds": 2})
    poller = ml_client.compute.begin_create_or_update(
        AmlCompute(name="gpu-life", size="Standard_NC24ads_A100_v4", max_instances=2, tier="low_priority")
    )
    state = ml_client.compute.get("gpu-life").provisioning_state
    cluster = poller.result()
    emulator.admin("PUT", "/admin/timing", QUICK)
    found = ml_client.compute.get("GPU-LIFE")
    ml_client.compute.begin_delete("gpu-life").result()

    assert state == "Creating"
    assert cluster.provisioning_state == "Succeeded"
    assert (found.size, found.tier, found.max_instances) == ("STANDARD_NC24ADS_A100_V4", "low_priority", 2)
    assert found.idle_time_before_scale_down == 120
    with pytest.raises(ResourceNotFoundError, match="compute 'gpu-life' does not exist"):
        ml_client.compute.get("gpu-life")


def test_an_unknown_size_is_refused(ml_client: MLClient) -> None:
    """A cluster of a size that the region does not have answers 400 with the size."""
    with pytest.raises(HttpResponseError, match="vmSize 'Standard_Fantasy' is not supported in 'eastus'"):
        ml_client.compute.begin_create_or_update(AmlCompute(name="fantasy", size="Standard_Fantasy")).result()


def test_the_quota_is_kept(ml_client: MLClient, emulator: Emulator) -> None:
    """With a quota of 4 cores a machine of 24 cores is refused with the service's words."""
    emulator.admin("PUT", "/admin/quota", {"StandardNCADSA100v4Family": 4})
    try:
        with pytest.raises(HttpResponseError, match=r"total vCPU quota of 4 .* cannot accomodate"):
            ml_client.compute.begin_create_or_update(AmlCompute(name="big", size="Standard_NC24ads_A100_v4")).result()
    finally:
        emulator.admin("PUT", "/admin/quota", {"default": 100000})


def test_sizes_come_with_gpus_and_prices(ml_client: MLClient) -> None:
    """The size table has the number of GPUs and the price per hour."""
    sizes = {size.name: size for size in ml_client.compute.list_sizes()}

    assert sizes["Standard_NC96ads_A100_v4"].gpus == 4
    assert sizes["Standard_DS3_v2"].gpus == 0


def test_a_data_file_is_uploaded_once(ml_client: MLClient, emulator: Emulator, tmp_path: Path) -> None:
    """The same content is not uploaded again for a second version, and the server answers the long form of its path."""
    file = tmp_path / "once.jsonl"
    file.write_text('{"messages": []}\n')
    first = ml_client.data.create_or_update(Data(name="once", version="1", path=str(file), type="uri_file"))
    second = ml_client.data.create_or_update(Data(name="once", path=str(file), type="uri_file"))
    uploads = [
        line
        for line in emulator.admin("GET", "/admin/requests")["value"]
        if line["method"] == "PUT" and line["path"].endswith("/once.jsonl")
    ]

    assert first.path.startswith("azureml://subscriptions/11111111-1111-1111-1111-111111111111/resourcegroups/local/")
    assert (second.version, second.path) == ("2", first.path)
    assert len(uploads) == 2  # the content, and the mark that it is complete
    assert ml_client.data.get("once", label="latest").version == "2"


def test_a_big_file_goes_up_in_blocks(ml_client: MLClient, tmp_path: Path) -> None:
    """A file above the size of one request is put together from blocks and read back in ranges."""
    from azure.ai.ml._artifacts._artifact_utilities import download_artifact_from_aml_uri

    file = tmp_path / "big.bin"
    content = os.urandom(1 << 20) * 65
    file.write_bytes(content)
    data = ml_client.data.create_or_update(Data(name="big", version="1", path=str(file), type="uri_file"))
    download_artifact_from_aml_uri(data.path, str(tmp_path / "down"), ml_client.datastores)

    assert (tmp_path / "down" / "big.bin").read_bytes() == content


def test_an_mlflow_model_is_registered_and_comes_back(ml_client: MLClient, tmp_path: Path) -> None:
    """A model folder with an empty file is registered with the next version, and downloads whole."""
    folder = model_folder(tmp_path)
    first = ml_client.models.create_or_update(
        Model(name="whole", path=str(folder), type="mlflow_model", tags={"a": "1"})
    )
    second = ml_client.models.create_or_update(Model(name="whole", path=str(folder), type="mlflow_model"))
    ml_client.models.download("whole", "1", str(tmp_path / "down"))

    assert (first.version, second.version) == ("1", "2")
    assert first.flavors == {"python_function": {"loader_module": "nothing"}}
    assert (tmp_path / "down" / "whole" / "model" / "empty").read_bytes() == b""
    assert ml_client.models.get("whole", label="latest").version == "2"


def test_a_model_version_cannot_change_its_files(ml_client: MLClient, tmp_path: Path) -> None:
    """The same version with other files answers 409, with other tags 200."""
    folder = model_folder(tmp_path)
    ml_client.models.create_or_update(Model(name="fixed", version="1", path=str(folder), type="mlflow_model"))
    tagged = ml_client.models.create_or_update(
        Model(name="fixed", version="1", path=str(folder), type="mlflow_model", tags={"run": "7"})
    )
    (folder / "more").write_text("changed")
    other = Model(name="fixed", version="1", path=str(folder), type="mlflow_model")

    assert tagged.tags == {"run": "7"}
    with pytest.raises(ResourceExistsError, match="'fixed' version '1' exists and its modelUri cannot be changed"):
        ml_client.models.create_or_update(other)


def test_a_model_of_a_missing_job_is_refused(ml_client: MLClient) -> None:
    """A model from the output of a job that does not exist answers 404 with the address."""
    with pytest.raises(ResourceNotFoundError, match="azureml://jobs/nobody/outputs/trained_model"):
        path = "azureml://jobs/nobody/outputs/trained_model"
        ml_client.models.create_or_update(Model(name="orphan", version="1", path=path, type="mlflow_model"))


def test_an_archived_version_leaves_the_list(ml_client: MLClient, tmp_path: Path) -> None:
    """An archived model version is not listed any more, and can still be read."""
    folder = model_folder(tmp_path)
    for version in ("1", "2"):
        ml_client.models.create_or_update(Model(name="old", version=version, path=str(folder), type="mlflow_model"))
    ml_client.models.archive("old", version="1")

    assert [model.version for model in ml_client.models.list("old")] == ["2"]
    assert ml_client.models.get("old", "1").version == "1"


def test_a_component_with_code_is_kept(ml_client: MLClient, tmp_path: Path) -> None:
    """A command component uploads its code once and keeps its command; a second equal PUT is the same version."""
    (tmp_path / "main.py").write_text("print('hello')\n")
    node = command(
        name="greet",
        command="python main.py ${{inputs.word}}",
        inputs={"word": "x"},
        environment="azureml:AzureML-minimal:1",
        code=str(tmp_path),
    )
    first = ml_client.components.create_or_update(node.component, version="1")
    second = ml_client.components.create_or_update(node.component, version="1")

    assert first.command == "python main.py ${{inputs.word}}"
    assert first.environment == "azureml://registries/azureml/environments/AzureML-minimal/versions/1"
    assert first.id == second.id
    assert ml_client.components.get("greet", label="latest").version == "1"


def test_an_environment_is_kept(ml_client: MLClient) -> None:
    """An environment is registered and found by its label."""
    ml_client.environments.create_or_update(Environment(name="serving", version="3", image="mcr.example/serving:1"))

    assert ml_client.environments.get("serving", label="latest").image == "mcr.example/serving:1"


def test_storage_needs_a_signature_or_token(emulator: Emulator, ml_client: MLClient) -> None:
    """A blob URL without a signature answers 401."""
    store = ml_client.datastores.get_default()
    import requests

    url = f"https://{store.account_name}.blob.{store.endpoint}/{store.container_name}?restype=container&comp=list"
    answer = requests.get(url, verify=emulator.ready["ca_bundle"], timeout=10)

    assert answer.status_code == 401
    assert answer.headers["x-ms-error-code"] == "NoAuthenticationInformation"


def test_timings_are_checked(emulator: Emulator) -> None:
    """A timing that does not exist is refused with the list of those that do."""
    status, body = emulator.request("PUT", "/admin/timing", token=emulator.ready["admin_token"], content={"speed": 1})

    assert status == 400
    assert "There is no timing 'speed'. The timings are retry_after_seconds," in body["error"]["message"]


def test_what_went_on_can_be_read(fresh_emulator: Emulator) -> None:
    """A cluster's creation, with the time that it took."""
    fresh_emulator.admin("PUT", "/admin/timing", {"compute_seconds": 0.5})
    cluster = AmlCompute(name="timed", size="Standard_DS3_v2")
    fresh_emulator.client().compute.begin_create_or_update(cluster).result(60)
    (work,) = fresh_emulator.admin("GET", "/admin/work")["value"]
    began, ended = (datetime.fromisoformat(work[moment]) for moment in ("started", "ended"))

    assert 0.5 <= (ended - began).total_seconds() < 5


def test_admin_needs_its_token(emulator: Emulator) -> None:
    """Admin routes refuse a caller without the admin token."""
    status, _ = emulator.request("GET", "/admin/requests")

    assert status == 401


def test_the_request_log_holds_no_secret(emulator: Emulator, ml_client: MLClient) -> None:
    """The log has one line a request with method, path and status, and neither signatures nor tokens."""
    ml_client.datastores.get_default(include_secrets=True)
    text = Path(emulator.ready["request_log"]).read_text()

    assert "sig=" not in text
    assert emulator.env["IDENTITY_HEADER"] not in text
    assert set(json.loads(text.splitlines()[0])) == {"time", "method", "path", "api_version", "status", "milliseconds"}


@pytest.mark.parametrize("kill", [False, True], ids=["orderly", "killed"])
def test_a_restart_keeps_the_state(fresh_emulator: Emulator, tmp_path: Path, kill: bool) -> None:
    """After a restart, also by SIGKILL, clusters, models and their files are there on the same port."""
    client = fresh_emulator.client()
    client.compute.begin_create_or_update(AmlCompute(name="kept", size="Standard_DS3_v2")).result()
    client.models.create_or_update(
        Model(name="kept", version="1", path=str(model_folder(tmp_path)), type="mlflow_model")
    )
    port = fresh_emulator.ready["port"]
    fresh_emulator.restart(kill=kill)
    client = fresh_emulator.client()
    client.models.download("kept", "1", str(tmp_path / "down"))

    assert fresh_emulator.ready["port"] == port
    assert client.compute.get("kept").provisioning_state == "Succeeded"
    assert (tmp_path / "down" / "kept" / "model" / "MLmodel").is_file()


def test_an_interrupted_creation_goes_on(fresh_emulator: Emulator) -> None:
    """A cluster that was being created when the emulator was killed is finished by the next start."""
    fresh_emulator.admin("PUT", "/admin/timing", {"compute_seconds": 2})
    poller = fresh_emulator.client().compute.begin_create_or_update(AmlCompute(name="slow", size="Standard_DS3_v2"))
    fresh_emulator.restart(kill=True)

    assert poller.result(60).provisioning_state == "Succeeded"


def test_the_env_command_prints_variables(fresh_emulator: Emulator) -> None:
    """The env command prints export lines of a running emulator, and the way out when none runs."""
    running = run_command("env", "--home", str(fresh_emulator.home))
    fresh_emulator.stop()
    stopped = run_command("env", "--home", str(fresh_emulator.home))

    assert running.returncode == 0
    assert f"export IDENTITY_ENDPOINT='{fresh_emulator.ready['url']}/msi/token'" in running.stdout.splitlines()
    assert stopped.returncode == 1
    assert f"No emulator runs on '{fresh_emulator.home}'. Start one: python -m azureml_emulator" in stopped.stderr


def test_a_home_has_one_emulator(fresh_emulator: Emulator) -> None:
    """A second start on a home that is in use ends with status 2 and names the process."""
    second = run_command("--home", str(fresh_emulator.home))

    assert second.returncode == 2
    assert f"already runs on '{fresh_emulator.home}' (process {fresh_emulator.process.pid})" in second.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_in_order(fresh_emulator: Emulator, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end the emulator with status 0 within 5 seconds and take ready.json away."""
    fresh_emulator.process.send_signal(number)
    status = fresh_emulator.process.wait(5)
    fresh_emulator.close()

    assert status == 0
    assert not (fresh_emulator.home / "ready.json").exists()


def test_it_ends_with_its_standard_input(fresh_emulator: Emulator) -> None:
    """With --stop-with-stdin the emulator ends when its parent's end of the pipe closes."""
    assert fresh_emulator.process.stdin is not None
    fresh_emulator.process.stdin.close()
    status = fresh_emulator.process.wait(5)

    assert status == 0


def model_folder(folder: Path) -> Path:
    """A small MLflow model folder."""
    model = folder / "model"
    model.mkdir()
    (model / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: nothing\n")
    (model / "empty").write_bytes(b"")
    return model


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "azureml_emulator", *arguments]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parent.parent, check=False
    )

"""The way of Microsoft's guide for fine-tuning Phi-3-mini on ultrachat_200k with azure-ai-ml, as a plain program.

    python tests/harness/guide.py DATASET FOLDER ['{"PARAMETER": VALUE, ...}']

One function for each part, in the guide's order; nothing here knows of Retune or of where the calls go. The last line
on stdout is a JSON object with what was seen. After the guide's own steps come calls that its readers try next.
It stops at the first thing that goes wrong, and deletes nothing but its endpoint: it is no example of how to run this.

Source: azureml-examples, sdk/python/foundation-models/system/finetune/chat-completion/chat-completion.ipynb.
"""

import ast
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
from azure.ai.ml import Input, MLClient, command
from azure.ai.ml.dsl import pipeline
from azure.ai.ml.entities import (
    AmlCompute,
    Component,
    Data,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    PipelineJob,
    ProbeSettings,
)
from azure.core.credentials import TokenCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential, InteractiveBrowserCredential
from datasets import get_dataset_split_names, load_dataset

MODEL = "Phi-3-mini-4k-instruct"
EXPERIMENT = f"chat_completion_{MODEL}"
CLUSTER, SIZE = "gpu-cluster-big", "Standard_NC24ads_A100_v4"
# Sizes with K80 cards, which are too old for the training.
TOO_OLD = ("standard_nc6", "standard_nc12", "standard_nc24", "standard_nc24r")
PERCENT = 50
CANCEL_SECONDS = 120


def main(dataset: str, folder: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    credential = sign_in()
    workspace_client = open_workspace(credential)
    registry_client = MLClient(credential, registry_name="azureml")
    timestamp = str(int(time.time()))

    base = registry_client.models.get(MODEL, label="latest")
    print(f"\n\nUsing model name: {base.name}, version: {base.version}, id: {base.id} for fine tuning")
    cluster = get_or_create_cluster(workspace_client)
    check_cluster(cluster, base)
    gpus = count_gpus(workspace_client, cluster.size)

    files = download_dataset(dataset, folder / "ultrachat_200k_dataset")
    parameters = choose_parameters(base, registry_client, overrides)
    job = build_job(registry_client, base, files, parameters, gpus)
    submitted = workspace_client.jobs.create_or_update(job, experiment_name=EXPERIMENT)
    workspace_client.jobs.stream(submitted.name)

    metrics = read_metrics(workspace_client, submitted.name)
    registered = register(workspace_client, submitted.name, f"{MODEL}-ultrachat-200k", timestamp)
    endpoint = f"ultrachat-completion-{timestamp}"
    deploy(workspace_client, endpoint, registered, base)
    answer = ask(workspace_client, endpoint, files["test_gen"], folder / "sample_score.json")
    logs = workspace_client.online_deployments.get_logs("demo", endpoint, lines=50)
    keys = workspace_client.online_endpoints.get_keys(endpoint)
    workspace_client.online_endpoints.begin_delete(name=endpoint).wait()

    return {
        "job": submitted.name,
        "status": workspace_client.jobs.get(submitted.name).status,
        "display_name": job.display_name,
        "metrics": metrics,
        "registered": [registered.name, registered.version],
        "endpoint": endpoint,
        "answer": answer,
        "log_lines": len(logs.splitlines()),
        "keys": [bool(keys.primary_key), bool(keys.secondary_key), keys.primary_key != keys.secondary_key],
        **look_around(workspace_client, submitted.name, registered.name, files["train_sft"], folder, timestamp),
        **cancel_another(workspace_client, build_job(registry_client, base, files, parameters, gpus), folder),
    }


def sign_in() -> TokenCredential:
    """The default chain if it gives a token, else the browser."""
    credential = DefaultAzureCredential()
    try:
        credential.get_token("https://management.azure.com/.default")
    except ClientAuthenticationError:
        return InteractiveBrowserCredential()
    return credential


def open_workspace(credential: TokenCredential) -> MLClient:
    """The workspace that a config.json names, else the one given here."""
    try:
        return MLClient.from_config(credential)
    except Exception as error:
        print(f"No config.json: {type(error).__name__}")
    return MLClient(
        credential,
        os.environ["AZURE_SUBSCRIPTION_ID"],
        os.environ["AZURE_RESOURCE_GROUP"],
        os.environ["AZURE_WORKSPACE_NAME"],
    )


def get_or_create_cluster(client: MLClient) -> AmlCompute:
    """The cluster; when it is missing, a dedicated one, and a low-priority one where that is refused."""
    try:
        return client.compute.get(CLUSTER)
    except ResourceNotFoundError:
        print(f"Creating {CLUSTER}")
    for tier in ("Dedicated", "LowPriority"):
        try:
            client.compute.begin_create_or_update(
                AmlCompute(name=CLUSTER, size=SIZE, tier=tier, max_instances=2)
            ).wait()
            return client.compute.get(CLUSTER)
        except HttpResponseError as error:
            print(f"No {tier} cluster: {error.message}")
    raise ValueError(f"Size {SIZE} is not available in workspace {client.workspace_name}")


def check_cluster(cluster: AmlCompute, base: Model) -> None:
    """The model's own list decides where it has one, else the sizes known to be too old are refused."""
    if cluster.provisioning_state.lower() == "failed":
        raise ValueError(f"Cluster {cluster.name} could not be provisioned")
    allowed = base.tags.get("finetune_compute_allow_list")
    if allowed:
        if cluster.size.lower() not in [size.lower() for size in ast.literal_eval(allowed)]:
            raise ValueError(f"Size {cluster.size} is not one of {allowed}")
    elif cluster.size.lower() in TOO_OLD:
        raise ValueError(f"Size {cluster.size} has cards that are too old")
    else:
        print("The model names no sizes for fine-tuning")


def count_gpus(client: MLClient, size: str) -> int:
    """GPUs in one machine of that size."""
    for known in client.compute.list_sizes():
        if known.name.lower() == size.lower():
            return known.gpus
    raise ValueError(f"Size {size} is not known")


def download_dataset(name: str, folder: Path) -> dict[str, Path]:
    """A file of JSON lines for each split, with its first percents."""
    folder.mkdir(parents=True)
    files = {}
    for split in get_dataset_split_names(name):
        rows = load_dataset(name, split=f"{split}[0%:{PERCENT}%]", cache_dir=str(folder / "cache"))
        files[split] = folder / f"{split}.jsonl"
        rows.to_json(files[split])
    return files


def choose_parameters(base: Model, registry_client: MLClient, overrides: dict[str, Any]) -> dict[str, Any]:
    """Training and optimisation parameters, with the model's own over them and the caller's over those."""
    training = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "learning_rate": 5e-6,
        "lr_scheduler_type": "cosine",
    }
    optimisation = {"apply_lora": "true", "apply_deepspeed": "true", "deepspeed_stage": 2}
    own = ast.literal_eval(base.tags.get("model_specific_defaults", "{}"))
    known = registry_client.components.get("chat_completion_pipeline", label="latest").inputs
    chosen = {**training, **optimisation, **own, **overrides}
    # The model of today has a range for the learning rate among its defaults, which the component refuses.
    print("Not inputs of the component:", sorted(set(chosen) - set(known)))
    return {name: value for name, value in chosen.items() if name in known}


def display_name(parameters: dict[str, Any], gpus: int) -> str:
    """What tells runs apart in the studio."""
    batch = parameters["per_device_train_batch_size"] * parameters.get("gradient_accumulation_steps", 1) * gpus
    deepspeed = f"ds{parameters['deepspeed_stage']}" if parameters["apply_deepspeed"] == "true" else "nods"
    lora = "lora" if parameters["apply_lora"] == "true" else "nolora"
    kept, length = parameters.get("save_total_limit", -1), parameters.get("max_seq_length", -1)
    scheduler = parameters["lr_scheduler_type"]
    return f"{MODEL}-ultrachat-bs{batch}-{scheduler}-{deepspeed}-{lora}-save_limit{kept}-seqlen{length}"


def build_job(
    registry_client: MLClient, base: Model, files: dict[str, Path], parameters: dict[str, Any], gpus: int
) -> PipelineJob:
    """One node of the registry's component, all of it on the cluster."""
    component = registry_client.components.get(name="chat_completion_pipeline", label="latest")

    @pipeline(name=display_name(parameters, gpus))
    def create_pipeline() -> dict[str, Any]:
        chat_completion = component(
            mlflow_model_path=base.id,
            compute_model_import=CLUSTER,
            compute_preprocess=CLUSTER,
            compute_finetune=CLUSTER,
            compute_model_evaluation=CLUSTER,
            train_file_path=Input(type="uri_file", path=str(files["train_sft"])),
            test_file_path=Input(type="uri_file", path=str(files["test_sft"])),
            number_of_gpu_to_use_finetuning=gpus,
            **parameters,
        )
        return {"trained_model": chat_completion.outputs.mlflow_model_folder}

    job = create_pipeline()
    job.settings.force_rerun = True
    job.settings.continue_on_step_failure = False
    return job


def read_metrics(client: MLClient, job: str) -> dict[str, float]:
    """The metrics of the job's run that trained: the one with an epoch among them."""
    mlflow.set_tracking_uri(client.workspaces.get(client.workspace_name).mlflow_tracking_uri)
    runs = mlflow.search_runs(
        experiment_names=[EXPERIMENT], filter_string=f"tags.mlflow.rootRunId='{job}'", output_format="list"
    )
    trained = [run for run in runs if "epoch" in run.data.metrics]
    return trained[0].data.metrics


def register(client: MLClient, job: str, name: str, version: str) -> Model:
    """The job's output as a model of the workspace."""
    prepared = Model(
        path=f"azureml://jobs/{job}/outputs/trained_model",
        type="mlflow_model",
        name=name.replace("/", "-"),
        version=version,
        description=f"{MODEL} after fine-tuning on chats",
    )
    return client.models.create_or_update(prepared)


def deploy(client: MLClient, endpoint_name: str, registered: Model, base: Model) -> None:
    """An endpoint whose whole traffic goes to one deployment of the model."""
    endpoint = ManagedOnlineEndpoint(name=endpoint_name, description=f"Endpoint of {registered.name}", auth_mode="key")
    client.begin_create_or_update(endpoint).wait()
    allowed = base.tags.get("inference_compute_allow_list")
    if allowed and SIZE not in ast.literal_eval(allowed):
        print(f"{SIZE} is not one of {allowed}")
    deployment = ManagedOnlineDeployment(
        name="demo",
        endpoint_name=endpoint_name,
        model=registered.id,
        instance_type=SIZE,
        instance_count=1,
        liveness_probe=ProbeSettings(initial_delay=600),
        request_settings=OnlineRequestSettings(request_timeout_ms=90000),
    )
    client.online_deployments.begin_create_or_update(deployment).wait()
    endpoint.traffic = {"demo": 100}
    client.begin_create_or_update(endpoint).result()


def ask(client: MLClient, endpoint: str, file: Path, request_file: Path) -> str:
    """The endpoint's raw answer to one row of the test split."""
    row = json.loads(random.choice(file.read_text(encoding="utf-8").splitlines()))
    conversation = row["messages"][:-1] if row["messages"][-1]["role"] == "assistant" else row["messages"]
    parameters = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_new_tokens": 200}
    request = {"input_data": {"input_string": [conversation], "parameters": parameters}, "params": {}}
    request_file.write_text(json.dumps(request), encoding="utf-8")
    return client.online_endpoints.invoke(
        endpoint_name=endpoint, deployment_name="demo", request_file=str(request_file)
    )


def look_around(
    client: MLClient, job: str, model: str, data_file: Path, folder: Path, timestamp: str
) -> dict[str, Any]:
    """What a reader of the guide calls next: lists, assets of the workspace's own, the job's files."""
    shout = command(
        name="shout",
        version=timestamp,
        command="echo ${{inputs.word}} | tr a-z A-Z",
        environment="azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112",
        inputs={"word": Input(type="string", default="hello")},
    ).component
    component: Component = client.components.create_or_update(shout, version=timestamp)
    data = client.data.create_or_update(
        Data(name="ultrachat-train", version=timestamp, type="uri_file", path=str(data_file))
    )
    # With all=True the SDK (1.35.2) ends in a TypeError of its own for a job that has a model among its outputs.
    client.jobs.download(job, download_path=folder / "job")
    files = [path.relative_to(folder / "job").as_posix() for path in (folder / "job").rglob("*") if path.is_file()]
    return {
        "jobs": [found.name for found in client.jobs.list()],
        "models": [found.name for found in client.models.list()],
        "latest_model": client.models.get(model, label="latest").version,
        "component": [component.name, component.version],
        "components": [found.name for found in client.components.list()],
        "component_inputs": list(client.components.get("shout", version=timestamp).inputs),
        "data": [data.name, data.version],
        "data_type": client.data.get("ultrachat-train", version=timestamp).type,
        "data_versions": [found.version for found in client.data.list(name="ultrachat-train")],
        "clusters": [found.name for found in client.compute.list()],
        "downloaded": sorted(files),
    }


def cancel_another(client: MLClient, job: PipelineJob, folder: Path) -> dict[str, Any]:
    """A second job of the same kind, cancelled once it runs, and what it left."""
    submitted = client.jobs.create_or_update(job, experiment_name=EXPERIMENT)
    deadline = time.monotonic() + CANCEL_SECONDS
    while client.jobs.get(submitted.name).status != "Running" and time.monotonic() < deadline:
        time.sleep(0.2)
    client.jobs.begin_cancel(submitted.name).wait()
    while (status := client.jobs.get(submitted.name).status) != "Canceled" and time.monotonic() < deadline:
        time.sleep(0.2)
    client.jobs.download(submitted.name, download_path=folder / "cancelled")
    return {"cancelled_job": submitted.name, "cancelled_status": status}


if __name__ == "__main__":
    arguments = [*sys.argv[1:], "{}"]
    print(json.dumps(main(arguments[0], Path(arguments[1]), json.loads(arguments[2]))))

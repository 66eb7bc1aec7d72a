"""Serves many whole runs with one emulator and shows that it does not grow: `python tests/soak.py --runs 50`.

A run: upload a data asset, submit a job that reads it, wait, register a model, deploy and score it, delete the
endpoint, see the 404; with the real SDK and a client of its own. A line a run tells what the emulator then holds. The
exit status is 1 when it grew: file descriptors, connections, threads or children above those of the first five runs
in each of the last five, or resident memory beyond 120 % of that after the fifth run. MLflow's process is shown, not
judged.
"""

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil
import requests

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

EARLY = 5
MEMORY_FACTOR = 1.2
DEADLINE_SECONDS = 120
END_SECONDS = 15
ROWS = 200
JOB_ENVIRONMENT = "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112"
QUICK = {
    "retry_after_seconds": 0.1,
    "queue_seconds": 0.05,
    "prepare_seconds": 0.05,
    "finalize_seconds": 0.05,
    "endpoint_seconds": 0.1,
    "deployment_seconds": 0.1,
    "delete_seconds": 0.1,
}


@dataclass(frozen=True)
class Held:
    """What the emulator's process holds after a run; `fds` without connections; memory in MB."""

    fds: int
    connections: int
    threads: int
    children: int
    memory: float
    mlflow_memory: float


def main() -> int:
    """The exit status: 0 when nothing grew."""
    parser = argparse.ArgumentParser(description="Runs one emulator through many whole runs.")
    parser.add_argument("--runs", type=int, default=50, help=f"how many, at least {2 * EARLY} (default: %(default)s)")
    parser.add_argument("--home", type=Path, help="a new folder to keep (default: a temporary one, deleted)")
    options = parser.parse_args()
    if options.runs < 2 * EARLY:
        parser.error(f"--runs must be at least {2 * EARLY}: the first {EARLY} are the measure of the last {EARLY}.")
    home = options.home or Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        held = soak(options.runs, home)
    finally:
        if options.home is None:
            shutil.rmtree(home, ignore_errors=True)
    breaches = growth(held)
    print("\n".join(breaches) or "no growth")
    return 1 if breaches else 0


def soak(runs: int, home: Path) -> list[Held]:
    """What the emulator held after each run."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "emulator.log").open("ab") as log:
        process, ready = start(home, log)
        try:
            os.environ |= ready["env"]
            call_admin(ready, "PUT", "/admin/timing", QUICK)
            files = Files(home / "files")
            print(" run   fds  connections  threads  children   RSS MB  MLflow MB  seconds")
            return [measured_run(number, ready, files) for number in range(1, runs + 1)]
        finally:
            end(process)


def start(home: Path, log: IO[bytes]) -> tuple[subprocess.Popen[str], dict]:
    """A started emulator and its ready line."""
    command = [sys.executable, "-m", "azureml_emulator", "--home", str(home / "emulator"), "--stop-with-stdin"]
    place = Path(__file__).parent.parent
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=place, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"The emulator did not start. Its log: {log.name}")
    return process, json.loads(line)


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_SECONDS)


def call_admin(ready: dict, method: str, path: str, content: object = None) -> object:
    headers = {"Authorization": f"Bearer {ready['admin_token']}"}
    answer = requests.request(
        method, ready["url"] + path, headers=headers, json=content, verify=ready["ca_bundle"], timeout=60
    )
    answer.raise_for_status()
    return answer.json() if answer.content else None


class Files:
    """The folder of what a run uploads: rows that differ from run to run, and a model with its own tiny server."""

    def __init__(self, folder: Path) -> None:
        self.model = folder / "model"
        self.rows = folder / "rows.jsonl"
        self.model.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("tiny_server.py"), self.model / "tiny_server.py")
        command = "[python, '{model}/tiny_server.py', serve]"
        (self.model / "MLmodel").write_text(f"flavors: {{tiny: {{}}}}\nmetadata: {{serving_command: {command}}}\n")

    def write(self, number: int) -> None:
        row = json.dumps({"messages": [{"role": "user", "content": f"run {number}"}]})
        self.rows.write_text(f"{row}\n" * ROWS)
        (self.model / "number.txt").write_text(str(number))


def measured_run(number: int, ready: dict, files: Files) -> Held:
    """What the emulator holds after one run; prints the line."""
    started = time.monotonic()
    files.write(number)
    # The SDK draws its progress on standard output.
    with redirect_stdout(sys.stderr):
        one_run(number, ready, files)
    seconds = time.monotonic() - started
    # The SDK's clients are never closed; their connections end with the objects.
    gc.collect()
    held = look(ready["pid"])
    print(
        f"{number:4} {held.fds:5} {held.connections:12} {held.threads:8} {held.children:9} "
        f"{held.memory:8.1f} {held.mlflow_memory:10.1f} {seconds:8.1f}",
        flush=True,
    )
    return held


def one_run(number: int, ready: dict, files: Files) -> None:
    """One whole run with a client of its own. Raises: AssertionError when a step does not do what it should."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    place = (ready["subscription_id"], ready["resource_group"], ready["workspace_name"])
    client = MLClient(DefaultAzureCredential(), *place, enable_telemetry=False)
    train(client, number, files)
    endpoint = f"soak-{number}"
    deploy(client, number, endpoint, files)
    key = client.online_endpoints.get_keys(endpoint).primary_key
    address = f"{ready['url']}/scoring/{endpoint}/score"
    headers = {"Authorization": f"Bearer {key}"}
    answer = requests.post(address, json={}, headers=headers, verify=ready["ca_bundle"], timeout=30)
    assert answer.status_code == 200, answer.text
    client.online_endpoints.begin_delete(endpoint).wait(DEADLINE_SECONDS)
    check_gone(client, endpoint)


def train(client: "MLClient", number: int, files: Files) -> None:
    """Uploads the rows and waits for a job that counts them."""
    from azure.ai.ml import Input, command
    from azure.ai.ml.entities import Data

    data = client.data.create_or_update(Data(name="rows", version=str(number), path=files.rows, type="uri_file"))
    job = command(
        command="wc -l ${{inputs.rows}}; test $(wc -l < ${{inputs.rows}}) = " + str(ROWS),
        inputs={"rows": Input(type="uri_file", path=data.id)},
        environment=JOB_ENVIRONMENT,
        instance_type="Standard_DS3_v2",
    )
    name, deadline = client.jobs.create_or_update(job).name, time.monotonic() + DEADLINE_SECONDS
    while (status := client.jobs.get(name).status) not in ("Completed", "Failed", "Canceled"):
        assert time.monotonic() < deadline, f"Job {name} is {status} after {DEADLINE_SECONDS} s."
        time.sleep(0.2)
    assert status == "Completed", f"Job {name} is {status}."


def deploy(client: "MLClient", number: int, endpoint: str, files: Files) -> None:
    """Registers the model and serves it with all traffic."""
    from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, Model

    model = client.models.create_or_update(
        Model(name="tiny", version=str(number), path=files.model, type="mlflow_model")
    )
    made = ManagedOnlineEndpoint(name=endpoint, auth_mode="key")
    client.online_endpoints.begin_create_or_update(made).result(DEADLINE_SECONDS)
    deployment = ManagedOnlineDeployment(
        name="blue", endpoint_name=endpoint, model=model.id, instance_type="Standard_DS3_v2", instance_count=1
    )
    client.online_deployments.begin_create_or_update(deployment).result(DEADLINE_SECONDS)
    made = client.online_endpoints.get(endpoint)
    made.traffic = {"blue": 100}
    client.online_endpoints.begin_create_or_update(made).result(DEADLINE_SECONDS)


def check_gone(client: "MLClient", endpoint: str) -> None:
    """Raises: AssertionError when the endpoint is still found."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        client.online_endpoints.get(endpoint)
    except ResourceNotFoundError:
        return
    raise AssertionError(f"Endpoint {endpoint} is still found after its deletion.")


def look(pid: int) -> Held:
    """What a process holds now."""
    emulator = psutil.Process(pid)
    children = emulator.children(recursive=True)
    # The supervisor of MLflow's process has the same words in its command line and is the smaller one.
    mlflow = [child.memory_info().rss for child in children if "azureml_emulator.mlflow_server" in child.cmdline()]
    connections = [one for one in emulator.net_connections("tcp") if one.status != psutil.CONN_LISTEN]
    return Held(
        fds=emulator.num_fds() - len(connections),
        connections=len(connections),
        threads=emulator.num_threads(),
        children=len(children),
        memory=emulator.memory_info().rss / 1e6,
        mlflow_memory=max(mlflow, default=0) / 1e6,
    )


def growth(held: list[Held]) -> list[str]:
    """What grew, in words."""
    early, late = held[:EARLY], held[-EARLY:]
    breaches = []
    for name in ("fds", "connections", "threads", "children"):
        before, after = max(getattr(one, name) for one in early), min(getattr(one, name) for one in late)
        if after > before:
            breaches.append(f"GROWTH: {name}: at most {before} in the first {EARLY} runs, at least {after} in the last")
    limit, most = early[-1].memory * MEMORY_FACTOR, max(one.memory for one in held[EARLY:])
    if most > limit:
        breaches.append(f"GROWTH: resident memory: {early[-1].memory:.1f} MB after run {EARLY}, then up to {most:.1f}")
    return breaches


if __name__ == "__main__":
    sys.exit(main())

"""What is in one emulator's workspace, asked with the real SDK: the only witness of a trial's remains in the cloud.

    python tests/harness/chaos_cloud.py        (started by chaos_stage.py with the emulator's variables)

A process of its own for each emulator, because the SDK reads the cloud's address from the environment. Questions come
as lines of JSON on stdin, answers go as lines of JSON to stdout; it ends with its stdin.
"""

import contextlib
import hashlib
import json
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from chaos_decoys import decoys, end_decoys, make_decoys, read_decoys

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

KEY_TAG, ATTEMPT_TAG = "retune.key", "retune.attempt"
OUTPUT = "trained_model"
ROLES = ("train", "validation", "test")


def look(client: "MLClient", key: str) -> dict[str, object]:
    """Everything that carries a run's key."""
    jobs = [read_job(job) for job in client.jobs.list(tag=f"{KEY_TAG}={key}")]
    return {
        "jobs": jobs,
        "endpoints": [one for one in read_endpoints(client) if one["key"] == key],
        "models": list(compare_models(client, key)),
        "data": [data_digests(client, job["name"]) for job in jobs],
    }


def look_around(client: "MLClient") -> dict[str, object]:
    """Everything that is no decoy: names of all endpoints, and of jobs that still go on or have no key."""
    known = {name for name, _ in decoys()}
    jobs = [read_job(job) for job in client.jobs.list() if job.name not in known]
    return {
        "endpoints": [one["name"] for one in read_endpoints(client) if one["name"] not in known],
        "active": [job["name"] for job in jobs if job["active"]],
        "foreign": [job["name"] for job in jobs if not job["key"]],
    }


def read_job(job: object) -> dict[str, object]:
    """What counts of a job. The SDK does not tell when it ended; the emulator's own record does."""
    status = job.status.value if isinstance(job.status, Enum) else str(job.status)
    record = Path(os.environ["CHAOS_HOME"]) / "documents" / "runs" / f"{job.name}.json"
    return {
        "name": job.name,
        "key": job.tags.get(KEY_TAG),
        "attempt": job.tags.get(ATTEMPT_TAG),
        "status": status,
        "active": status not in ("Completed", "Failed", "Canceled"),
        "created": job.creation_context.created_at.isoformat(),
        "ended": json.loads(record.read_text(encoding="utf-8"))["document"]["ended"],
    }


def read_endpoints(client: "MLClient") -> Iterator[dict[str, object]]:
    """All endpoints; those with a key also with their deployments."""
    from azure.core.exceptions import ResourceNotFoundError

    for endpoint in list(client.online_endpoints.list()):
        key, deployments = (endpoint.tags or {}).get(KEY_TAG), []
        if key:
            # A sweep may delete it while we look.
            with contextlib.suppress(ResourceNotFoundError):
                deployments = [one.name for one in client.online_deployments.list(endpoint.name)]
        yield {"name": endpoint.name, "key": key, "state": endpoint.provisioning_state, "deployments": deployments}


def compare_models(client: "MLClient", key: str) -> Iterator[dict[str, object]]:
    """The versions of the trial's model, each with whether its files are those of its job's output."""
    for version in client.models.list(name=key):
        model = client.models.get(key, version=version.version)
        job = model.tags["job"]
        with tempfile.TemporaryDirectory(prefix="chaos-model-") as folder:
            client.models.download(model.name, model.version, folder)
            registered = digests(Path(folder))
        # The SDK's jobs.download fails for outputs that are models.
        made = digests(stored(f"azureml/{job}/{OUTPUT}"))
        yield {
            "version": model.version,
            "job": job,
            "files": len(registered),
            "same": bool(made) and registered == made,
        }


def digests(folder: Path | None) -> list[str]:
    """SHA-256 and name of every file of the model in a folder, sorted; empty when there is none."""
    roots = [file.parent for file in folder.rglob("MLmodel")] if folder else []
    return sorted(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(root)}"
        for root in roots
        for path in root.rglob("*")
        if path.is_file()
    )


def stored(path: str) -> Path | None:
    """A file or folder of the default datastore: the emulator's storage is plain files."""
    return next(Path(os.environ["CHAOS_HOME"]).glob(f"blobs/azureml-blobstore-*/{path}"), None)


def data_digests(client: "MLClient", job: str) -> dict[str, str | None]:
    """SHA-256 of the files that a job was given, by role; None for one that is not in the storage."""
    inputs = client.jobs.get(job).inputs
    found: dict[str, str | None] = {}
    for role in ROLES:
        name, _, version = str(inputs[f"{role}_file_path"].path).rpartition(":")
        file = stored(str(client.data.get(name, version=version).path).partition("/paths/")[2])
        found[role] = hashlib.sha256(file.read_bytes()).hexdigest() if file else None
    return found


QUESTIONS = {
    "look": look,
    "look_around": look_around,
    "make_decoys": make_decoys,
    "read_decoys": read_decoys,
    "end_decoys": end_decoys,
}


def main() -> None:
    """Answer until stdin ends. An error is an answer too: the harness counts it as a breach."""
    answers, sys.stdout = sys.stdout, sys.stderr
    from azure.ai.ml import MLClient
    from azure.ai.ml.exceptions import MlException
    from azure.core.exceptions import AzureError
    from azure.identity import DefaultAzureCredential

    logging.getLogger("azure.ai.ml").setLevel(logging.ERROR)
    place = [os.environ[f"AZURE_{name}"] for name in ("SUBSCRIPTION_ID", "RESOURCE_GROUP", "WORKSPACE_NAME")]
    client = MLClient(DefaultAzureCredential(), *place, enable_telemetry=False, show_progress=False)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = {"answer": QUESTIONS[question["ask"]](client, *question["arguments"])}
        except (AzureError, MlException, OSError, LookupError, RuntimeError, TypeError, ValueError) as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""Other people's endpoints and jobs, many of them look-alikes of Retune's own, which no run and no sweep may touch."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

ENVIRONMENT = "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112"
PAST, FUTURE = "2020-01-01T00:00:00.000+00:00", "2999-01-01T00:00:00.000+00:00"
LAPSED = {"retune.expires": PAST, "retune.lease.00000000": f"{PAST}/{PAST} nobody"}
OURS = {"owner": "retune", "retune.key": "decoy", "retune.attempt": "1"}
# Tags that are almost those of a dead run.
TAGS: list[dict[str, str]] = [
    {},
    {"owner": "retune"},
    {"owner": "retune", **LAPSED},
    {"owner": "someone", "retune.key": "decoy", "retune.attempt": "1", **LAPSED},
    {"owner": "Retune", "retune.key": "decoy", "retune.attempt": "1", **LAPSED},
    {"owner": "RETUNE", "RETUNE.KEY": "decoy", "RETUNE.ATTEMPT": "1", "RETUNE.EXPIRES": PAST},
    {"team": "retune", "retune.key": "decoy", "retune.attempt": "1", **LAPSED},
    {"owner": "retune", "retune.key": "decoy", **LAPSED},
    {"owner": "retune", "retune.key": "no key!", "retune.attempt": "1", **LAPSED},
    {**OURS, "retune.expires": FUTURE, "retune.lease.00000000": f"{PAST}/{FUTURE} somebody"},
]
NAMES = ("proper", "free")
RUNNING = 5
NEVER_ENDS = "sleep 86400"


def decoy_name(form: str, number: int) -> str:
    """A name as Retune makes them, or one that only begins so; no two alike."""
    if form == "proper":
        return f"retune-{hashlib.sha256(f'decoy {number}'.encode()).hexdigest()[:16]}-1"
    return f"retune-decoy-{number}"


def decoys() -> list[tuple[str, dict[str, str]]]:
    """Name and tags of all twenty."""
    forms = [(form, tags) for form in NAMES for tags in TAGS]
    return [(decoy_name(form, number), tags) for number, (form, tags) in enumerate(forms)]


def make_decoys(client: "MLClient") -> None:
    """Twenty endpoints and twenty jobs, some of which go on running."""
    from azure.ai.ml import command
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    made = [
        client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key", tags=tags))
        for name, tags in decoys()
    ]
    for number, (name, tags) in enumerate(decoys()):
        line = NEVER_ENDS if number % (20 // RUNNING) == 0 else "true"
        job = command(name=name, command=line, environment=ENVIRONMENT, instance_type="Standard_DS3_v2", tags=tags)
        client.jobs.create_or_update(job)
    for poller in made:
        poller.result(60)


def read_decoys(client: "MLClient") -> dict[str, str]:
    """Everything of a decoy that must stay, by kind and name."""
    found = {}
    for name, _ in decoys():
        endpoint = client.online_endpoints.get(name)
        found[f"endpoint {name}"] = f"{endpoint.provisioning_state} {sorted(endpoint.tags.items())} {endpoint.traffic}"
        job = client.jobs.get(name)
        state = "active" if job.status not in ("Completed", "Failed", "Canceled", "CancelRequested") else job.status
        found[f"job {name}"] = f"{state} {sorted(job.tags.items())} {job.creation_context.created_at}"
    return found


def end_decoys(client: "MLClient") -> None:
    """Ask for the end of those that run."""
    for name, _ in decoys():
        if client.jobs.get(name).status not in ("Completed", "Failed", "Canceled", "CancelRequested"):
            client.jobs.begin_cancel(name)

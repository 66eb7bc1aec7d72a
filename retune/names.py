"""Every Azure name and tag of a run, derived in one place from the run's key and attempt.

The same key and attempt give the same names on any machine, so a name is a lock that the service keeps.
"""

import hashlib
import json
from datetime import UTC, datetime, timedelta

from retune.request import Request

OWNER = "retune"


def job_name(key: str, attempt: int) -> str:
    """Name of the training job, e.g. `retune-nightly-2026-11-21-1`."""
    return f"retune-{key}-{attempt}"


def endpoint_name(key: str, attempt: int) -> str:
    """Name of the endpoint: unique in the region with near certainty and within Azure's 32 characters."""
    return f"retune-{hashlib.sha256(key.encode()).hexdigest()[:16]}-{attempt}"


def registered_model_name(request: Request) -> str:
    """Name of the registered model, e.g. `Phi-4-ultrachat_200k`."""
    data = request.data.source.rstrip("/").rsplit("/", 1)[-1]
    return request.model.registered_name or f"{request.model.name}-{data}"


def model_version(created: datetime, key: str, attempt: int) -> str:
    """Version of the registered model: when its job was made, and for which run; the same for a repeat."""
    return f"{created.astimezone(UTC):%Y%m%d%H%M%S}-{hashlib.sha256(f'{key}-{attempt}'.encode()).hexdigest()[:6]}"


def request_digest(request: Request) -> str:
    """Twelve hex digits of what the run was asked to do, waits left out."""
    asked = request.model_dump(mode="json", exclude={"limits", "workspace"})
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def tags(key: str, attempt: int) -> dict[str, str]:
    """Tags that mark a resource as this run's."""
    return {"owner": OWNER, "retune.key": key, "retune.attempt": str(attempt)}


def expiry_tag(hours: float) -> dict[str, str]:
    """Tag with the moment, UTC, after which an endpoint counts as left behind."""
    return {"retune.expires": (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds")}

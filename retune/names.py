"""Every Azure name and tag of a run, derived in one place from the run's key and attempt.

The same key and attempt give the same names on any machine, so a name is a lock that the service keeps; an endpoint's
name belongs to one execution of the run alone.
"""

import hashlib
import os
import re
import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pydantic import ValidationError

from retune.report import Decision
from retune.request import RUN_KEY, Request

OWNER = "retune"
KEY_TAG = "retune.key"
ATTEMPT_TAG = "retune.attempt"
EXPIRES_TAG = "retune.expires"
KEPT_TAG = "retune.kept"
LEASE_TAG = "retune.lease."
HOLDER_TAG = "retune.holder"
DATA_TAG = "retune.data"
TRAINING_DIGEST_TAG = "retune.made_from"
ANSWERED_TAG = "retune.answered"
DECISION_TAG = "retune.decision"
REQUEST_PROPERTY = "retune.request."
# Source: resource-limits documentation, values of a job's properties.
PROPERTY_LENGTH = 1000
# With a role or a model's name beside it, it stays within the 255 characters of an asset's name.
DATA_NAME_LENGTH = 100


def job_name(key: str, attempt: int) -> str:
    """Name of the training job, e.g. `retune-nightly-2026-11-21-1`."""
    return f"retune-{key}-{attempt}"


def endpoint_name(workspace_id: str, key: str, attempt: int, holder: str) -> str:
    """Name of the endpoint that one execution of the run creates, within Azure's 32 characters.

    Endpoint names are shared by all customers in a region, and others have a run `nightly` too: hence the workspace.
    Each execution has its own endpoint, so late requests of a dead execution or its guard cannot affect the current
    endpoint.
    """
    run, start = (hashlib.sha256(text.encode()).hexdigest() for text in (f"{workspace_id.lower()}\n{key}", holder))
    return f"retune-{run[:10]}-{start[:8]}-{attempt}"


def registered_model_name(request: Request) -> str:
    """Name of the registered model, e.g. `Phi-4-ultrachat_200k`."""
    return request.model.registered_name or f"{request.model.name}-{data_name(request.data.source)}"


def data_name(source: str) -> str:
    """Last part of a data source as part of an asset's name, e.g. `ultrachat_200k`, or `chats` of `azureml:chats:3`."""
    asset = re.fullmatch(r"azureml:([^:@/]+)[:@].+", source)
    last = asset[1] if asset else source.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^a-zA-Z0-9_-]+", "-", last)[:DATA_NAME_LENGTH].strip("-_") or "data"


def run_title(request: Request) -> str:
    """What a run is about, for people, e.g. `Phi-4 on ultrachat_200k`."""
    return f"{request.model.name} on {data_name(request.data.source)}"


def data_asset_name(source: str, role: str) -> str:
    """Name of the data asset with one prepared file of a source, e.g. `ultrachat_200k-train`."""
    return f"{data_name(source)}-{role}"


def data_asset_version(sha256: str) -> str:
    """Version of a data asset: its file's content, so that the same rows are the same version on any machine."""
    return f"sha256-{sha256[:16]}"


def asset_reference(asset_id: str) -> str:
    """Short form of a workspace asset's full id, e.g. `azureml:ultrachat_200k-train:sha256-e2ecce1e39f1c0de`."""
    name, _, version = asset_id.rsplit("/", 3)[1:]
    return f"azureml:{name}:{version}"


def model_version(created: datetime, key: str, attempt: int) -> str:
    """Version of the registered model: when its job was made, and for which run; the same for a repeat."""
    return f"{created.astimezone(UTC):%Y%m%d%H%M%S}-{hashlib.sha256(f'{key}-{attempt}'.encode()).hexdigest()[:6]}"


def request_properties(request: Request) -> dict[str, str]:
    """What the run was asked to do, as properties of its job: JSON without defaults, cut to the allowed length."""
    text = request.model_dump_json(exclude={"workspace"}, exclude_defaults=True)
    pieces = range(0, len(text), PROPERTY_LENGTH)
    return {f"{REQUEST_PROPERTY}{start // PROPERTY_LENGTH}": text[start : start + PROPERTY_LENGTH] for start in pieces}


def read_request(properties: Mapping[str, str] | None) -> Request | None:
    """The request in a job's properties, its workspace left open; None when there is none that can be read."""
    properties = properties or {}
    pieces = [properties.get(f"{REQUEST_PROPERTY}{number}", "") for number in range(len(properties))]
    try:
        return Request.model_validate_json("".join(pieces))
    except ValidationError:
        return None


def tags(key: str, attempt: int) -> dict[str, str]:
    """Tags that mark a resource as this run's."""
    return {"owner": OWNER, KEY_TAG: key, ATTEMPT_TAG: str(attempt)}


def read_tags(tags: Mapping[str, str] | None) -> tuple[str, int] | None:
    """Key and attempt in a resource's tags; None unless they are what `tags` makes."""
    tags = tags or {}
    key, attempt = tags.get(KEY_TAG, ""), tags.get(ATTEMPT_TAG, "")
    if tags.get("owner") != OWNER or not RUN_KEY.fullmatch(key) or not (attempt.isascii() and attempt.isdigit()):
        return None
    return key, int(attempt)


def expiry_tag(moment: datetime) -> dict[str, str]:
    """Tag with the moment after which an endpoint counts as left behind."""
    return {EXPIRES_TAG: moment.astimezone(UTC).isoformat(timespec="milliseconds")}


def holder_name(flow_run_id: str) -> str:
    """Name of this process as the holder of a job: since when, for which flow run, on which machine, with which id.

    A later execution has the greater name, so the delayed request of a dead process is not mistaken for a new one.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return f"{now}/{flow_run_id}/{socket.gethostname()}/{os.getpid()}"


def holding_flow_run(holder: str) -> str:
    """The flow run in a holder's name; empty when there is none."""
    return holder.partition("/")[2].partition("/")[0]


class Lease(NamedTuple):
    """What a process has written into the tags of the job that it follows."""

    since: datetime
    until: datetime
    holder: str

    def alive_until(self, created: datetime) -> datetime:
        """Until when the holder of a job of that age counts as alive.

        A lease lasts at least one full period from the job's creation. If a late submission of a dead execution
        overwrites the tags, the current execution has that long to renew.
        """
        return max(self.until, created + (self.until - self.since))


def lease_tags(minutes: float, holder: str) -> dict[str, str]:
    """The tag of a job with the time, UTC, in which the process that follows it counts as alive, and that process.

    Each holder has a tag of its own, so a delayed renewal cannot undo that of a later execution.
    """
    since = datetime.now(UTC)
    times = (moment.isoformat(timespec="milliseconds") for moment in (since, since + timedelta(minutes=minutes)))
    tag = LEASE_TAG + hashlib.sha256(holder.encode()).hexdigest()[:8]
    return {tag: f"{'/'.join(times)} {holder}"}


def read_lease(tags: Mapping[str, str] | None) -> Lease | None:
    """The lease of the latest holder in a job's tags; None where there is none that can be read."""
    leases = [value.partition(" ") for tag, value in (tags or {}).items() if tag.startswith(LEASE_TAG)]
    times, _, holder = max(leases, key=lambda lease: lease[2], default=("", "", ""))
    since, _, until = times.partition("/")
    since, until = (read_moment({LEASE_TAG: moment}, LEASE_TAG) for moment in (since, until))
    return Lease(since, until, holder) if since and until else None


def decision_tags(decision: Decision) -> dict[str, str]:
    """Tags with a person's answer, who gave it, when and why."""
    values = decision.model_dump(mode="json", exclude={"answer", "attached"})
    return {DECISION_TAG: decision.answer} | {f"{DECISION_TAG}.{name}": value for name, value in values.items()}


def read_decision(tags: Mapping[str, str] | None) -> Decision | None:
    """The answer in a job's or model's tags; None when there is none that can be read."""
    values = {tag.removeprefix(f"{DECISION_TAG}."): value for tag, value in (tags or {}).items()}
    try:
        return Decision.model_validate(values | {"answer": values.get(DECISION_TAG), "attached": True})
    except ValidationError:
        return None


def read_moment(tags: Mapping[str, str] | None, tag: str) -> datetime | None:
    """The moment in a tag; None when there is none that can be read."""
    try:
        moment = datetime.fromisoformat((tags or {}).get(tag, ""))
    except ValueError:
        return None
    return moment if moment.tzinfo else None

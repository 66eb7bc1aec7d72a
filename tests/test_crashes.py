"""What survives a death without a last word: another start goes on, the guard cleans up at once, the sweep later."""

import os
import signal
import time
from datetime import UTC, datetime

import pytest
from azure.identity import DefaultAzureCredential
from commands import REHEARSAL, Command, endpoints_left, finetune, job_statuses, retune, state_in_prefect, wait_for
from conftest import Emulator

from retune.names import LEASE_TAG, lease_tags, read_lease

# Long enough to be killed in, short enough to wait for.
TRAINING = ("training.training_seconds=6", *REHEARSAL)
SHORT_LEASE = "limits.lease_minutes=0.1"
# A guard that takes longer hangs.
GUARD_SECONDS = 120


def kill(run: Command, *, guard: bool) -> None:
    """SIGKILL of the run, with its guard or without; the guard first, which would notice."""
    watcher = run.guard()
    if guard:
        watcher.kill()
    os.kill(run.process.pid, signal.SIGKILL)
    run.end()


def flow_run_of(emulator: Emulator, job: str) -> str:
    """Prefect's id of the flow run that holds a job."""
    return read_lease(emulator.client().jobs.get(job).tags).holder.split("/")[1]


def test_a_second_start_goes_on_with_the_running_job(environment: dict[str, str], emulator: Emulator) -> None:
    """The job is taken over, nothing is uploaded again, and one job is all there ever was."""
    first = finetune(environment, *TRAINING, key="killed-in-training").read_until("submitted retune-")
    kill(first, guard=False)
    uploads = len([line for line in emulator.admin("GET", "/admin/requests")["value"] if line["method"] == "PUT"])
    second = finetune(environment, *TRAINING, key="killed-in-training").end()

    assert (second.code, second.report["job"]["attached"]) == (0, True), second.errors
    assert job_statuses(emulator, "killed-in-training") == {"retune-killed-in-training-1": "Completed"}
    later = [line["path"] for line in emulator.admin("GET", "/admin/requests")["value"] if line["method"] == "PUT"]
    assert [path for path in later[uploads:] if "blob" in path] == []
    assert endpoints_left(emulator) == []


@pytest.mark.exhaustive
def test_a_second_start_goes_on_after_the_registration(environment: dict[str, str], emulator: Emulator) -> None:
    """The model version of the first start is found, and the endpoint made anew while the guard deletes the old one."""
    first = finetune(environment, *REHEARSAL, key="killed-in-serving").read_until("is ready")
    kill(first, guard=False)
    second = finetune(environment, *REHEARSAL, key="killed-in-serving").end()

    assert (second.code, second.report["registered_model"]["attached"]) == (0, True), second.errors
    assert endpoints_left(emulator) == []


def test_the_guard_deletes_the_endpoint_and_ends(environment: dict[str, str], emulator: Emulator) -> None:
    """At once, and it gives the run in Prefect the final state that nobody else would."""
    run = finetune(environment, *REHEARSAL, key="guarded").read_until("is ready")
    guard = run.guard()
    kill(run, guard=False)
    wait_for(lambda: endpoints_left(emulator) == [], "the endpoint's deletion by the guard")
    guard.wait(GUARD_SECONDS)

    assert state_in_prefect(flow_run_of(emulator, "retune-guarded-1")) == "CRASHED"


def test_the_guard_cancels_a_job_that_nobody_takes_over(environment: dict[str, str], emulator: Emulator) -> None:
    """When the lease has lapsed."""
    run = finetune(environment, "training.training_seconds=180", SHORT_LEASE, *REHEARSAL, key="orphan")
    guard = run.read_until("finetune Running").guard()
    kill(run, guard=False)
    guard.wait(GUARD_SECONDS)

    assert wait_for(lambda: job_statuses(emulator, "orphan") == {"retune-orphan-1": "Canceled"}, "cancellation")


def test_the_sweep_deletes_an_endpoint_whose_run_is_dead(environment: dict[str, str], emulator: Emulator) -> None:
    """With the guard dead too: a dry run only tells, the sweep deletes, a second one has nothing to do."""
    run = finetune(environment, SHORT_LEASE, *REHEARSAL, key="swept").read_until("is ready")
    kill(run, guard=True)
    (left,) = endpoints_left(emulator)
    time.sleep(max(0, lease_left(emulator, "retune-swept-1")))
    dry = retune(environment, "sweep", "--dry-run")
    still = endpoints_left(emulator)
    swept, again = retune(environment, "sweep"), retune(environment, "sweep")

    found = [(one["name"], one["action"]) for one in dry.report["endpoints"]]
    assert (found, still) == ([(left, "found")], [left])
    assert "gave no sign of life since" in dry.report["endpoints"][0]["reason"]
    assert endpoints_left(emulator) == []
    assert (swept.code, again.report["endpoints"], again.report["jobs"]) == (0, [], [])


def lease_left(emulator: Emulator, job: str) -> float:
    """Seconds until the job's lease lapses."""
    found = emulator.client().jobs.get(job)
    until = read_lease(found.tags).alive_until(found.creation_context.created_at)
    return (until - datetime.now(UTC)).total_seconds() + 0.1


def test_the_sweep_cancels_a_job_whose_run_is_dead(environment: dict[str, str], emulator: Emulator) -> None:
    """It needs nothing but the job's own tags."""
    run = finetune(environment, "training.training_seconds=60", SHORT_LEASE, *REHEARSAL, key="dead")
    kill(run.read_until("finetune Running"), guard=True)
    time.sleep(max(0, lease_left(emulator, "retune-dead-1")))
    swept = retune(environment, "sweep")

    assert [(one["name"], one["action"]) for one in swept.report["jobs"]] == [("retune-dead-1", "cancelled")]
    assert wait_for(lambda: job_statuses(emulator, "dead") == {"retune-dead-1": "Canceled"}, "cancellation")


def test_the_sweep_leaves_a_live_run_alone(environment: dict[str, str], emulator: Emulator) -> None:
    """A run renews its lease, however short."""
    run = finetune(environment, "training.training_seconds=12", SHORT_LEASE, *REHEARSAL, key="alive")
    run.read_until("submitted retune-")
    swept = [retune(environment, "sweep").report for _ in range(3)]
    ended = run.end()

    assert [sweep["jobs"] + sweep["endpoints"] for sweep in swept] == [[], [], []]
    assert ended.code == 0, ended.errors


@pytest.mark.exhaustive
def test_a_run_notices_that_a_late_request_has_taken_its_lease_away(
    environment: dict[str, str], emulator: Emulator
) -> None:
    """An earlier start's submission, which arrives after a later one's, replaces the tags of the job."""
    job = "retune-overtaken-1"
    run = finetune(environment, "training.training_seconds=60", *REHEARSAL, key="overtaken")
    run.read_until("finetune Running")
    client = emulator.client()
    holder = read_lease(client.jobs.get(job).tags).holder
    address = f"{client.jobs.get(job).id}?api-version=2024-01-01-preview"
    token = DefaultAzureCredential().get_token("https://management.azure.com/.default").token
    _, document = emulator.request("GET", address, token=token)
    own = {tag: value for tag, value in document["properties"]["tags"].items() if not tag.startswith(LEASE_TAG)}
    document["properties"]["tags"] = own | lease_tags(0.001, "2026-01-01T00:00:00/earlier")
    emulator.request("PUT", address, token=token, content=document)
    replaced = read_lease(emulator.client().jobs.get(job).tags).holder
    wait_for(lambda: read_lease(emulator.client().jobs.get(job).tags).holder == holder, "the renewal of the lease")
    run.process.send_signal(signal.SIGINT)

    assert replaced == "2026-01-01T00:00:00/earlier"
    assert run.end().report["status"] == "cancelled"


def test_of_two_live_starts_the_second_goes_on(environment: dict[str, str], emulator: Emulator) -> None:
    """The first ends with a named error and leaves job and endpoint to the second."""
    quick = ("training.training_seconds=20", *REHEARSAL)
    first = finetune(environment, *quick, key="twice").read_until("submitted retune-")
    second = finetune(environment, *quick, key="twice")
    ended = first.end()
    completed = second.end()

    assert (ended.code, ended.report["error"]["code"]) == (1, "TakenOver"), ended.errors
    assert (completed.code, completed.report["job"]["attached"]) == (0, True), completed.errors
    assert job_statuses(emulator, "twice") == {"retune-twice-1": "Completed"}
    assert endpoints_left(emulator) == []


def test_status_attach_and_cancel_need_the_key_alone(environment: dict[str, str], emulator: Emulator) -> None:
    """`attach` goes on with the request that the job was submitted for; `cancel` ends what is there."""
    kill(finetune(environment, *TRAINING, key="by-key").read_until("submitted retune-"), guard=True)
    status = retune(environment, "status", "by-key")
    attached = retune(environment, "attach", "by-key")
    nothing = retune(environment, "attach", "never-started")

    assert [job["name"] for job in status.report["jobs"]] == ["retune-by-key-1"]
    assert (attached.code, attached.report["job"]["attached"]) == (0, True), attached.errors
    assert attached.report["run"]["key"] == "by-key"
    assert len(attached.report["score"]) == 2
    assert (nothing.code, "workspace local has no job of it" in nothing.errors) == (1, True)


def test_cancel_ends_a_run_s_job_and_endpoints(environment: dict[str, str], emulator: Emulator) -> None:
    """From another machine: the live run ends with the news."""
    run = finetune(environment, "training.training_seconds=60", *REHEARSAL, key="to-cancel")
    run.read_until("finetune Running")
    cancelled = retune(environment, "cancel", "to-cancel")
    ended = run.end()

    assert cancelled.code == 0, cancelled.errors
    assert (ended.code, ended.report["error"]["code"]) == (1, "JobCanceled"), ended.errors


@pytest.mark.exhaustive
def test_a_kept_endpoint_stays_until_its_expiry(environment: dict[str, str], emulator: Emulator) -> None:
    """Explicit, shown with its price, and swept when its time is over."""
    run = finetune(environment, "serving.keep=true", "serving.keep_hours=0.01", *REHEARSAL, key="kept").end()
    endpoint = run.report["endpoint"]
    early = retune(environment, "sweep")
    there = endpoints_left(emulator)
    until = datetime.fromisoformat(endpoint["kept_until"])
    time.sleep(max(0, (until - datetime.now(UTC)).total_seconds() + 0.1))
    swept = retune(environment, "sweep")

    assert run.code == 0, run.errors
    assert endpoint["price_per_day_usd"] == 88.15
    assert (early.report["endpoints"], there) == ([], [endpoint["name"]])
    assert [(one["name"], one["action"]) for one in swept.report["endpoints"]] == [(endpoint["name"], "deleted")]
    assert endpoints_left(emulator) == []

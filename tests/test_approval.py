"""A run that waits for a person: what is up meanwhile, what each answer leads to, and where the answer is kept."""

import signal
from uuid import UUID

import pytest
from commands import REHEARSAL, Command, Ended, endpoints_left, finetune, state_in_prefect, wait_for
from conftest import Emulator

from retune.names import read_decision, read_lease

ASKED = ("approval.required=true", *REHEARSAL)
WAITING = "waiting for approval"
IN_TIME_HOURS = 8 / 3600


def approve(environment: dict[str, str], *arguments: str) -> Ended:
    """`retune approve ...`, run to its end."""
    words = ["-c", "from retune_cli.commands import retune; retune()", "approve", *arguments]
    return Command(words, environment).end()


def flow_run_of(emulator: Emulator, key: str) -> str:
    """The flow run that holds the job."""
    return read_lease(emulator.client().jobs.get(f"retune-{key}-1").tags).holder.split("/")[1]


def model_versions(emulator: Emulator, key: str) -> list:
    """The registered models of a run."""
    models = emulator.client().models
    versions = [version for model in models.list() for version in models.list(name=model.name)]
    return [version for version in versions if (version.tags or {}).get("retune.key") == key]


def test_nothing_is_up_while_it_waits_and_a_yes_goes_on(environment: dict[str, str], emulator: Emulator) -> None:
    """The answer, who gave it and why are in the report and in the tags of job and model."""
    run = finetune(environment, *ASKED, key="approved").read_until(WAITING)
    flow_run = flow_run_of(emulator, "approved")
    assert state_in_prefect(flow_run) == "PAUSED"
    assert (endpoints_left(emulator), model_versions(emulator, "approved")) == ([], [])

    said = approve(environment, "approved", "--by", "Ada", "--note", "reads well")
    assert (said.code, said.output) == (0, "approved\n"), said.errors
    ended = run.end()

    assert ended.code == 0, ended.errors
    decision = ended.report["decision"]
    assert (decision["answer"], decision["by"], decision["note"]) == ("approved", "Ada", "reads well")
    assert ended.report["endpoint"]["deleted"] is True and ended.report["score"]
    (model,) = model_versions(emulator, "approved")
    kept = [read_decision(tags) for tags in (model.tags, emulator.client().jobs.get("retune-approved-1").tags)]
    assert [(one.answer, one.by, one.note) for one in kept] == [("approved", "Ada", "reads well")] * 2
    assert "ask_person" in [step["name"] for step in ended.report["steps"]]


def test_a_no_ends_the_run_and_registers_nothing(environment: dict[str, str], emulator: Emulator) -> None:
    """Declined is neither Failed nor Completed; started again, the run asks again."""
    run = finetune(environment, *ASKED, key="declined").read_until(WAITING)
    flow_run = flow_run_of(emulator, "declined")
    # Its id does as well as its key.
    assert approve(environment, flow_run, "--reject", "--by", "Ada", "--note", "it rambles").code == 0
    ended = run.end()

    assert (ended.code, ended.report["status"], ended.report["error"]) == (3, "declined", None), ended.errors
    assert state_in_prefect(flow_run) == "CANCELLED"
    assert (endpoints_left(emulator), model_versions(emulator, "declined")) == ([], [])
    kept = read_decision(emulator.client().jobs.get("retune-declined-1").tags)
    assert (kept.answer, kept.by, kept.note) == ("rejected", "Ada", "it rambles")

    again = finetune(environment, *ASKED, key="declined").read_until(WAITING)
    assert approve(environment, "declined").code == 0
    assert again.end().report["job"]["attached"] is True


@pytest.mark.exhaustive
def test_a_yes_outlives_the_process_that_was_given_it(environment: dict[str, str], emulator: Emulator) -> None:
    """Killed while it serves, and started again: nobody is asked twice."""
    run = finetune(environment, *ASKED, key="once").read_until(WAITING)
    assert approve(environment, "once", "--by", "Ada").code == 0
    run.read_until("retune-.* is ready|endpoint|deploy").signal(signal.SIGKILL)
    run.end()
    again = finetune(environment, *ASKED, key="once").end()

    assert again.code == 0, again.errors
    assert WAITING not in again.errors
    assert (again.report["decision"]["by"], again.report["decision"]["attached"]) == ("Ada", True)


@pytest.mark.exhaustive
def test_no_answer_in_time_is_a_no(environment: dict[str, str], emulator: Emulator) -> None:
    """The clock of the whole run stands still while a person has the word."""
    limits = (f"approval.hours={IN_TIME_HOURS}", "limits.total_minutes=0.6")
    ended = finetune(environment, *ASKED, *limits, key="unanswered").end()

    assert (ended.code, ended.report["decision"]["answer"]) == (3, "none in time"), ended.errors
    assert state_in_prefect(ended.report["run"]["flow_run_id"]) == "CANCELLED"
    assert model_versions(emulator, "unanswered") == []


@pytest.mark.exhaustive
def test_approval_before_traffic_keeps_the_answer_with_the_model(
    environment: dict[str, str], emulator: Emulator
) -> None:
    """The model is registered when the person is asked, and says afterwards that it was rejected."""
    run = finetune(environment, *ASKED, "approval.before=traffic", key="traffic").read_until(WAITING)
    (before,) = model_versions(emulator, "traffic")
    assert read_decision(before.tags) is None
    assert approve(environment, "traffic", "--reject", "--by", "Ada").code == 0
    ended = run.end()

    assert ended.code == 3, ended.errors
    (model,) = model_versions(emulator, "traffic")
    assert read_decision(model.tags).answer == "rejected"
    assert model.tags["job"] == before.tags["job"]
    assert ended.report["registered_model"]["version"] == model.version
    assert (ended.report["endpoint"], endpoints_left(emulator)) == (None, [])


@pytest.mark.exhaustive
def test_cancel_ends_a_run_that_waits(environment: dict[str, str], emulator: Emulator) -> None:
    """In Prefect, without a worker."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    run = finetune(environment, *ASKED, key="cancelled-waiting").read_until(WAITING)
    flow_run = flow_run_of(emulator, "cancelled-waiting")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(flow_run), Cancelling())
    ended = run.end()

    assert (ended.code, ended.report["status"]) == (130, "cancelled"), ended.errors
    assert state_in_prefect(flow_run) == "CANCELLED"


@pytest.mark.exhaustive
def test_an_interrupted_run_that_waited_is_cancelled(environment: dict[str, str], emulator: Emulator) -> None:
    """Ctrl-C while it waits."""
    run = finetune(environment, *ASKED, key="interrupted-waiting").read_until(WAITING)
    flow_run = flow_run_of(emulator, "interrupted-waiting")
    ended = run.signal(signal.SIGINT).end()

    assert (ended.code, ended.report["status"]) == (130, "cancelled"), ended.errors
    assert state_in_prefect(flow_run) == "CANCELLED"


def test_answers_that_cannot_be_given_are_refused(environment: dict[str, str], emulator: Emulator) -> None:
    """A run that does not wait, a name that is empty, a note that is too long; the run goes on waiting."""
    nobody = approve(environment, "nobody")
    assert nobody.code == 2 and "No run 'nobody' waits" in nobody.errors

    run = finetune(environment, *ASKED, key="patient").read_until(WAITING)
    flow_run = flow_run_of(emulator, "patient")
    for bad in (["--by", ""], ["--note", "x" * 501]):
        refused = approve(environment, "patient", *bad)
        assert refused.code == 2 and "Prefect did not take the answer" in refused.errors
    assert state_in_prefect(flow_run) == "PAUSED"
    assert "patient" in approve(environment, "nobody").errors
    assert approve(environment, "patient", "--reject").code == 0
    assert run.end().code == 3


@pytest.mark.exhaustive
def test_a_run_set_to_running_without_an_answer_fails(environment: dict[str, str], emulator: Emulator) -> None:
    """As somebody may do through the API; it is not taken for a yes."""
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    run = finetune(environment, *ASKED, key="forced").read_until(WAITING)
    flow_run = flow_run_of(emulator, "forced")
    wait_for(lambda: state_in_prefect(flow_run) == "PAUSED", "paused")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(flow_run), Running())
    ended = run.end()

    assert (ended.code, ended.report["error"]["code"]) == (1, "NoAnswer"), ended.errors
    assert model_versions(emulator, "forced") == []

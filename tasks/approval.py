"""A person decides on the trained model: the run waits as Paused, with a form that `retune approve` fills too."""

import logging
from datetime import UTC, datetime
from typing import Literal

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import StateAcceptDetails
from prefect.exceptions import PrefectException
from prefect.input import RunInput
from prefect.input.run_input import Keyset, keyset_from_paused_state
from prefect.runtime import flow_run
from prefect.states import Paused
from pydantic import Field, ValidationError, field_validator

from retune import sign_in
from retune.errors import CloudError, WaitExpired
from retune.report import Decision, RegisteredModel, Report
from retune.request import Request
from retune.texts import find_invisible
from retune.verdict import question
from retune.waiting import wait_until
from retune_cloud import ledger
from tasks.job import Submission
from tasks.showing import PAGE, show_summary
from tasks.step import current_flow_run, repeatable_step, step

log = logging.getLogger("retune.approval")

LOOK_EVERY_SECONDS = 2
# Prefect ends a run that stays Paused for longer than it was to be; the answer "none in time" is given before that.
SPARE_SECONDS = 3600
NAME_LENGTH, NOTE_LENGTH = 100, 500


class Verdict(RunInput):
    """The form on the run's page."""

    answer: Literal["approve", "reject"] = Field(description="Approve: the run goes on. Reject: it ends as Declined.")
    by: str = Field(min_length=1, max_length=NAME_LENGTH, description="Your name; it is kept with the model.")
    note: str = Field(default="", max_length=NOTE_LENGTH, description="Why; it is kept with the model.")

    @field_validator("by", "note")
    @classmethod
    def _is_one_line(cls, text: str) -> str:
        """Line ends and other invisible characters as spaces: it goes into tags, logs and pages."""
        return "".join(" " if find_invisible(character) else character for character in text)


@step
def ask_person(request: Request, submission: Submission, report: Report) -> Decision:
    """The decision of a person who has seen the run's results; an approval of an earlier execution still counts.

    Raises:
        CloudError: `NotPaused`, Prefect does not let the run wait; `NoAnswer`, it was set to Running without one.
        Stopped: the run was told to stop.
    """
    # Before the first execution nobody can have answered; the job itself may have written such a tag.
    attached = submission.job.attached
    before = ledger.find_job(request.workspace, submission.key, submission.attempt) if attached else None
    if before and before.decision and before.decision.answer == "approved":
        log.info("%s has approved the model already", before.decision.by)
        return before.decision
    show_summary(report, "waiting for approval")
    # The person looks at the page.
    PAGE.finish()
    hours = request.approval.hours
    with get_client(sync_client=True) as client:
        form = Verdict.with_initial_data(description=question(report))
        keyset = _pause(client, form, hours * 3600 + SPARE_SECONDS)
        address = str(client.api_url).rstrip("/")
        log.warning(
            "waiting for approval, at most %g h: %s retune approve %s, or Resume on the run's page",
            *(hours, sign_in.shell_prefix(address), submission.key),
        )
        try:
            verdict = wait_until(
                lambda: _read_verdict(client, keyset),
                seconds=hours * 3600,
                every=LOOK_EVERY_SECONDS,
                subject="An answer",
                fix="Retry the run to be asked again.",
            )
        except WaitExpired:
            log.warning("nobody has answered within %g h", hours)
            return Decision(answer="none in time", at=datetime.now(UTC))
    answer = "approved" if verdict.answer == "approve" else "rejected"
    log.info("%s by %s%s", answer, verdict.by, f": {verdict.note}" if verdict.note else "")
    return Decision(answer=answer, by=verdict.by, note=verdict.note, at=datetime.now(UTC))


@repeatable_step
def note_decision(request: Request, submission: Submission, decision: Decision, model: RegisteredModel | None) -> None:
    """Write the answer into the tags of the job, and of the model when it is registered already."""
    ledger.note_decision(request.workspace, submission.job.name, decision, model)


def _pause(client: SyncPrefectClient, form: type[Verdict], seconds: float) -> Keyset:
    """Let the run be Paused, with the form on its page; the names under which Prefect keeps the answer."""
    run_id, count = current_flow_run(), flow_run.get_run_count()
    # The process stays: what it knows would be lost in a suspended run, and its clean-up would have to be undone.
    paused = Paused(timeout_seconds=int(seconds), reschedule=False, pause_key=f"approval-{count}")
    keyset = keyset_from_paused_state(paused)
    paused.state_details.run_input_keyset = {**keyset}
    # Before the state, because with that the button Resume appears.
    form.save(keyset, flow_run_id=run_id)
    result = client.set_flow_run_state(run_id, paused)
    if not isinstance(result.details, StateAcceptDetails):
        raise CloudError("NotPaused", f"Prefect does not let the run wait: {result.details.reason}", "Retry the run.")
    return keyset


def _read_verdict(client: SyncPrefectClient, keyset: Keyset) -> Verdict | None:
    """The answer, once the run has been resumed with one; a server that is away for a while is waited for."""
    run_id = current_flow_run()
    try:
        state = client.read_flow_run(run_id).state
        if state is None or not state.is_running():
            return None
        verdict = Verdict.load(keyset, flow_run_id=run_id)
    except (httpx.HTTPError, PrefectException) as error:
        log.debug("Prefect's API did not answer: %s", error)
        return None
    except ValidationError as error:
        fix = "Retry the run, and answer with Resume or `retune approve`."
        raise CloudError("NoAnswer", "The run was set to Running without an answer.", fix) from error
    # Prefect's type allows for a coroutine, which it gives to callers in an event loop.
    assert isinstance(verdict, Verdict)
    return verdict

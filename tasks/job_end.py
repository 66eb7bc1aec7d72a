"""Wait for the training job to complete.

The wait is our own loop, because `jobs.stream` returns without an error for jobs that were cancelled.
"""

import contextlib
import io
import json
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from retune.errors import JobFailed, WaitExpired
from retune.report import Job as JobReport
from retune.request import Request
from retune.waiting import wait_until
from retune_cloud import ledger
from retune_cloud import workspace as cloud
from retune_cloud.answers import required
from retune_cloud.ledger import job_status
from retune_cloud.sdk_errors import first_line
from tasks.job import Submission
from tasks.losses import Losses
from tasks.showing import Progress
from tasks.step import current_flow_run, step
from tasks.steplogs import StepLogs, StepRun, count_logged, read_steps

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

log = logging.getLogger("retune.job")

# A job that is NotResponding or Paused may come back; the run limit covers those that do not.
WAITING_TO_RUN = ("NotStarted", "Starting", "Provisioning", "Preparing", "Queued", "Scheduled", "Unknown")
OUTAGE_SECONDS = 900


@step
def wait_for_job(request: Request, submission: Submission) -> JobReport:
    """The job, Completed.

    Raises:
        JobFailed: it ended Failed or Canceled; the message has the failing step and the last lines of its log.
        WaitExpired: the queue or the run limit passed.
    """
    client = cloud.workspace_client(request.workspace)
    created = required(submission.job.created, "the creation time of the job")
    logged = count_logged(current_flow_run(), created) if submission.job.attached else None
    logs = StepLogs(client, logged)
    follower, limits = JobFollower(request, submission, logs), request.limits
    status = wait_until(
        follower.read_final_status,
        # The follower's own limits end the wait before.
        seconds=(limits.queue_minutes + limits.run_minutes) * 60 + OUTAGE_SECONDS,
        every=limits.poll_seconds,
        subject=f"Job '{submission.job.name}'",
        fix="Raise limits.run_minutes, or see why in Azure ML studio.",
    )
    if status != "Completed":
        raise _failure(client, submission.job, status, logs)
    seconds = (datetime.now(UTC) - created).total_seconds()
    return submission.job.model_copy(update={"status": status, "seconds": round(seconds, 1)})


class JobSnapshot(NamedTuple):
    """A job at one moment. A pipeline is Running while its first step still waits for a node; `running` is not."""

    status: str
    running: bool
    progress: str
    # Of the training, once it has logged one.
    epoch: float | None
    steps: list[StepRun]


class JobFollower:
    """Reads the job repeatedly, logs changes of its status, its steps and its losses, and enforces its limits."""

    def __init__(self, request: Request, submission: Submission, logs: StepLogs) -> None:
        self._client = cloud.workspace_client(request.workspace)
        self._limits, self._submission, self._logs, self._bar = request.limits, submission, logs, Progress()
        self._losses = Losses(self._client, submission.job.name)
        self._snapshot = JobSnapshot("not visible yet", False, "", None, [])
        self._phase_began = self._answered_at = time.monotonic()

    def read_final_status(self) -> str | None:
        """The status of the job if it has ended.

        Raises:
            WaitExpired: the queue or the run limit passed.
        """
        before, self._snapshot = self._snapshot, self._read()
        if self._snapshot.running and not before.running:
            self._phase_began = time.monotonic()
        # Judged before anything else, while the snapshot is fresh.
        self._check_limits()
        if self._snapshot.progress != before.progress:
            log.info("%s", self._snapshot.progress)
            share = _share(self._snapshot, self._submission.epochs)
            left = _time_left(share, time.monotonic() - self._phase_began)
            self._bar.show(share, f"{self._snapshot.progress}{left}")
        self._logs.follow(self._snapshot.steps)
        return self._snapshot.status if self._snapshot.status in ledger.ENDED else None

    def _read(self) -> JobSnapshot:
        """The job as it is now; as it was when the service does not answer for less than OUTAGE_SECONDS.

        A job takes hours: an outage of minutes, a token or a permission that is being renewed must not end it.
        """
        from azure.core.exceptions import AzureError

        try:
            snapshot = _read_snapshot(self._client, self._submission.job.name, self._losses)
            self._answered_at = time.monotonic()
        except AzureError as error:
            if time.monotonic() - self._answered_at > OUTAGE_SECONDS:
                raise
            progress = f"no answer from Azure ML, looking again: {first_line(error)}"
            return self._snapshot._replace(progress=progress)
        # Once a step has run, the time in the queue is over.
        return snapshot._replace(running=snapshot.running or self._snapshot.running)

    def _check_limits(self) -> None:
        running, limits = self._snapshot.running, self._limits
        limit, minutes = ("run_minutes", limits.run_minutes) if running else ("queue_minutes", limits.queue_minutes)
        if self._snapshot.status in ledger.ENDED or time.monotonic() - self._phase_began <= minutes * 60:
            return
        raise WaitExpired(
            "JobTooSlow",
            f"Job '{self._submission.job.name}' is {self._snapshot.status} after {minutes:g} minutes "
            f"({self._snapshot.progress}).",
            f"Raise limits.{limit}, or see why in Azure ML studio.",
        )


def _share(snapshot: JobSnapshot, epochs: float | None) -> float:
    """How much of the training is done; the steps before and after it are short."""
    if snapshot.status == "Completed":
        return 1.0
    return min(snapshot.epoch / epochs, 1.0) if snapshot.epoch and epochs else 0.0


def _time_left(share: float, seconds: float) -> str:
    """When the training may be done, if it goes on as it did since the job has run for `seconds`."""
    if not 0 < share < 1:
        return ""
    left = seconds / share - seconds
    return f", about {left / 60:.0f} min of training left" if left >= 60 else f", about {left:.0f} s of training left"


def _read_snapshot(client: "MLClient", name: str, losses: Losses) -> JobSnapshot:
    status = job_status(client.jobs.get(name))
    steps = _steps_if_readable(client, name)
    if status in ledger.ENDED:
        return JobSnapshot(status, True, status, None, steps)
    running = any(step.status not in WAITING_TO_RUN for step in steps)
    done = sum(step.status == "Completed" for step in steps)
    under_way = [f"{step.display_name} {step.status}" for step in steps if step.status != "Completed"]
    logged = losses.latest() if running else {}
    shown = [f"step {value:.0f}" if metric == "step" else f"{metric} {value:.2f}" for metric, value in logged.items()]
    text = ", ".join([status, f"{done} steps done", *under_way, *shown])
    return JobSnapshot(status, running, text, logged.get("epoch"), steps)


def _steps_if_readable(client: "MLClient", name: str) -> list[StepRun]:
    """The job's steps; none when they cannot be read: they are for the reader only."""
    from azure.core.exceptions import AzureError

    try:
        return read_steps(client, name)
    except AzureError as error:
        log.debug("the steps of %s could not be read: %s", name, first_line(error))
        return []


def _failure(client: "MLClient", job: JobReport, status: str, logs: StepLogs) -> JobFailed:
    if status == "Canceled":
        fix = "Run it again with the same key for a new attempt."
        return JobFailed("JobCanceled", f"Job '{job.name}' was cancelled.", fix)
    steps = _steps_if_readable(client, job.name)
    states = ", ".join(f"{step.display_name} {step.status}" for step in steps)
    lines = [line for step in steps if step.status == "Failed" for line in logs.last_lines(step.display_name)]
    tail = "\nThe last lines of its log:\n" + "\n".join(lines) if lines else ""
    return JobFailed(
        "JobFailed",
        f"Job '{job.name}' failed ({states}). {_service_error(client, job.name)}{tail}",
        f"Correct what the step says, then run again. {job.studio_url or ''}".strip(),
    )


def _service_error(client: "MLClient", name: str) -> str:
    """What the service says of a failed job. The SDK tells it only in the exception that ends `stream`."""
    from azure.ai.ml.exceptions import JobException

    with contextlib.redirect_stdout(io.StringIO()) as logs:
        try:
            client.jobs.stream(name)
        except JobException as error:
            try:
                return json.loads(str(error).partition(":")[2])["error"]["message"]
            except (ValueError, KeyError, TypeError):
                return str(error)
    return logs.getvalue()[-2000:]

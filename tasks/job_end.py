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

from prefect.runtime import flow_run

from retune.errors import JobFailed, WaitExpired
from retune.report import Job as JobReport
from retune.request import Request
from retune.waiting import pause
from retune_cloud import ledger
from retune_cloud import workspace as cloud
from retune_cloud.ledger import job_status
from retune_cloud.sdk_errors import first_line
from retune_cloud.tracking import tracking_client
from tasks.job import Submission
from tasks.showing import Progress
from tasks.step import step
from tasks.steplogs import StepLogs, StepRun, count_logged

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
    logged = count_logged(flow_run.get_id(), submission.job.created) if submission.job.attached else None
    logs = StepLogs(client, logged)
    status = _follow(request, submission, logs)
    if status != "Completed":
        raise _failure(client, submission.job, status, logs)
    seconds = (datetime.now(UTC) - submission.job.created).total_seconds()
    return submission.job.model_copy(update={"status": status, "seconds": round(seconds, 1)})


def _follow(request: Request, submission: Submission, logs: StepLogs) -> str:
    """The job's final status; logs and shows every change of it, of its steps and of the loss on the way."""
    from azure.core.exceptions import AzureError

    client, name = cloud.workspace_client(request.workspace), submission.job.name
    limits, bar = request.limits, Progress()
    phase_began = answered_at = time.monotonic()
    look, seen, running = Look("not visible yet", False, "", None, []), "", False
    while look.status not in ledger.ENDED:
        try:
            look = _look(client, name)
            answered_at = time.monotonic()
        except AzureError as error:
            # A job takes hours: an outage of minutes, a token or a permission that is being renewed must not end it.
            if time.monotonic() - answered_at > OUTAGE_SECONDS:
                raise
            look = look._replace(progress=f"no answer from Azure ML, looking again: {first_line(error)}")
        if look.running and not running:
            running, phase_began = True, time.monotonic()
        # Judged before anything else, while the look is fresh.
        minutes = limits.run_minutes if running else limits.queue_minutes
        if look.status not in ledger.ENDED and time.monotonic() - phase_began > minutes * 60:
            limit = "run_minutes" if running else "queue_minutes"
            raise WaitExpired(
                "JobTooSlow",
                f"Job '{name}' is {look.status} after {minutes:g} minutes ({look.progress}).",
                f"Raise limits.{limit}, or see why in Azure ML studio.",
            )
        if look.progress != seen:
            log.info("%s", look.progress)
            seen = look.progress
            share = _share(look, submission.epochs)
            bar.show(share, f"{look.progress}{_time_left(share, time.monotonic() - phase_began)}")
        logs.follow(look.steps)
        if look.status not in ledger.ENDED:
            pause(limits.poll_seconds)
    return look.status


class Look(NamedTuple):
    """A job at one moment. A pipeline is Running while its first step still waits for a node; `running` is not."""

    status: str
    running: bool
    progress: str
    # Of the training, once it has logged one.
    epoch: float | None
    steps: list[StepRun]


def _share(look: Look, epochs: float | None) -> float:
    """How much of the training is done; the steps before and after it are short."""
    if look.status == "Completed":
        return 1.0
    return min(look.epoch / epochs, 1.0) if look.epoch and epochs else 0.0


def _time_left(share: float, seconds: float) -> str:
    """When the training may be done, if it goes on as it did since the job has run for `seconds`."""
    if not 0 < share < 1:
        return ""
    left = seconds / share - seconds
    return f", about {left / 60:.0f} min of training left" if left >= 60 else f", about {left:.0f} s of training left"


def _look(client: "MLClient", name: str) -> Look:
    status = job_status(client.jobs.get(name))
    steps = _steps(client, name)
    if status in ledger.ENDED:
        return Look(status, True, status, None, steps)
    running = any(step.status not in WAITING_TO_RUN for step in steps)
    done = sum(step.status == "Completed" for step in steps)
    under_way = [f"{step.display_name} {step.status}" for step in steps if step.status != "Completed"]
    logged = _logged(client, name) if running else {}
    losses = [f"step {value:.0f}" if metric == "step" else f"{metric} {value:.2f}" for metric, value in logged.items()]
    text = ", ".join([status, f"{done} steps done", *under_way, *losses])
    return Look(status, running, text, logged.get("epoch"), steps)


def _steps(client: "MLClient", name: str) -> list[StepRun]:
    """The steps that the job has begun, in order; none when they cannot be read.

    A pipeline component is one child of the job, and its steps are that child's children.
    """
    from azure.core.exceptions import AzureError

    try:
        children = list(client.jobs.list(parent_job_name=name))
        steps = [step for child in children for step in list(client.jobs.list(parent_job_name=child.name)) or [child]]
    except AzureError as error:
        # They are for the reader only.
        log.debug("the steps of %s could not be read: %s", name, first_line(error))
        return []
    return [StepRun(step.name, step.display_name, job_status(step)) for step in steps]


def _logged(client: "MLClient", name: str) -> dict[str, float]:
    """Step, epoch and losses as the job last logged them; nothing when the tracking store does not answer."""
    import mlflow

    try:
        data = tracking_client(client).get_run(name).data
    except mlflow.MlflowException:
        return {}
    # MLflow hands out the step of a last value only here; the history has it too, and grows with the training.
    steps = {point.key: point.step for point in data._metric_objs}
    found = {metric: data.metrics[metric] for metric in ("epoch", "loss", "eval_loss") if metric in data.metrics}
    return {"step": max(steps[metric] for metric in found), **found} if found else found


def _failure(client: "MLClient", job: JobReport, status: str, logs: StepLogs) -> JobFailed:
    if status == "Canceled":
        return JobFailed("JobCanceled", f"Job '{job.name}' was cancelled.", "Start the run again when it should go on.")
    steps = _steps(client, job.name)
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

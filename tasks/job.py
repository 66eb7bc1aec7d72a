"""Build, submit or take over, wait for and cancel the training job.

Submitting and waiting are separate tasks: the job's name is derived from the run's key and attempt, so a repeated
submission finds the job instead of making a second one. The wait is our own loop, because `jobs.stream` returns
without an error for jobs that were cancelled. The flow calls `cancel_run` when either ends other than well.
"""

import contextlib
import io
import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from retune import ledger, names
from retune import workspace as cloud
from retune.errors import CloudError, JobFailed, WaitExpired
from retune.explain import is_transient
from retune.ledger import job_status
from retune.report import ComputeUsed, Part, PreparedData
from retune.report import Job as JobReport
from retune.request import Request
from retune.tracking import tracking_client
from retune.waiting import pause
from tasks import retrying
from tasks.compute import SERVERLESS
from tasks.model import OUTPUT, ModelFacts, display_name
from tasks.retrying import HARMLESS
from tasks.showing import Progress
from tasks.steplogs import StepLogs, StepRun, count_logged

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Job, PipelineJob

log = logging.getLogger("retune.job")

TRAINED_MODEL = "trained_model"
# A job that is NotResponding or Paused may come back; the run limit covers those that do not.
WAITING_TO_RUN = ("NotStarted", "Starting", "Provisioning", "Preparing", "Queued", "Scheduled", "Unknown")
OUTAGE_SECONDS = 900
VISIBLE_SECONDS = 10
STEPS = ("model_import", "preprocess", "finetune", "model_evaluation")


class Submission(Part):
    """A job that the service has accepted."""

    job: JobReport
    key: str
    attempt: int
    # The start of the run that follows the job.
    holder: str
    # As far as the job's parameters say.
    epochs: float | None = None


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=retrying.is_transient, **HARMLESS)
def submit_job(
    request: Request, key: str, holder: str, model: ModelFacts, compute: ComputeUsed, data: PreparedData
) -> Submission:
    """The run's job, newly submitted or already there, held by `holder` from now on.

    A job that failed or was cancelled makes the next attempt.

    Raises:
        CloudError: `JobRefused`, with the service's words, or `RunKeyTaken`, with what differs, when the key stands for
            another request.
    """
    client = cloud.workspace_client(request.workspace)
    attempt, present = _next_attempt(client, key)
    attached = present is not None
    if present is None:
        present, attached = _create(client, request, key, attempt, holder, model, compute, data)
    if attached:
        _check_same(present, request, key, data)
        if job_status(present) not in ledger.ENDED:
            log.info("%s is %s", present.name, job_status(present))
        ledger.renew_lease(request.workspace, present.name, request.limits.lease_minutes, holder)
    log.info("%s %s", "took over" if attached else "submitted", present.name)
    epochs = next((float(one.value) for one in model.parameters if one.name == "num_train_epochs"), None)
    return Submission(job=_report(present, attached), key=key, attempt=attempt, holder=holder, epochs=epochs)


@task(cache_policy=NO_CACHE, persist_result=False)
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


def cancel_run(request: Request, key: str, holder: str, *, held: bool) -> str | None:
    """Ask for the cancellation of the run's job, if `holder` holds one that still goes on. Does not wait.

    The status of the run's last job afterwards; None when there is none, or another's, or it cannot be read.
    `held`: it has held the job; late tags of an earlier holder do not count then.
    """
    from azure.core.exceptions import AzureError

    try:
        job = ledger.last_job(request.workspace, key)
        if job is None or job.holder > holder or (job.holder < holder and not held):
            return None
        if job.status in ledger.ENDED:
            return job.status
        ledger.ask_cancellation(request.workspace, job.name)
    except AzureError as error:
        log.error("the job of run %s could not be cancelled: %s", key, cloud.first_line(error))
        return None
    return "CancelRequested"


def build_pipeline(
    request: Request, model: ModelFacts, compute: ComputeUsed, data: PreparedData, component: object
) -> "PipelineJob":
    """The guide's pipeline: one node of the registry component, its inputs, and the output `trained_model`."""
    from azure.ai.ml import Input, dsl

    inputs = {parameter.name: parameter.value for parameter in model.parameters if parameter.source != "component"}
    inputs[request.model.path_input] = Input(type=component.inputs[request.model.path_input].type, path=model.model.id)
    kind, value = ("instance_type", compute.size) if compute.name == SERVERLESS else ("compute", compute.name)
    inputs |= {f"{kind}_{step}": value for step in STEPS if f"{kind}_{step}" in model.inputs}
    if "number_of_gpu_to_use_finetuning" in model.inputs:
        inputs["number_of_gpu_to_use_finetuning"] = compute.gpus_per_node

    @dsl.pipeline(name="retune-finetune")
    def finetune(train_file_path: Input, validation_file_path: Input, test_file_path: Input) -> dict[str, object]:
        chat_completion = component(
            train_file_path=train_file_path,
            validation_file_path=validation_file_path,
            test_file_path=test_file_path,
            **inputs,
        )
        return {TRAINED_MODEL: chat_completion.outputs[OUTPUT]}

    # As inputs of the job itself, the data assets lead from their own pages to the job.
    pipeline = finetune(
        **{f"{role}_file_path": Input(type="uri_file", path=asset) for role, asset in data.assets.items()}
    )
    pipeline.settings.force_rerun = True
    pipeline.settings.continue_on_step_failure = False
    return pipeline


def _next_attempt(client: "MLClient", key: str) -> "tuple[int, Job | None]":
    """The number of the attempt to make, and its job when there is one to take over."""
    for attempt in range(1, ledger.ATTEMPTS + 1):
        job = _find(client, names.job_name(key, attempt))
        if job is None or job_status(job) not in ledger.ENDED_BADLY:
            return attempt, job
    raise CloudError(
        "TooManyAttempts",
        f"All {ledger.ATTEMPTS} attempts of run '{key}' failed or were cancelled.",
        "Look at the last one's error, then start a run with another key.",
    )


def _check_same(job: "Job", request: Request, key: str, data: PreparedData) -> None:
    """Raise RunKeyTaken, with what differs, when the job was submitted for another request or other data."""
    before = names.read_request(job.properties)
    if before is None:
        different = ["its request cannot be read"]
    else:
        there, here = (dict(_flat(asked)) for asked in (before, request))
        different = [
            f"{name}: {there.get(name)!r} there, {here.get(name)!r} here"
            for name in sorted(there.keys() | here.keys())
            if there.get(name) != here.get(name)
        ]
    content = (job.tags.get(names.DATA_TAG), data.splits["train"].sha256)
    if not different and content[0] != content[1]:
        different = [f"the training rows have changed (sha256 {str(content[0])[:12]} there, {content[1][:12]} here)"]
    if different:
        raise CloudError(
            "RunKeyTaken",
            f"Run key '{key}' stands for another request: job '{job.name}' was submitted with it. "
            f"{'; '.join(different)}.",
            "Use another run key, or repeat the first request unchanged.",
        )


def _flat(request: Request) -> Iterator[tuple[str, object]]:
    """What decides the result, as dotted key and value: where to run and how long to wait do not."""
    for section, values in request.model_dump(mode="json", exclude={"limits", "workspace"}).items():
        for name, value in values.items():
            yield f"{section}.{name}", value


def _create(
    client: "MLClient",
    request: Request,
    key: str,
    attempt: int,
    holder: str,
    model: ModelFacts,
    compute: ComputeUsed,
    data: PreparedData,
) -> "tuple[Job, bool]":
    """The job and whether another submission was first."""
    from azure.core.exceptions import HttpResponseError

    where = request.workspace
    component = cloud.registry_client(where, where.component_registry).components.get(
        request.model.component, version=model.component_version
    )
    pipeline = build_pipeline(request, model, compute, data, component)
    pipeline.name = names.job_name(key, attempt)
    nodes = next((int(p.value) for p in model.parameters if p.name == "num_nodes_finetune"), 1)
    pipeline.display_name = display_name(model.model.name, model.parameters, compute.gpus_per_node, nodes)
    pipeline.tags = (
        names.tags(key, attempt)
        | names.lease_tags(request.limits.lease_minutes, holder)
        | {names.DATA_TAG: data.splits["train"].sha256}
    )
    pipeline.properties = names.request_properties(request)
    try:
        return client.jobs.create_or_update(pipeline, experiment_name=f"chat_completion_{model.model.name}"), False
    except HttpResponseError as error:
        if is_transient(error):
            raise
        present = _find_taken(client, pipeline.name) if error.status_code in (400, 409) else None
        if present is not None:
            return present, True
        raise CloudError(
            "JobRefused",
            f"Job '{pipeline.name}' was refused: {cloud.first_line(error)}",
            "Correct the request as the service says.",
        ) from error


def _find(client: "MLClient", name: str) -> "Job | None":
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return client.jobs.get(name)
    except ResourceNotFoundError:
        return None


def _find_taken(client: "MLClient", name: str) -> "Job | None":
    """The job behind a refused name; a fresh one of another start may take a moment to be visible."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while (job := _find(client, name)) is None and time.monotonic() < deadline:
        pause(1)
    return job


def _report(job: "Job", attached: bool) -> JobReport:
    return JobReport(
        name=job.name,
        display_name=job.display_name or job.name,
        experiment=job.experiment_name,
        status=job_status(job),
        attached=attached,
        created=job.creation_context.created_at,
        studio_url=job.studio_url,
    )


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
            look = look._replace(progress=f"no answer from Azure ML, looking again: {cloud.first_line(error)}")
        if look.progress != seen:
            log.info("%s", look.progress)
            seen = look.progress
            share = _share(look, submission.epochs)
            bar.show(share, f"{look.progress}{_time_left(share, time.monotonic() - phase_began)}")
        logs.follow(look.steps)
        if look.running and not running:
            running, phase_began = True, time.monotonic()
        minutes = limits.run_minutes if running else limits.queue_minutes
        if look.status not in ledger.ENDED and time.monotonic() - phase_began > minutes * 60:
            limit = "run_minutes" if running else "queue_minutes"
            raise WaitExpired(
                "JobTooSlow",
                f"Job '{name}' is {look.status} after {minutes:g} minutes ({look.progress}).",
                f"Raise limits.{limit}, or see why in Azure ML studio.",
            )
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
    losses = [f"{metric} {value:.2f}" for metric, value in logged.items()]
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
        log.debug("the steps of %s could not be read: %s", name, cloud.first_line(error))
        return []
    return [StepRun(step.name, step.display_name, job_status(step)) for step in steps]


def _logged(client: "MLClient", name: str) -> dict[str, float]:
    """Epoch and losses as the job last logged them; nothing when the tracking store does not answer."""
    import mlflow

    try:
        values = tracking_client(client).get_run(name).data.metrics
    except mlflow.MlflowException:
        return {}
    return {metric: values[metric] for metric in ("epoch", "loss", "eval_loss") if metric in values}


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

"""What surrounds the recipe: key and report of the run, honest final states, and the clean-up after each phase."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import NoReturn

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas import TaskRun
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import TaskRunSort
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Completed, Failed, State

from flows import guard
from flows.signals import SIGNALS
from flows.watch import Watch
from retune.errors import BadRequest, RetuneError, Stopped
from retune.folders import keep_report
from retune.report import Cost, Job, Problem, RegisteredModel, Report, Run, Status, Step
from retune.request import Request
from retune.summary import decision_text
from retune.texts import redact
from retune.waiting import STOP
from retune_cloud import cleanup, ledger
from retune_cloud.sdk_errors import explain
from retune_cloud.workspace import find_address, first_line
from tasks.job import Submission
from tasks.metrics import JobMetrics
from tasks.showing import PAGE, show_summary
from tasks.teardown import delete_endpoint

log = logging.getLogger("retune.run")

FUTURE_SECONDS = 60
STATES_SECONDS, HEALTH_SECONDS = 5, 5


# Of the runs of this process, by flow run id, for the one who started them.
REPORTS: dict[str, Report] = {}


class EndsHere(Exception):
    """The recipe has nothing more to do in this run, which is no error."""


class Recorder:
    """A flow run while it goes on: its key, its report, and who looks after what it makes."""

    def __init__(self, request: Request, key: str | None) -> None:
        self.request = request
        self.flow_run_id = str(flow_run.get_id())
        self.key = key or self.flow_run_id
        # A named run, or one that is started again, goes on with what is there.
        self.is_first_start = key is None and flow_run.get_run_count() in (None, 0, 1)
        self.report = Report()
        self.watch = Watch(self.flow_run_id)
        self._run_count = flow_run.get_run_count()
        self._guard: guard.Guard | None = None
        self.job_settled = True
        self.earlier_endpoints: list[str] = []
        self._ends_as: Status = "completed"
        self._serving_since: float | None = None
        self._began = time.monotonic()

    def start_guard(self) -> None:
        """Have a process of its own clean up if this one dies."""
        self.job_settled = False
        place = find_address(self.request.workspace)
        here = {"subscription_id": place.subscription_id, "resource_group": place.resource_group, "name": place.name}
        limits = self.request.limits
        self._guard = guard.start(
            guard.Guarded(
                # The guard runs in another folder, where no config.json need be.
                workspace=self.request.workspace.model_copy(update=here),
                key=self.key,
                holder=self.watch.holder,
                lease_minutes=limits.lease_minutes,
                delete_minutes=limits.delete_minutes,
                flow_run_id=self.flow_run_id,
                run_count=self._run_count,
                # Prefect's runners set this for the processes that they start.
                worker=os.getppid() if "PREFECT__FLOW_RUN_ID" in os.environ else None,
            )
        )

    def follow(self, submission: Submission) -> None:
        """Put the job into the report and hold it; what earlier starts of the run have left up is no longer needed."""
        self.report.run, self.report.job = Run(attempt=submission.attempt), submission.job
        self.watch.hold(self.key, submission.attempt)
        if submission.job.attached:
            self.earlier_endpoints = self._ask_deletion_of_earlier_endpoints()

    def job_ended(self, job: Job) -> None:
        """Put the completed job into the report; nothing needs to end it any more.

        Raises:
            CloudError: `TakenOver`, another start has seen it complete too and goes on.
        """
        self.report.job = job
        self.job_settled = True
        if self.watch.lost():
            raise self.watch.loss

    def cancel_job(self, error: BaseException) -> None:
        """Ask for the job's cancellation, unless another start has taken it over."""
        status = None if self.watch.lost() else self._cancel_held_job()
        if self.report.job and status:
            self.report.job = self.report.job.model_copy(update={"status": status})
        # Without a status there may be a job whose submission was cut off, but not when the service refused it.
        refused = isinstance(error, RetuneError) and not isinstance(error, Stopped) and self.report.job is None
        self.job_settled = status is not None or refused or self.watch.taken_over

    def _cancel_held_job(self) -> str | None:
        """Status of the run's last job, whose cancellation is asked for; None for another's, or one not to be read."""
        from azure.core.exceptions import AzureError

        workspace = self.request.workspace
        # Once this start has held the job, tags of an earlier one are late.
        claim = cleanup.Claim(self.key, self.watch.holder, earlier=self.report.job is not None)
        try:
            return cleanup.cancel_job(workspace, claim, ledger.last_job(workspace, self.key))
        except AzureError as error:
            log.error("the job of run %s could not be cancelled: %s", self.key, first_line(error))
            return None

    def starts_serving(self) -> None:
        """From now on the endpoint costs money."""
        self._serving_since = time.monotonic()

    def _ask_deletion_of_earlier_endpoints(self) -> list[str]:
        """Names of what earlier starts of the run have left up, kept or not; this start makes its own."""
        from azure.core.exceptions import AzureError

        claim = cleanup.Claim(self.key, self.watch.holder, earlier=True, kept=True)
        try:
            return cleanup.request_deletions(self.request.workspace, claim)
        except AzureError as error:
            log.warning("earlier endpoints could not be listed; the sweep deletes them: %s", first_line(error))
            return []

    def release_guard(self) -> None:
        """Let the guard end, or leave to it what this run could not see through."""
        if self._guard is None:
            return
        endpoint = self.report.endpoint
        settled = endpoint is None or endpoint.deleted or endpoint.kept_until
        self._guard.release("cancel" if not self.job_settled else "done" if settled else "")

    def close(self, status: Status, error: BaseException | None = None) -> None:
        """Write the report; a failure names the step that Prefect saw failing."""
        with SIGNALS.deferred("writing the report"):
            self._write(status, error)

    def _write(self, status: Status, error: BaseException | None) -> None:
        report = self.report
        report.status = status
        report.run = Run(
            key=self.key,
            attempt=report.run.attempt,
            flow_run_id=self.flow_run_id,
            seconds=round(time.monotonic() - self._began, 1),
        )
        runs = read_task_runs(self.flow_run_id)
        report.steps = [
            Step(
                name=_name(run),
                state=run.state_name or "Unknown",
                seconds=round(run.total_run_time.total_seconds(), 2),
            )
            for run in runs
        ]
        if error is not None:
            report.error = _problem(error, _first_failure(runs))
        report.cost = self._cost()
        REPORTS[self.flow_run_id] = report
        if problem := keep_report(self.flow_run_id, report.to_json()):
            log.error(problem)
            report.warnings = [*report.warnings, problem]
        show_summary(report)
        PAGE.finish()

    def _cost(self) -> Cost | None:
        """What was used, at list prices; a cluster's idle time before it shrinks is not in it."""
        report = self.report
        if report.job is None or report.compute is None:
            return None
        nodes = next((float(one.value) for one in report.parameters if one.name == "num_nodes_finetune"), 1.0)
        price, day = report.compute.price_per_hour_usd, report.endpoint and report.endpoint.price_per_day_usd
        up = time.monotonic() - self._serving_since if self._serving_since else 0
        return Cost(
            training_usd=price and round(price * nodes * report.job.seconds / 3600, 4),
            endpoint_usd=day and round(day * up / 86_400, 4),
        )

    def skip(self, model: RegisteredModel) -> NoReturn:
        """End the run: the last good model is what it would make."""
        self.report.registered_model = model
        self._ends_as = "skipped"
        raise EndsHere

    def decline(self) -> NoReturn:
        """End the run: a person did not want the model, or did not say so in time."""
        self._ends_as = "declined"
        raise EndsHere

    def close_as_planned(self) -> None:
        """Write the report of a run that came to its end, wherever that was."""
        self.close(self._ends_as)

    def measured(self, metrics: JobMetrics) -> None:
        """Put what the job has logged into the report."""
        self.report.metrics, self.report.curves = metrics.values, metrics.curves
        self.report.model = self.report.model.model_copy(update={"weights": metrics.weights})

    def final_state(self) -> State:
        """The Prefect state that says what happened."""
        error, endpoint = self.report.error, self.report.endpoint
        match self.report.status:
            case "completed":
                kept = endpoint and endpoint.kept_until
                return Completed(
                    message="The model is registered and answered; the endpoint is "
                    + (f"left up until {kept:%Y-%m-%d %H:%M} UTC." if kept else "deleted.")
                )
            case "skipped":
                made = self.report.registered_model
                text = f"Nothing has changed since {made.name}:{made.version} was made."
                return Completed(name="Skipped", message=text)
            case "declined":
                return Cancelled(name="Declined", message=decision_text(self.report.decision))
            case "cancelled":
                return Cancelled(message=error.message)
            case _:
                return Failed(message=f"{error.step}: {error.code}: {error.message} {error.fix}")


@contextlib.contextmanager
def recording(request: Request, key: str | None) -> Iterator[Recorder]:
    """A recorder whose report is closed however the recipe ends; ends that the report explains do not propagate."""
    STOP.clear()
    _let_progress_through()
    run = Recorder(request, key)
    with SIGNALS.watched():
        try:
            with run.watch.watching(request), contextlib.suppress(EndsHere):
                yield run
        except BadRequest as error:
            run.close("rejected", error)
        except (KeyboardInterrupt, TerminationSignal):
            STOP.set()
            _close_stopped(run)
        except Exception as error:
            explained = explain(error)
            if SIGNALS.reason and (explained is None or isinstance(error, Stopped)):
                # Cut short in the middle of a call, a library may raise anything.
                log.debug("what the stop was turned into", exc_info=error)
                _close_stopped(run)
                return
            if explained is None:
                log.exception("unexpected error")
            elif explained is not error:
                log.debug("the step's own error", exc_info=error)
            run.close("failed", explained or error)
        except BaseException as error:
            # Prefect's own time limit, which makes the state by itself.
            run.close("failed", error)
            raise
        else:
            # A stop that came while the endpoint was being deleted is one all the same.
            _close_stopped(run) if SIGNALS.reason else run.close_as_planned()
        finally:
            # What still waits in a thread has nothing left to wait for.
            STOP.set()
            run.release_guard()


def _close_stopped(run: Recorder) -> None:
    reason = SIGNALS.reason
    log.warning("stopped: %s", reason.message)
    run.close("cancelled" if isinstance(reason, Stopped) else "failed", reason)


def _let_progress_through() -> None:
    """Give Prefect's handlers (`extra_loggers` in pyproject.toml) our INFO lines; what the command line set stays."""
    logger = logging.getLogger("retune")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def gather(*steps: PrefectFuture | State) -> list:
    """The results of all steps, waited for together. The problems of several BadRequests become one BadRequest."""
    for step in steps:
        if isinstance(step, PrefectFuture):
            step.wait()
    states = [step.state if isinstance(step, PrefectFuture) else step for step in steps]
    # A step that never ran because another failed has no result of its own.
    outcomes = [state.result(raise_on_failure=False) for state in states if state.is_final()]
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    refusals = [error for error in errors if isinstance(error, BadRequest)]
    if errors and len(refusals) == len(errors):
        raise BadRequest([problem for refusal in refusals for problem in refusal.problems])
    for error in errors:
        raise error
    return outcomes


def is_completed(step: PrefectFuture) -> bool:
    """Whether the step, waited for, did what it should."""
    step.wait()
    return step.state.is_completed()


@contextlib.contextmanager
def holding(run: Recorder) -> Iterator[list[PrefectFuture]]:
    """Look after job and endpoint of the body; a list for the steps that the body starts beside itself.

    When the body ends other than well, also by a signal, the job is asked to cancel. The endpoint is deleted at every
    end, unless it is to be kept; what earlier starts of the run have left up is deleted too. Both requests are sent
    before anything is waited for, because a worker that cancels gives 30 s; then the steps beside are told to stop, and
    the deletion is watched. A signal waits until it is done.
    """
    beside: list[PrefectFuture] = []
    run.start_guard()
    try:
        yield beside
    except BaseException as error:
        with SIGNALS.deferred("asking for the job's cancellation"):
            if not run.job_settled:
                run.cancel_job(error)
            _tear_down(run, beside)
        raise
    _tear_down(run, beside)


def _tear_down(run: Recorder, beside: list[PrefectFuture]) -> None:
    endpoint = run.report.endpoint
    own = [endpoint.name] if endpoint and not endpoint.kept_until else []
    if not (own or run.earlier_endpoints):
        return
    shown = ", ".join([*own, *run.earlier_endpoints])
    by = f" and expires {endpoint.expires:%H:%M} UTC" if own else ""
    with SIGNALS.deferred(f"deleting endpoint {shown}, which costs money{by},"):
        asked = bool(own) and cleanup.request_deletion(run.request.workspace, endpoint.name)
        STOP.set()
        for future in beside:
            with contextlib.suppress(TimeoutError):
                future.wait(timeout=FUTURE_SECONDS)
        if own:
            deleted = delete_endpoint(run.request, endpoint.name, asked)
            run.report.endpoint = endpoint.model_copy(update={"deleted": deleted})
        for name in run.earlier_endpoints:
            delete_endpoint(run.request, name, asked=True)


def read_task_runs(flow_run_id: str) -> list[TaskRun]:
    """The flow run's task runs in the order of their start, from Prefect's API.

    Their states reach the API as events, a moment after the tasks ended; this waits for that moment, but not long.
    """
    deadline = time.monotonic() + STATES_SECONDS
    if not is_there(str(PREFECT_API_URL.value())):
        # Prefect's client would ask again and again for a minute.
        log.error("Prefect's API does not answer; the report has no steps")
        return []
    with get_client(sync_client=True) as client:
        while True:
            try:
                runs = client.read_task_runs(
                    flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])),
                    sort=TaskRunSort.EXPECTED_START_TIME_ASC,
                )
            except httpx.HTTPError as error:
                log.error("Prefect's API did not answer; the report has no steps: %s", error)
                return []
            if time.monotonic() > deadline or not any(run.state and run.state.is_running() for run in runs):
                return runs
            time.sleep(0.1)


def is_there(api: str) -> bool:
    """Whether a Prefect API answers at all, and soon."""
    try:
        httpx.get(f"{api}/health", timeout=HEALTH_SECONDS)
    except httpx.TransportError:
        return False
    return True


def _first_failure(runs: list[TaskRun]) -> str:
    """Name of the task that failed first: later ones were told to stop because of it."""
    failed = [run for run in runs if run.state and (run.state.is_failed() or run.state.is_crashed()) and run.end_time]
    return _name(min(failed, key=lambda run: run.end_time)) if failed else "flow"


def _name(run: TaskRun) -> str:
    return run.name.rsplit("-", 1)[0]


def _problem(error: BaseException, step: str) -> Problem:
    match error:
        case RetuneError():
            # A teardown that fails must not hide why it was needed.
            first = f" Before that: {error.__context__}" if isinstance(error.__context__, RetuneError) else ""
            return Problem(step=step, code=error.code, message=error.message + first, fix=error.fix)
        case _:
            return Problem(
                step=step,
                code=type(error).__name__,
                message=redact(str(error)) or type(error).__name__,
                fix="See the traceback in the log.",
            )

"""A run's state, and its report, which is written however the run ends."""

import contextlib
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas import TaskRun
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import TaskRunSort
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from flows.guard import Guard
from flows.outcome import calculate_cost, conclude, describe_problem, list_steps
from flows.signals import SIGNALS
from flows.watch import Watch
from retune import last_run
from retune.errors import BadRequest, RetuneError
from retune.folders import keep_report
from retune.report import Report, Run, Status
from retune.request import Request
from retune.waiting import STOP, poll
from retune_cloud.workspace import find_address
from tasks.metrics import JobMetrics
from tasks.showing import PAGE, show_summary

log = logging.getLogger("retune.run")

STATES_SECONDS, HEALTH_SECONDS = 5, 5


# Of the runs of this process, by flow run id, for the one who started them.
REPORTS: dict[str, Report] = {}


@dataclass
class RunState:
    """What is known of a run while this process executes it."""

    request: Request
    key: str
    flow_run_id: str
    run_count: int
    # A named run, or one that is started again, resumes what exists.
    is_first_start: bool
    watch: Watch
    report: Report = field(default_factory=Report)
    # How the recipe ends if nothing goes wrong.
    ends_as: Status = "completed"
    guard: Guard | None = None
    # No job of the run needs to be cancelled.
    job_settled: bool = True
    earlier_endpoints: list[str] = field(default_factory=list)
    background: list[PrefectFuture] = field(default_factory=list)
    # By the monotonic clock: when the run began, and when its endpoint began to cost money.
    began: float = field(default_factory=time.monotonic)
    serving_since: float | None = None


def begin(request: Request, key: str | None) -> RunState:
    """The state of the flow run that begins."""
    STOP.clear()
    _let_progress_through()
    flow_run_id, count = str(flow_run.get_id()), flow_run.get_run_count()
    _note_last(request, key or flow_run_id, flow_run_id)
    return RunState(
        request=request,
        key=key or flow_run_id,
        flow_run_id=flow_run_id,
        run_count=count,
        is_first_start=key is None and count in (0, 1),
        watch=Watch(flow_run_id, request),
    )


def _note_last(request: Request, key: str, flow_run_id: str) -> None:
    """Note which run this machine has started last, and where: it may be asked for before it has signed in."""
    workspace = request.workspace
    with contextlib.suppress(BadRequest):
        address = find_address(workspace)
        parts = {"subscription_id": address.subscription_id, "resource_group": address.resource_group}
        workspace = workspace.model_copy(update=parts | {"name": address.name})
    last_run.keep(last_run.LastRun(key=key, flow_run_id=flow_run_id, workspace=workspace))


class Recorded:
    """The report is written however the body ends. Errors that the report explains do not propagate."""

    def __init__(self, run: RunState) -> None:
        self._run = run

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        try:
            write_report(self._run, error)
        finally:
            # What still waits in a thread has nothing left to wait for.
            STOP.end_steps()
        # Prefect's own time limit makes the state by itself.
        return isinstance(error, Exception | KeyboardInterrupt)


def add_metrics(report: Report, metrics: JobMetrics) -> None:
    """Put what the job has logged into the report."""
    report.metrics, report.curves = metrics.values, metrics.curves
    if report.model:
        report.model = report.model.model_copy(update={"weights": metrics.weights})


def write_report(run: RunState, error: BaseException | None) -> None:
    """Complete the report, keep it, and show it in Prefect."""
    with SIGNALS.deferred("writing the report"):
        report, now = run.report, time.monotonic()
        report.status, shown = conclude(run.ends_as, error, STOP.reason)
        _log_error(error, shown)
        report.run = Run(
            key=run.key,
            attempt=report.run.attempt,
            flow_run_id=run.flow_run_id,
            began=datetime.now(UTC) - timedelta(seconds=now - run.began),
            seconds=round(now - run.began, 1),
        )
        runs = read_task_runs(run.flow_run_id)
        report.steps = list_steps(runs)
        report.error = None if shown is None else describe_problem(shown, runs)
        report.cost = calculate_cost(report, now - run.serving_since if run.serving_since else 0)
        REPORTS[run.flow_run_id] = report
        if problem := keep_report(run.flow_run_id, report.to_json()):
            log.error(problem)
            report.warnings = [*report.warnings, problem]
        show_summary(report)
        PAGE.finish()


def read_task_runs(flow_run_id: str) -> list[TaskRun]:
    """The flow run's task runs in the order of their start, from Prefect's API.

    Their states reach the API as events, a moment after the tasks ended; this waits for that moment, but not long.
    """
    if not is_answering(str(PREFECT_API_URL.value())):
        # Prefect's client would ask again and again for a minute.
        log.error("Prefect's API does not answer; the report has no steps")
        return []
    runs: list[TaskRun] = []

    def have_ended() -> bool | None:
        runs[:] = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run_id)])),
            sort=TaskRunSort.EXPECTED_START_TIME_ASC,
        )
        return None if any(run.state and run.state.is_running() for run in runs) else True

    with get_client(sync_client=True) as client:
        try:
            poll(have_ended, seconds=STATES_SECONDS, every=0.1, stoppable=False)
        except httpx.HTTPError as error:
            log.error("Prefect's API did not answer; the report has no steps: %s", error)
            return []
    return runs


def is_answering(api: str) -> bool:
    """Whether a Prefect API answers at all, and soon."""
    try:
        httpx.get(f"{api}/health", timeout=HEALTH_SECONDS)
    except httpx.TransportError:
        return False
    return True


def _log_error(error: BaseException | None, shown: BaseException | None) -> None:
    """Say why the run was stopped, and keep what the report does not show of an error."""
    if STOP.reason and shown is STOP.reason:
        log.warning("stopped: %s", STOP.reason.message)
    if isinstance(shown, RetuneError) and shown is not error:
        log.debug("the step's own error", exc_info=error)
    elif isinstance(error, Exception) and shown is error and not isinstance(error, RetuneError):
        log.error("unexpected error", exc_info=error)


def _let_progress_through() -> None:
    """Give Prefect's handlers (`extra_loggers` in pyproject.toml) our INFO lines; what the command line set stays."""
    logger = logging.getLogger("retune")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)

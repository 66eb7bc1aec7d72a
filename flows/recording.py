"""What surrounds the recipe: key and report of the run, honest final states, clean-up that no second Ctrl-C ends."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas import TaskRun
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import TaskRunSort
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State

from retune.errors import BadRequest, RetuneError
from retune.folders import report_file
from retune.report import Problem, Report, Run, Status, Step
from retune.request import Request
from retune.waiting import STOP
from tasks.job import cancel_run

log = logging.getLogger("retune.run")

FUTURE_SECONDS = 60
STATES_SECONDS = 5


class Recorder:
    """The report of a flow run while it is written."""

    def __init__(self, key: str | None) -> None:
        self.flow_run_id = str(flow_run.get_id())
        self.key = key or self.flow_run_id
        self.report = Report()
        self._began = time.monotonic()

    def close(self, status: Status, error: BaseException | None = None) -> None:
        """Write the report to disk; a failure names the step that Prefect saw failing."""
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
        report_file(self.flow_run_id).write_text(report.to_json(), encoding="utf-8")

    def final_state(self) -> State:
        """The Prefect state that says what happened."""
        error = self.report.error
        match self.report.status:
            case "completed":
                return Completed(message="The model is registered and answered; the endpoint is deleted.")
            case "cancelled":
                return Cancelled(message=error.message)
            case _:
                return Failed(message=f"{error.step}: {error.code}: {error.message} {error.fix}")


@contextlib.contextmanager
def recording(key: str | None) -> Iterator[Recorder]:
    """A recorder whose report is closed however the recipe ends; ends that the report explains do not propagate."""
    STOP.clear()
    _let_progress_through()
    recorder = Recorder(key)
    with SIGNALS.watched():
        try:
            yield recorder
        except BadRequest as error:
            recorder.close("rejected", error)
        except (KeyboardInterrupt, TerminationSignal) as error:
            STOP.set()
            log.warning("stopped by a signal")
            recorder.close("cancelled", error)
        except Exception as error:
            if not isinstance(error, RetuneError):
                log.exception("unexpected error")
            recorder.close("failed", error)
        else:
            recorder.close("completed")
        finally:
            # What still waits in a thread has nothing left to wait for.
            STOP.set()


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


@contextlib.contextmanager
def cancelling_job(run: Recorder, request: Request) -> Iterator[None]:
    """Ask for the cancellation of the run's job when the body ends other than well, also by a signal."""
    try:
        yield
    except BaseException:
        with SIGNALS.deferred("asking for the job's cancellation"):
            status = cancel_run(request, run.key)
        if run.report.job and status:
            run.report.job = run.report.job.model_copy(update={"status": status})
        raise


@contextlib.contextmanager
def tearing_down(beside: list[PrefectFuture]) -> Iterator[None]:
    """Run the body once the steps beside have ended, told to stop if need be; a signal waits until it is done."""
    with SIGNALS.deferred("deleting the endpoint, which costs money"):
        STOP.set()
        for future in beside:
            with contextlib.suppress(TimeoutError):
                future.wait(timeout=FUTURE_SECONDS)
        yield


class Signals:
    """What SIGINT and SIGTERM do to a run: the first stops it, those that come during clean-up only get an answer."""

    def __init__(self) -> None:
        self._busy = ""

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Handle both signals in the body. Python gives them to the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._busy = ""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self, doing: str) -> Iterator[None]:
        """Run the body to its end whatever signal comes."""
        before, self._busy = self._busy, doing
        try:
            yield
        finally:
            self._busy = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Nothing here may take a lock, as logging and STOP do: this thread may hold it.
        if self._busy:
            os.write(2, f"{self._busy} first; please wait\n".encode())
            return
        self._busy = "cleaning up"
        raise KeyboardInterrupt if number == signal.SIGINT else TerminationSignal(signal=number)


SIGNALS = Signals()


def read_task_runs(flow_run_id: str) -> list[TaskRun]:
    """The flow run's task runs in the order of their start, from Prefect's API.

    Their states reach the API as events, a moment after the tasks ended; this waits for that moment, but not long.
    """
    deadline = time.monotonic() + STATES_SECONDS
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
        case KeyboardInterrupt():
            return Problem(step=step, code="Interrupted", message="The run was interrupted.", fix="Run it again.")
        case TerminationSignal():
            return Problem(step=step, code="Terminated", message="The process was told to end.", fix="Run it again.")
        case _:
            return Problem(
                step=step,
                code=type(error).__name__,
                message=str(error) or type(error).__name__,
                fix="See the traceback in the log.",
            )

"""How a run ended, from plain data: status and error, steps, cost, and the state in Prefect that says so."""

from collections.abc import Sequence

from prefect.client.schemas import State, TaskRun
from prefect.states import Cancelled, Completed, Failed

from retune.errors import BadRequest, RetuneError, Stopped
from retune.report import Cost, Decision, Problem, RegisteredModel, Report, Status, Step
from retune.texts import redact
from retune.verdict import decision_text
from retune_cloud.sdk_errors import explain


def conclude(
    planned: Status, error: BaseException | None, reason: RetuneError | None
) -> tuple[Status, BaseException | None]:
    """Status of the run, and the error that its report shows.

    Args:
        planned: How the recipe says that it ended.
        error: What it raised instead.
        reason: Why the run was told to stop, also if it did not notice.
    """
    if isinstance(error, BadRequest):
        return "rejected", error
    explained = explain(error) if isinstance(error, Exception) else None
    # Cut short in the middle of a call, a library may raise anything.
    unexplained = isinstance(error, Exception | KeyboardInterrupt) and explained is None
    if reason and (error is None or unexplained or isinstance(error, Stopped)):
        return "cancelled" if isinstance(reason, Stopped) else "failed", reason
    return ("failed", explained or error) if error else (planned, None)


def list_steps(runs: Sequence[TaskRun]) -> list[Step]:
    """The steps of the run, as Prefect saw them."""
    return [
        Step(
            name=_name(run),
            state=run.state_name or "Unknown",
            seconds=round(run.total_run_time.total_seconds(), 2),
        )
        for run in runs
    ]


def describe_problem(error: BaseException, runs: Sequence[TaskRun]) -> Problem:
    """The error for the report, with the step that failed first: later ones were told to stop because of it."""
    failed = [
        (run.end_time, _name(run))
        for run in runs
        if run.end_time and run.state and (run.state.is_failed() or run.state.is_crashed())
    ]
    step = min(failed)[1] if failed else "flow"
    if isinstance(error, RetuneError):
        # A teardown that fails must not hide why it was needed.
        first = f" Before that: {error.__context__}" if isinstance(error.__context__, RetuneError) else ""
        return Problem(step=step, code=error.code, message=error.message + first, fix=error.fix)
    code = type(error).__name__
    return Problem(step=step, code=code, message=redact(str(error)) or code, fix="See the traceback in the log.")


def calculate_cost(report: Report, serving_seconds: float) -> Cost | None:
    """What was used, at list prices; a cluster's idle time before it shrinks is not in it."""
    if report.job is None or report.compute is None:
        return None
    nodes = next((float(item.value) for item in report.parameters if item.name == "num_nodes_finetune"), 1.0)
    price, day = report.compute.price_per_hour_usd, report.endpoint and report.endpoint.price_per_day_usd
    return Cost(
        training_usd=price and round(price * nodes * report.job.seconds / 3600, 4),
        endpoint_usd=day and round(day * serving_seconds / 86_400, 4),
    )


def final_state(report: Report) -> State:
    """The Prefect state that says what happened."""
    match report:
        case Report(status="completed", endpoint=endpoint):
            kept = endpoint and endpoint.kept_until
            end = f"kept until {kept:%Y-%m-%d %H:%M} UTC." if kept else "deleted."
            return Completed(message=f"The model is registered and answered; the endpoint is {end}")
        case Report(status="skipped", registered_model=RegisteredModel() as model):
            text = f"Nothing has changed since {model.name}:{model.version} was trained."
            return Completed(name="Skipped", message=text)
        case Report(status="declined", decision=Decision() as decision):
            return Cancelled(name="Declined", message=decision_text(decision))
        case Report(status="cancelled", error=Problem() as error):
            return Cancelled(message=error.message)
        case Report(error=Problem() as error):
            return Failed(message=f"{error.step}: {error.code}: {error.message} {error.fix}")
    raise ValueError(f"a report with the status '{report.status}' lacks what belongs to it")


def _name(run: TaskRun) -> str:
    """The step's own name; its run is named after what it works on too. A task's key is its name and a digest."""
    return run.task_key.rpartition("-")[0]

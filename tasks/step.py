"""The two kinds of tasks. What a task returns is neither cached nor kept: a later run asks the cloud again.

The SDK retries a call. A repeatable step retries itself, a few times, and only after a failure of the network or of the
service: it reads, or writes what a repeat leaves unchanged.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State, TaskRun
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff

from retune import names
from retune.waiting import pause
from retune_cloud.sdk_errors import is_transient

P = ParamSpec("P")
R = TypeVar("R")

# What a step works on, by the parameter that says so, the most telling first.
SUBJECTS: dict[str, Callable[[Any], str]] = {
    "endpoint": lambda endpoint: endpoint.name,
    "submission": lambda submission: submission.job.name,
    "request": names.run_title,
    "job": lambda leftover: leftover.name,
    "name": str,
}


def step(body: Callable[P, R], **settings: Any) -> Task[P, R]:
    """The task of a body, each of whose runs is named after what it works on."""
    # Prefect calls it with the step's parameters.
    name: Any = partial(_run_name, body.__name__)
    return Task(body, task_run_name=name, cache_policy=NO_CACHE, persist_result=False, **settings)


def repeatable_step(body: Callable[P, R]) -> Task[P, R]:
    """The task of a body that may be repeated; it does not begin in a run that was told to stop."""

    @wraps(body)
    def unless_stopped(*args: P.args, **kwargs: P.kwargs) -> R:
        pause(0)
        return body(*args, **kwargs)

    return step(
        unless_stopped,
        retries=3,
        retry_delay_seconds=exponential_backoff(backoff_factor=2),
        retry_jitter_factor=0.5,
        retry_condition_fn=_may_succeed,
    )


def current_flow_run() -> UUID:
    """Id of the flow run in which the calling step runs."""
    run_id = flow_run.get_id()
    if run_id is None:
        raise RuntimeError("a step was called outside a flow run")
    return UUID(run_id)


def _run_name(step: str, parameters: dict[str, Any]) -> str:
    """Step and subject, e.g. `deploy: retune-4d689e8cf9-4ec48897-1` or `read_model: Phi-4 on ultrachat_200k`."""
    subject = next((text(parameters[name]) for name, text in SUBJECTS.items() if name in parameters), "")
    return f"{step}: {subject}" if subject else step


def _may_succeed(task: Task, run: TaskRun, state: State) -> bool:
    """Whether a failed step may succeed on a repeat; Prefect calls this with the failed state."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and is_transient(error)

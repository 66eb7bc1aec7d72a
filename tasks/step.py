"""The two kinds of tasks. What a task returns is neither cached nor kept: a later run asks the cloud again.

The SDK retries a call. A repeatable step retries itself, a few times, and only when the failure was on the way or the
service's own: it reads, or writes what a repeat leaves unchanged.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State, TaskRun
from prefect.tasks import exponential_backoff

from retune.waiting import pause
from retune_cloud.sdk_errors import is_transient

P = ParamSpec("P")
R = TypeVar("R")

step = partial(task, cache_policy=NO_CACHE, persist_result=False)


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


def _may_succeed(task: Task, run: TaskRun, state: State) -> bool:
    """Whether a failed step may succeed on a repeat; Prefect calls this with the failed state."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and is_transient(error)

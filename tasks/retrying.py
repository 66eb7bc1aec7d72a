"""The one retry policy of the tasks: for reads and for writes that a repeat leaves unchanged.

The SDK retries a call; this retries a step, a few times, and only when the failure was on the way or the service's own.
"""

from prefect import Task
from prefect.client.schemas import State, TaskRun
from prefect.tasks import exponential_backoff

from retune_cloud import sdk_errors

HARMLESS = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
}


def is_transient(task: Task, run: TaskRun, state: State) -> bool:
    """Whether a failed step may succeed on a repeat; Prefect calls this with the failed state."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and sdk_errors.is_transient(error)

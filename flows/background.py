"""Steps that run in threads beside the recipe: their results, waited for together, and their end."""

import contextlib
from collections.abc import Iterable
from typing import TypeVar

from prefect import Task
from prefect.client.schemas import State
from prefect.futures import PrefectFuture

from retune.errors import BadRequest
from retune.waiting import STOP

R = TypeVar("R")

FUTURE_SECONDS = 60


def submit_after(step: Task[..., R], *arguments: object) -> PrefectFuture[R]:
    """The step, started in a thread. Prefect waits for arguments that are the futures of other steps."""
    return step.submit(*arguments)


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
    """Whether the step, waited for, completed."""
    step.wait()
    return step.state.is_completed()


def end_background_steps(steps: Iterable[PrefectFuture]) -> None:
    """Tell all steps to stop and wait for these, but not long."""
    STOP.end_steps()
    for step in steps:
        with contextlib.suppress(TimeoutError):
            step.wait(timeout=FUTURE_SECONDS)

"""A person's answer to a run that waits for approval, given from the command line instead of the run's page."""

from typing import TYPE_CHECKING

from retune.errors import BadRequest
from retune.request import RUN_KEY
from retune_cli import local

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas import FlowRun

FLOW = "finetune"


def answer(run: str, *, approve: bool, by: str, note: str) -> None:
    """Resume the paused run of that key with an answer.

    Raises:
        BadRequest: no run of that key waits for approval, or the answer does not fit the form.
        CloudError: `PrefectAway` or `PrefectRefused`, Prefect's API does not answer, or refuses the sign-in.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.responses import StateAcceptDetails

    with local.known_prefect(), get_client(sync_client=True) as client:
        waiting = _waiting_runs(client)
        waiting_id = next((flow_run.id for flow_run in waiting if run in _names(flow_run)), None)
        if waiting_id is None:
            listed = ", ".join(sorted(_names(flow_run)[0] for flow_run in waiting)) or "none"
            fix = f"Waiting runs: {listed}. The log of a run from `python -m flows.finetune` has the command to use."
            raise BadRequest([f"No run '{run}' waits for approval in Prefect."], fix)
        form = {"answer": "approve" if approve else "reject", "by": by, "note": note}
        result = client.resume_flow_run(waiting_id, run_input=form)
    if not isinstance(result.details, StateAcceptDetails):
        raise BadRequest([f"Prefect did not take the answer: {result.details.reason}"])


def _names(run: "FlowRun") -> list[str]:
    """The run's key, if it has one, and its id. Whoever may start runs may have given one any key."""
    key = run.parameters.get("run_key")
    return [*([key] if isinstance(key, str) and RUN_KEY.fullmatch(key) else []), str(run.id)]


def _waiting_runs(client: "SyncPrefectClient") -> "list[FlowRun]":
    """The flow runs that wait for a person."""
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    return client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])), flow_run_filter=paused)

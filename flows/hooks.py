"""What Prefect calls after a run that was cancelled or has crashed, where the run's process may be gone.

A runner or worker calls it in a process of its own, without the run's memory, also after it has killed the run; the run
calls it itself when it ends in good order, and then there is nothing left to do.
"""

import logging

from prefect import Flow
from prefect.client.schemas import FlowRun
from prefect.states import State

from flows.form import complete_stored

log = logging.getLogger("retune.run")


def clean_up_after(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """Delete the run's endpoints but for a kept one; after a cancellation, ask for the cancellation of its job too.

    The job of a crashed run is left until its lease lapses: a retry goes on with it. What another run with the same key
    has taken over is left to that run.
    """
    # Only here: whoever shows or starts the flow has nothing to clean up.
    from retune import names
    from retune_cloud import ledger

    request = complete_stored(flow_run.parameters, flow_run.deployment_id)
    key = flow_run.parameters.get("run_key") or str(flow_run.id)
    left = [
        endpoint
        for endpoint in ledger.list_endpoints(request.workspace, key)
        if names.holding_flow_run(endpoint.holder) == str(flow_run.id) and not endpoint.kept
    ]
    for endpoint in left:
        ledger.ask_deletion(request.workspace, endpoint.name)
    job = ledger.last_job(request.workspace, key)
    held = job is not None and names.holding_flow_run(job.holder) == str(flow_run.id)
    if held and state.is_cancelled() and job.status not in ledger.ENDING:
        ledger.ask_cancellation(request.workspace, job.name)
    for endpoint in left:
        ledger.delete_endpoint(request.workspace, endpoint.name, request.limits.delete_minutes, asked=True)

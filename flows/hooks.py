"""What Prefect calls after a run that was cancelled or has crashed, where the run's process may be gone.

A runner or worker calls it in a process of its own, without the run's memory, even after it has killed the run. A run
that ends in good order calls it too, and then nothing is left to do.
"""

import logging

from prefect import Flow
from prefect.client.schemas import FlowRun, State

from flows.form import complete_stored

log = logging.getLogger("retune.run")


def clean_up_after(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """Delete the run's endpoints except a kept one; after a cancellation, also request its job's cancellation.

    The job of a crashed run keeps running until its lease expires: a retry resumes it. Resources that another run with
    the same key has taken over stay with that run.
    """
    # Only here: whoever shows or starts the flow has nothing to clean up.
    from retune_cloud import cleanup

    request = complete_stored(flow_run.parameters, flow_run.deployment_id)
    key = flow_run.parameters.get("run_key") or str(flow_run.id)
    claim = cleanup.Claim(key, flow_run=str(flow_run.id))
    cleanup.end(request.workspace, claim, request.limits.delete_minutes, job=state.is_cancelled())

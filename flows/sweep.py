"""Delete endpoints and cancel jobs that no run needs: after the loss of a machine, and whatever else was missed.

    python -m flows.sweep [--preset NAME|FILE] [--set workspace.key=value ...] [--dry-run] [--json]

It needs the cloud alone: owner, run key, expiry and lease are in the resources' tags. A second sweep has nothing to do.
"""

if __name__ == "__main__":
    from retune_cli.commands import sweep as command
    from retune_cli.running import run

    run(command)

import logging

from prefect import flow
from prefect.client.schemas import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from retune.folders import keep_report
from retune.report import Swept
from retune.request import Workspace
from retune.waiting import STOP
from tasks.sweep import cancel_leftover, delete_leftover, find_leftovers

log = logging.getLogger("retune.sweep")

# Reports of this process's sweeps, by flow run id, for the one who started them.
SWEPT: dict[str, Swept] = {}
# A constant default: the form in Prefect's UI shows it.
ENVIRONMENT = Workspace()


@flow(name="sweep", validate_parameters=True, persist_result=False)
def sweep(workspace: Workspace = ENVIRONMENT, dry_run: bool = False, delete_minutes: float = 20) -> State:
    """End the leftovers of runs; with `dry_run`, only list them. The report is kept under `.retune/runs`."""
    # A run that ended in this process has told its steps to stop.
    STOP.clear()
    swept = find_leftovers(workspace).model_copy(update={"dry_run": dry_run})
    if not dry_run:
        deleting = [delete_leftover.submit(workspace, endpoint, delete_minutes) for endpoint in swept.endpoints]
        jobs = [cancel_leftover(workspace, job) for job in swept.jobs]
        swept = swept.model_copy(update={"jobs": jobs, "endpoints": [future.result() for future in deleting]})
    SWEPT[str(flow_run.get_id())] = swept
    if problem := keep_report(str(flow_run.get_id()), swept.to_json()):
        log.error(problem)
    if not swept.clean:
        return Failed(message=swept.summary)
    # A name of its own, for the automation that reports leftovers.
    ended = not dry_run and (swept.endpoints or swept.jobs)
    return Completed(name="Swept" if ended else "Completed", message=swept.summary)

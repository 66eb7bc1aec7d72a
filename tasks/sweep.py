"""Find leftovers of runs, from the cloud alone, and end them. Touches only what Retune created, by tags and name.

`retune_cloud.ledger` says what is Retune's own, `retune_cloud.cleanup` when no run needs it any more.
"""

import logging
from collections.abc import Iterable

from retune.errors import WaitExpired
from retune.report import Leftover, Swept
from retune.request import Workspace
from retune_cloud import cleanup, ledger
from retune_cloud import workspace as cloud
from retune_cloud.ledger import OwnEndpoint, OwnJob
from retune_cloud.sdk_errors import first_line
from tasks.step import repeatable_step, step

log = logging.getLogger("retune.sweep")


@repeatable_step
def find_leftovers(workspace: Workspace) -> Swept:
    """What is left over in the workspace. Changes nothing."""
    address = cloud.find_address(workspace)
    log.info("sweeping workspace %s in %s at %s", address.name, address.resource_group, cloud.resource_manager())
    return Swept(
        workspace=address.name,
        endpoints=_leftovers(workspace, ledger.list_endpoints(workspace)),
        jobs=_leftovers(workspace, ledger.list_jobs(workspace)),
    )


@step
def cancel_leftover(workspace: Workspace, job: Leftover) -> Leftover:
    """The job with what was done; a lease that was renewed since it was found spares it."""
    from azure.core.exceptions import AzureError

    try:
        status = cleanup.cancel_job(workspace, cleanup.LEFTOVERS, ledger.find_job(workspace, job.key, job.attempt))
    except AzureError as error:
        return job.model_copy(update={"action": "failed", "error": first_line(error)})
    return job.model_copy(update={"action": "cancelled" if status else "spared"})


@step
def delete_leftover(workspace: Workspace, endpoint: Leftover, minutes: float) -> Leftover:
    """The endpoint with what was done; `deleted` once a GET answers 404."""
    from azure.core.exceptions import AzureError

    try:
        deleted = cleanup.delete_endpoint(workspace, endpoint.name, minutes, claim=cleanup.LEFTOVERS)
    except (AzureError, WaitExpired) as error:
        return endpoint.model_copy(update={"action": "failed", "error": first_line(error)})
    return endpoint.model_copy(update={"action": "deleted" if deleted else "spared"})


def _leftovers(workspace: Workspace, resources: Iterable[OwnEndpoint | OwnJob]) -> list[Leftover]:
    reasons = ((resource, cleanup.find_leftover_reason(workspace, resource)) for resource in resources)
    return [
        Leftover(name=resource.name, key=resource.key, attempt=resource.attempt, reason=reason)
        for resource, reason in reasons
        if reason
    ]

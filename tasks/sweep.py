"""Find what outlived its run, from the cloud alone, and end it; nothing that is not provably Retune's own is touched.

`retune_cloud.ledger` says what is Retune's own and when nobody needs it any more.
"""

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE

from retune.errors import WaitExpired
from retune.report import Leftover, Swept
from retune.request import Workspace
from retune_cloud import ledger
from retune_cloud import workspace as cloud
from retune_cloud.sdk_errors import first_line
from tasks.retrying import HARMLESS, is_transient

log = logging.getLogger("retune.sweep")


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=is_transient, **HARMLESS)
def find_leftovers(workspace: Workspace) -> Swept:
    """What is left over in the workspace. Changes nothing."""
    address = cloud.find_address(workspace)
    log.info("sweeping workspace %s in %s at %s", address.name, address.resource_group, cloud.resource_manager())
    endpoints = [(end, ledger.why_leftover(workspace, end)) for end in ledger.list_endpoints(workspace)]
    jobs = [(job, ledger.why_orphaned(job)) for job in ledger.list_jobs(workspace)]
    return Swept(
        workspace=address.name,
        endpoints=[_leftover(end, reason) for end, reason in endpoints if reason],
        jobs=[_leftover(job, reason) for job, reason in jobs if reason],
    )


@task(cache_policy=NO_CACHE, persist_result=False)
def cancel_job(workspace: Workspace, job: Leftover) -> Leftover:
    """The job with what was done; a lease that was renewed since it was found spares it."""
    from azure.core.exceptions import AzureError

    try:
        current = ledger.find_job(workspace, job.key, job.attempt)
        if current is None or ledger.why_orphaned(current) is None:
            return job.model_copy(update={"action": "spared"})
        ledger.ask_cancellation(workspace, job.name)
    except AzureError as error:
        return job.model_copy(update={"action": "failed", "error": first_line(error)})
    return job.model_copy(update={"action": "cancelled"})


@task(cache_policy=NO_CACHE, persist_result=False)
def delete_endpoint(workspace: Workspace, endpoint: Leftover, minutes: float) -> Leftover:
    """The endpoint with what was done; `deleted` once a GET answers 404."""
    from azure.core.exceptions import AzureError

    def wanted() -> bool:
        current = ledger.find_endpoint(workspace, endpoint.name)
        return current is not None and ledger.why_leftover(workspace, current) is not None

    try:
        gone = ledger.delete_endpoint(workspace, endpoint.name, minutes, wanted=wanted)
    except (AzureError, WaitExpired) as error:
        return endpoint.model_copy(update={"action": "failed", "error": first_line(error)})
    return endpoint.model_copy(update={"action": "deleted" if gone else "spared"})


def _leftover(found: ledger.OwnEndpoint | ledger.OwnJob, reason: str) -> Leftover:
    return Leftover(name=found.name, key=found.key, attempt=found.attempt, reason=reason)

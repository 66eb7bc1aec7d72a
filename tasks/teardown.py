"""Delete the run's endpoint, and only that; it counts as deleted when a GET answers 404."""

import logging
import time

from prefect import task
from prefect.cache_policies import NO_CACHE

from retune import workspace as cloud
from retune.request import Request
from retune.waiting import wait_until

log = logging.getLogger("retune.teardown")

LOOK_EVERY_SECONDS = 1.0
ASK_AGAIN_SECONDS = 5.0


@task(cache_policy=NO_CACHE, persist_result=False)
def delete_endpoint(request: Request, name: str) -> bool:
    """True, once the endpoint and its deployments are gone; also when there never was one.

    The service refuses a deletion while it still changes the endpoint, so the request is repeated until it is taken.

    Raises:
        WaitExpired: it is still there after limits.delete_minutes; the message has the command that deletes it.
    """
    minutes = request.limits.delete_minutes
    asked_at = -ASK_AGAIN_SECONDS

    def gone() -> bool | None:
        nonlocal asked_at
        if not _exists(request, name):
            return True
        if time.monotonic() - asked_at >= ASK_AGAIN_SECONDS:
            _ask(request, name)
            asked_at = time.monotonic()
        return None

    wait_until(
        gone,
        seconds=minutes * 60,
        every=LOOK_EVERY_SECONDS,
        what=f"Deletion of endpoint '{name}'",
        fix=f"It costs money. Delete it: az ml online-endpoint delete --name {name} --yes",
        stoppable=False,
    )
    log.info("endpoint %s is deleted (404)", name)
    return True


def _exists(request: Request, name: str) -> bool:
    """False when the service answers 404; what cannot be read now counts as there."""
    from azure.core.exceptions import AzureError, ResourceNotFoundError

    try:
        cloud.workspace_client(request.workspace).online_endpoints.get(name)
    except ResourceNotFoundError:
        return False
    except AzureError as error:
        log.warning("endpoint %s could not be read: %s", name, cloud.first_line(error))
    return True


def _ask(request: Request, name: str) -> None:
    from azure.core.exceptions import AzureError

    try:
        cloud.workspace_client(request.workspace).online_endpoints.begin_delete(name)
        log.info("asked for the deletion of endpoint %s", name)
    except AzureError as error:
        log.warning("endpoint %s is not deleted yet: %s", name, cloud.first_line(error))

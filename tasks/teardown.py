"""Delete the run's endpoint, and only that; it counts as deleted when a GET answers 404."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from retune.request import Request
from retune_cloud import cleanup


@task(cache_policy=NO_CACHE, persist_result=False)
def delete_endpoint(request: Request, name: str, asked: bool) -> bool:
    """True, once the endpoint and its deployments are gone; also when there never was one.

    `asked`: the deletion was requested a moment ago, and is only to be watched.

    Raises:
        WaitExpired: it is still there after limits.delete_minutes; the message has the command that deletes it.
    """
    cleanup.delete_endpoint(request.workspace, name, request.limits.delete_minutes, requested=asked)
    return True

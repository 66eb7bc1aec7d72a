"""What a guard does for a run that has died: delete its endpoint, end its job, and tell Prefect."""

import contextlib
import importlib
import logging
import select
from collections.abc import Callable
from uuid import UUID

from pydantic import BaseModel

from retune.errors import CloudError
from retune.request import Workspace
from retune.waiting import poll
from retune_cloud import cleanup, ledger
from retune_cloud import workspace as cloud

log = logging.getLogger("retune.guard")

# Requests that were on their way when the run died have had their effect by then.
SETTLE_SECONDS = 10
# A worker that is told to end kills its runs first and ends after them.
WORKER_SECONDS = 8
LOOK_EVERY_SECONDS = 1.0
# How long a service that does not answer is asked again. One on this machine does not come back by itself.
PATIENCE_SECONDS = 600
LOCAL_PATIENCE_SECONDS = 5
# What a lease may last longer, where the service's clock and this machine's differ.
CLOCK_SECONDS = 300


class Guarded(BaseModel):
    """The run that is guarded."""

    workspace: Workspace
    key: str
    holder: str
    lease_minutes: float
    delete_minutes: float
    flow_run_id: str
    run_count: int
    worker: int | None

    @property
    def claim(self) -> cleanup.Claim:
        """What the dead run held."""
        return cleanup.Claim(self.key, self.holder)


def load_sdk() -> None:
    """What takes long to load, before it is needed."""
    importlib.import_module("azure.identity")
    with contextlib.suppress(CloudError):
        cloud.resource_manager()


def clean_up(guarded: Guarded, worker: int | None, *, cancel_now: bool) -> None:
    """Delete the run's endpoints, then see to its job and to its state in Prefect.

    `worker` is a handle of the process that started the run, if one did.
    """
    logging.basicConfig(format="%(asctime)s %(process)d %(message)s", level=logging.INFO)
    for name in ("azure", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    log.info("run %s ended without a word; cleaning up", guarded.key)
    workspace, claim = guarded.workspace, guarded.claim

    def request_deletions() -> None:
        cleanup.request_deletions(workspace, claim)

    def delete_endpoints() -> None:
        cleanup.end(workspace, claim, guarded.delete_minutes, job=False)

    def cancel_job() -> None:
        cleanup.cancel_job(workspace, claim, ledger.last_job(workspace, guarded.key))

    _retry_until_answered(guarded.key, request_deletions)
    if cancel_now or _ends_within(worker, WORKER_SECONDS):
        _retry_until_answered(guarded.key, cancel_job)
    # A request of the run that was on its way may still create an endpoint.
    poll(lambda: _retry_until_answered(guarded.key, delete_endpoints), seconds=SETTLE_SECONDS, every=LOOK_EVERY_SECONDS)
    if cancel_now:
        # A submission that was on its way when the run was told to stop has arrived by now.
        _retry_until_answered(guarded.key, cancel_job)
    _mark_crashed(guarded)
    lease = guarded.lease_minutes * 60 + CLOCK_SECONDS
    poll(
        lambda: _retry_until_answered(guarded.key, lambda: _is_job_over(guarded)),
        seconds=lease,
        every=LOOK_EVERY_SECONDS,
    )
    log.info("run %s: nothing is left to do", guarded.key)


def _retry_until_answered(key: str, act: Callable[[], bool | None]) -> bool | None:
    """What `act` returns, tried again while the service does not answer; True when patience ends."""
    from azure.core.exceptions import AzureError

    def attempt() -> tuple[bool | None] | None:
        try:
            return (act(),)
        except (AzureError, CloudError, OSError) as error:
            log.warning("run %s: %s", key, error)
            return None

    patience = LOCAL_PATIENCE_SECONDS if cloud.is_local() else PATIENCE_SECONDS
    answer = poll(attempt, seconds=patience, every=LOOK_EVERY_SECONDS)
    return answer[0] if answer else True


def _is_job_over(guarded: Guarded) -> bool | None:
    """True when the job needs nothing more: it is cancelled when its lease has expired; None while it has not."""
    job = ledger.last_job(guarded.workspace, guarded.key)
    if job is None or job.status in ledger.ENDING or job.holder != guarded.holder:
        return True
    return True if cleanup.cancel_job(guarded.workspace, guarded.claim._replace(leftover=True), job) else None


def _mark_crashed(guarded: Guarded) -> None:
    """Give the dead run its final state, unless Prefect knows better or has started it again."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException
    from prefect.states import Cancelled, Crashed

    try:
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(UUID(guarded.flow_run_id))
            if run.run_count != guarded.run_count or run.state is None or run.state.is_final():
                return
            final = Cancelled if run.state.is_cancelling() else Crashed
            text = "The run's process died; its guard has cleaned up, as guard.log says."
            client.set_flow_run_state(guarded.flow_run_id, final(message=text))
    except (httpx.HTTPError, PrefectException, RuntimeError, ValueError) as error:
        log.warning("run %s: Prefect's API did not take the final state: %s", guarded.key, error)


def _ends_within(process: int | None, seconds: float) -> bool:
    if process is None:
        return False
    ended, _, _ = select.select([process], [], [], seconds)
    return bool(ended)

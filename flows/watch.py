"""A thread beside the run: renews the lease on its job, and stops the run for reasons that come without a signal.

It looks at Prefect (a cancellation in the UI of a run that no worker watches), at the holder of the job's lease
(another execution with the same key has taken over) and at the clock (`limits.total_minutes`).
"""

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Iterator
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectException

from flows.signals import SIGNALS
from retune import names
from retune.errors import CloudError, Stopped, WaitExpired
from retune.request import Request
from retune.waiting import STOP
from retune_cloud import ledger
from retune_cloud.sdk_errors import first_line

log = logging.getLogger("retune.run")

LOOK_EVERY_SECONDS = 1.0
HOLDER_SECONDS = 15
# A lease survives two renewals that fail.
RENEWALS_PER_LEASE = 3


class Watch:
    """The job that this execution holds, whether another one has taken it over, and the time that counts."""

    def __init__(self, flow_run_id: str, request: Request) -> None:
        self.holder = names.holder_name(flow_run_id)
        self.loss: CloudError | None = None
        self._flow_run_id, self._request = flow_run_id, request
        self._began = time.monotonic()
        self._job: tuple[str, int] | None = None
        self._renewed_at = self._checked_at = self._began
        self._lease_replaced = False
        self._clock_paused = False
        self._ended = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look every few seconds while the body runs."""
        # Prefect keeps the address of a server that was started for this run in the context.
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._watch,), name="retune watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(LOOK_EVERY_SECONDS)

    def hold(self, key: str, attempt: int) -> None:
        """Keep the lease on the job of this attempt, which has just been given to this holder."""
        self._renewed_at = self._checked_at = time.monotonic()
        self._job = (key, attempt)

    @contextlib.contextmanager
    def waiting_for_a_person(self) -> Iterator[None]:
        """Time of the body does not count towards `limits.total_minutes`."""
        since, self._clock_paused = time.monotonic(), True
        try:
            yield
        finally:
            self._began += time.monotonic() - since
            self._clock_paused = False

    def find_loss(self) -> CloudError | None:
        """`TakenOver`, when another execution holds the job now; None when not, or when the cloud does not answer."""
        from azure.core.exceptions import AzureError

        if self._job is None or self.loss:
            return self.loss
        try:
            job = ledger.find_job(self._request.workspace, *self._job)
        except AzureError as error:
            log.warning("the job's holder could not be read: %s", first_line(error))
            return None
        if job is None:
            return None
        # The request of an earlier execution, long on its way, has taken the place of the tags.
        self._lease_replaced = job.holder < self.holder
        if job.holder > self.holder:
            other = names.holding_flow_run(job.holder)
            text = f"Flow run {other} has the same key and took over {job.name}."
            self.loss = CloudError("TakenOver", text, "Follow that run.")
        return self.loss

    def _watch(self) -> None:
        with get_client(sync_client=True) as client:
            while not self._ended.wait(LOOK_EVERY_SECONDS):
                SIGNALS.interrupt()
                self._check_lease()
                self._check_prefect(client)
                minutes = self._request.limits.total_minutes
                if not self._clock_paused and time.monotonic() - self._began > minutes * 60:
                    text = f"The run timed out after {minutes:g} minutes."
                    STOP.request(WaitExpired("RunTooLong", text, "Raise limits.total_minutes."))

    def _check_prefect(self, client: SyncPrefectClient) -> None:
        try:
            state = client.read_flow_run(UUID(self._flow_run_id)).state
        except (httpx.HTTPError, PrefectException, RuntimeError) as error:
            log.debug("Prefect's API did not answer: %s", error)
            return
        if state and state.is_cancelling():
            text = "The run was cancelled in Prefect."
            STOP.request(Stopped("Cancelled", text, "Retry it to resume."))

    def _check_lease(self) -> None:
        from azure.core.exceptions import AzureError

        limits, now = self._request.limits, time.monotonic()
        if self._job is None or now - self._checked_at < min(HOLDER_SECONDS, limits.lease_minutes * 60 / 6):
            return
        self._checked_at = now
        if loss := self.find_loss():
            STOP.request(loss)
            return
        if now - self._renewed_at < limits.lease_minutes * 60 / RENEWALS_PER_LEASE and not self._lease_replaced:
            return
        try:
            job = names.job_name(*self._job)
            ledger.renew_lease(self._request.workspace, job, limits.lease_minutes, self.holder)
            self._renewed_at = now
        except AzureError as error:
            log.warning("the lease on the job could not be renewed: %s", first_line(error))

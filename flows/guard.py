"""A process that outlives the run's: it deletes the endpoint and ends the job when the run dies without doing so.

    python -m flows.guard        (started by the run, in a session of its own)

The run holds the other end of this process's standard input. It writes one JSON line that describes the run to guard,
and at its end `done`, or `cancel` when it could not see its job's cancellation through. End of file without `done`
means that the run has died: killed, out of memory, or its worker was told to end, for which Prefect runs no `finally`.

- The endpoint is deleted at once.
- The job is cancelled at once after `cancel`, or when the worker that started the run has ended too: a shutdown.
  Otherwise it keeps running until its lease expires, so that an execution with the same key can take it over.
- The run is marked Crashed in Prefect, where it would stay Running permanently.

What this process does is in `guard.log` beside the reports.
"""

import contextlib
import importlib
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal
from uuid import UUID

from pydantic import BaseModel

from retune.errors import CloudError
from retune.folders import home
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
# The SDK takes seconds of processor time to load, which a starting run needs itself and a short run's guard never uses.
LOAD_AFTER_SECONDS = 60
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


class Guard:
    """The run's end of the pipe."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def release(self, word: Literal["done", "cancel", ""]) -> None:
        """Let the guard end (`done`), or act: cancel the job too (`cancel`), or find out what is left by itself."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.close()
        if word == "done":
            # It ignores SIGTERM, and has nothing to lose.
            self._process.kill()
            self._process.wait()
        else:
            LEFT_ACTING.append(self._process)


# Kept, so that nothing warns of a child that is meant to outlive this process.
LEFT_ACTING: list["subprocess.Popen[str]"] = []


def start(guarded: Guarded) -> Guard:
    """A guard, which lives until it is released, or until this process has died and it has cleaned up."""
    from prefect.settings import PREFECT_API_URL

    root = Path(__file__).resolve().parent.parent
    with (home() / "guard.log").open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=file,
            cwd=root,
            env=os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value() or ""},
            text=True,
            start_new_session=True,
        )
    assert process.stdin
    process.stdin.write(guarded.model_dump_json() + "\n")
    process.stdin.flush()
    return Guard(process)


def main() -> None:
    """Wait for the run's last word, or its death, and act."""
    # What ends a worker's machine or container in good order is sent to every process of it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(format="%(asctime)s %(process)d %(message)s", level=logging.INFO)
    for name in ("azure", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    line = sys.stdin.readline()
    if not line:
        return
    guarded = Guarded.model_validate_json(line)
    with _handle(guarded.worker) as worker:
        spoken, _, _ = select.select([sys.stdin], [], [], LOAD_AFTER_SECONDS)
        if not spoken:
            _load()
        word = sys.stdin.read().strip()
        if word != "done":
            clean_up(guarded, worker, cancel_now=word == "cancel")


def _load() -> None:
    """The slow imports, while there is time."""
    importlib.import_module("azure.identity")
    with contextlib.suppress(CloudError):
        cloud.resource_manager()


def clean_up(guarded: Guarded, worker: int | None, *, cancel_now: bool) -> None:
    """Delete the run's endpoints, then see to its job and to its state in Prefect."""
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
            text = "The run's process died; its guard has deleted the endpoint."
            client.set_flow_run_state(guarded.flow_run_id, final(message=text))
    except (httpx.HTTPError, PrefectException, RuntimeError, ValueError) as error:
        log.warning("run %s: Prefect's API did not take the final state: %s", guarded.key, error)


@contextlib.contextmanager
def _handle(worker: int | None) -> Iterator[int | None]:
    """A handle of the worker's process; None for a run without one, or where the system has no such handles."""
    if worker is None or not hasattr(os, "pidfd_open"):
        yield None
        return
    handle = os.pidfd_open(worker)
    try:
        yield handle
    finally:
        os.close(handle)


def _ends_within(process: int | None, seconds: float) -> bool:
    if process is None:
        return False
    ended, _, _ = select.select([process], [], [], seconds)
    return bool(ended)


if __name__ == "__main__":
    main()

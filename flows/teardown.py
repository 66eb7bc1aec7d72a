"""What a run holds while it trains and serves, and the end of all that: a guard, a job, and endpoints.

The order of the end matters, because a worker that cancels gives 30 s: all requests are sent before anything is waited
for. A signal that comes meanwhile gets an answer and changes nothing.
"""

import logging
import os

from flows import guard
from flows.abandoned import Guarded
from flows.background import end_background_steps
from flows.recording import RunState
from flows.signals import SIGNALS
from retune.errors import RetuneError, Stopped
from retune.report import Job, Run
from retune_cloud import cleanup, ledger
from retune_cloud.cleanup import Claim
from retune_cloud.sdk_errors import first_line
from retune_cloud.workspace import find_address
from tasks.job import Submission
from tasks.step import step

log = logging.getLogger("retune.run")

# A step of the report like any other.
delete_endpoint_step = step(cleanup.delete_endpoint)


def start_guard(run: RunState) -> None:
    """Have a process of its own clean up if this one dies. From now on there may be a job."""
    run.job_settled = False
    address, limits = find_address(run.request.workspace), run.request.limits
    parts = {"subscription_id": address.subscription_id, "resource_group": address.resource_group, "name": address.name}
    run.guard = guard.start(
        Guarded(
            # The guard runs in another folder, where no config.json need be.
            workspace=run.request.workspace.model_copy(update=parts),
            key=run.key,
            holder=run.watch.holder,
            lease_minutes=limits.lease_minutes,
            delete_minutes=limits.delete_minutes,
            flow_run_id=run.flow_run_id,
            run_count=run.run_count,
            # Prefect's runners set this for the processes that they start.
            worker=os.getppid() if "PREFECT__FLOW_RUN_ID" in os.environ else None,
        )
    )


def follow(run: RunState, submission: Submission) -> None:
    """Put the job into the report and hold it; the endpoints of earlier executions of the run are no longer needed."""
    from azure.core.exceptions import AzureError

    run.report.run, run.report.job = Run(attempt=submission.attempt), submission.job
    run.watch.hold(run.key, submission.attempt)
    if submission.job.attached:
        claim = Claim(run.key, run.watch.holder, earlier=True, kept=True)
        try:
            run.earlier_endpoints = cleanup.request_deletions(run.request.workspace, claim)
        except AzureError as error:
            log.warning("earlier endpoints could not be listed; the sweep deletes them: %s", first_line(error))


def settle_job(run: RunState, job: Job) -> None:
    """Put the completed job into the report; nothing needs to end it any more.

    Raises:
        CloudError: `TakenOver`, another execution has seen it complete too and goes on.
    """
    run.report.job, run.job_settled = job, True
    if loss := run.watch.find_loss():
        raise loss


def tear_down(run: RunState, error: BaseException | None) -> None:
    """End the run's job, unless it is settled, and delete its endpoint, unless it is kept, and those before it.

    `error` is what ended the recipe, if anything did.

    Raises:
        WaitExpired: an endpoint is still there; the message has the command that deletes it.
    """
    with SIGNALS.deferred("asking for the job's cancellation"):
        if not run.job_settled:
            _cancel_job(run, error)
        _delete_endpoints(run)


def release_guard(run: RunState) -> None:
    """Let the guard end, or leave to it what this run could not see through."""
    if run.guard is None:
        return
    endpoint = run.report.endpoint
    settled = endpoint is None or endpoint.deleted or endpoint.kept_until
    run.guard.release("cancel" if not run.job_settled else "done" if settled else "")


def _delete_endpoints(run: RunState) -> None:
    endpoint = run.report.endpoint
    own = endpoint if endpoint and not endpoint.kept_until else None
    names = [*([own.name] if own else []), *run.earlier_endpoints]
    if not names:
        return
    expiry = f" and expires {own.expires:%H:%M} UTC" if own else ""
    with SIGNALS.deferred(f"deleting endpoint {', '.join(names)}, which costs money{expiry},"):
        workspace, minutes = run.request.workspace, run.request.limits.delete_minutes
        # Requests for those before it have been sent.
        requested = set(run.earlier_endpoints)
        if own and cleanup.request_deletion(workspace, own.name):
            requested.add(own.name)
        end_background_steps(run.background)
        for name in names:
            deleted = delete_endpoint_step(workspace, name, minutes, requested=name in requested)
            if own and name == own.name:
                run.report.endpoint = own.model_copy(update={"deleted": deleted})


def _cancel_job(run: RunState, error: BaseException | None) -> None:
    """Ask for the job's cancellation, unless another execution has taken it over."""
    status = None if run.watch.find_loss() else _request_cancellation(run)
    if run.report.job and status:
        run.report.job = run.report.job.model_copy(update={"status": status})
    # Without a status there may be a job whose submission was cut off, but not when the service refused it.
    refused = isinstance(error, RetuneError) and not isinstance(error, Stopped) and run.report.job is None
    run.job_settled = status is not None or refused or run.watch.loss is not None


def _request_cancellation(run: RunState) -> str | None:
    """Status of the run's last job afterwards; None for another's, or one that cannot be read."""
    from azure.core.exceptions import AzureError

    workspace = run.request.workspace
    # Once this execution has held the job, tags of an earlier one are late.
    claim = Claim(run.key, run.watch.holder, earlier=run.report.job is not None)
    try:
        return cleanup.cancel_job(workspace, claim, ledger.last_job(workspace, run.key))
    except AzureError as error:
        log.error("the job of run %s could not be cancelled: %s", run.key, first_line(error))
        return None

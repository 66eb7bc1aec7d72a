"""The recipe: base model and chat data to a model that is registered and has answered, in the order of its steps."""

import sys
import time

from prefect.client.schemas import State

from flows.background import gather, is_completed, submit_after
from flows.outcome import final_state
from flows.recording import Recorded, RunState, add_metrics, begin
from flows.signals import SIGNALS
from flows.teardown import follow, release_guard, settle_job, start_guard, tear_down
from retune.report import Status
from retune.request import Request
from tasks.approval import ask_person, note_decision
from tasks.auth import sign_in
from tasks.compute import check_sizes, ensure_cluster, inspect_compute
from tasks.data import prepare_data
from tasks.data_assets import register_data
from tasks.deploy import create_endpoint, deploy, keep_endpoint, plan_endpoint
from tasks.job import submit_job
from tasks.job_end import wait_for_job
from tasks.metrics import read_metrics
from tasks.model import read_model
from tasks.register import register_model
from tasks.score import score_endpoint
from tasks.unchanged import find_same_model, mark_verified


def retrain(request: Request, run_key: str | None, force: bool) -> State:
    """The state of a run of the recipe; its report is kept under `.retune/runs`."""
    run = begin(request, run_key)
    with SIGNALS.watched():
        try:
            with Recorded(run), run.watch.watching():
                run.ends_as = fine_tune(run, force)
        finally:
            release_guard(run)
    return final_state(run.report)


def fine_tune(run: RunState, force: bool) -> Status:
    """`completed`, `skipped` when nothing has changed, or `declined` by a person. Fills the run's report."""
    request, report = run.request, run.report
    report.identity = sign_in(request.workspace)

    # Nothing is created before all are known to be good. The longest runs in this thread, which a signal interrupts.
    reading = read_model.submit(request)
    inspecting = inspect_compute.submit(request)
    checking = submit_after(check_sizes, request, reading, inspecting)
    preparing = prepare_data(request, return_state=True)
    model, compute, data, _ = gather(reading, inspecting, preparing, checking)
    report.model, report.compute, report.data = model.model, compute.used, data
    report.parameters, report.warnings = model.parameters, [*model.model.warnings, *data.warnings]

    if run.is_first_start and not force:
        report.registered_model = find_same_model(request, model, data)
        if report.registered_model:
            return "skipped"

    clustering = ensure_cluster.submit(request, compute)
    registering = register_data(request, data, return_state=True)
    cluster, data = report.compute, report.data = gather(clustering, registering)
    start_guard(run)
    try:
        submission = submit_job(request, run.key, run.watch.holder, model, cluster, data)
        follow(run, submission)
        creating = None
        if not request.approval.required:
            # It costs nothing before its deployment, and problems surface before the GPU's hours.
            endpoint = report.endpoint = plan_endpoint(request, submission, compute)
            creating = create_endpoint.submit(request, endpoint, submission)
            run.background.append(creating)
        settle_job(run, wait_for_job(request, submission))

        reading = read_metrics.submit(request, submission.job.name)
        run.background.append(reading)
        if request.approval.required:
            add_metrics(report, *gather(reading))
            if request.approval.before == "traffic":
                report.registered_model = register_model(request, submission, model, data)
            with run.watch.waiting_for_a_person():
                report.decision = ask_person(request, submission, report)
            note_decision(request, submission, report.decision, report.registered_model)
            if report.decision.answer != "approved":
                return "declined"

        if report.registered_model is None:
            report.registered_model = register_model(request, submission, model, data, report.decision)
        endpoint = report.endpoint = report.endpoint or plan_endpoint(request, submission, compute)
        if creating is None or not is_completed(creating):
            # Creation failed while the job ran; the cause may be gone.
            create_endpoint(request, endpoint, submission)
        run.serving_since = time.monotonic()
        deploying = deploy.submit(request, endpoint, report.registered_model)
        run.background.append(deploying)
        add_metrics(report, *gather(reading))
        (endpoint,) = gather(deploying)
        report.endpoint = endpoint
        report.score = score_endpoint(request, endpoint, data)
        mark_verified(request, submission)
        if request.serving.keep:
            report.endpoint = keep_endpoint(request, endpoint)
        return "completed"
    finally:
        tear_down(run, sys.exception())

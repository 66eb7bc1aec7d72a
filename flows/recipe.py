"""The recipe: base model and chat data to a model that is registered and has answered, in the order of its steps."""

from prefect.states import State

from flows.recording import gather, holding, is_completed, recording
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
from tasks.score import ask
from tasks.unchanged import find_same_model, mark_good


def retrain(request: Request, run_key: str | None, force: bool) -> State:
    """The state of a run of the recipe; its report is kept under `.retune/runs`."""
    with recording(request, run_key) as run:
        report = run.report
        report.identity = sign_in(request.workspace)

        # Nothing is created before all three are known to be good. The longest is here, where a signal reaches it.
        reading = read_model.submit(request)
        inspecting = inspect_compute.submit(request)
        checking = check_sizes.submit(request, reading, inspecting)
        preparing = prepare_data(request, return_state=True)
        model, compute, data, _ = gather(reading, inspecting, preparing, checking)
        report.model, report.compute, report.data = model.model, compute.used, data
        report.parameters, report.warnings = model.parameters, [*model.warnings, *data.warnings]

        if run.is_first_start and not force and (same := find_same_model(request, model, data)):
            run.skip(same)

        clustering = ensure_cluster.submit(request, compute)
        registering = register_data(request, data, return_state=True)
        cluster, data = report.compute, report.data = gather(clustering, registering)
        with holding(run) as beside:
            submission = submit_job(request, run.key, run.watch.holder, model, cluster, data)
            run.follow(submission)
            creating = None
            if not request.approval.required:
                # It costs nothing before its deployment, and what is wrong with it shows before the GPU's hours.
                endpoint = report.endpoint = plan_endpoint(request, submission, compute)
                creating = create_endpoint.submit(request, endpoint, submission)
                beside.append(creating)
            run.job_ended(wait_for_job(request, submission))

            reading = read_metrics.submit(request, submission.job.name)
            beside.append(reading)
            if request.approval.required:
                run.measured(*gather(reading))
                if request.approval.before == "traffic":
                    report.registered_model = register_model(request, submission, model, data)
                with run.watch.waiting_for_a_person():
                    report.decision = ask_person(request, submission, report)
                note_decision(request, submission, report.decision, report.registered_model)
                if report.decision.answer != "approved":
                    run.decline()
                endpoint = report.endpoint = plan_endpoint(request, submission, compute)

            if report.registered_model is None:
                report.registered_model = register_model(request, submission, model, data, report.decision)
            if creating is None or not is_completed(creating):
                # What stood against it while the job ran may be gone.
                create_endpoint(request, endpoint, submission)
            run.starts_serving()
            deploying = deploy.submit(request, endpoint, report.registered_model)
            beside.append(deploying)
            run.measured(*gather(reading))
            (endpoint,) = gather(deploying)
            report.endpoint = endpoint
            report.score = ask(request, endpoint, data)
            mark_good(request, submission)
            if request.serving.keep:
                report.endpoint = keep_endpoint(request, endpoint)
    return run.final_state()

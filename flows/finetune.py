"""Retrain a chat model on Azure ML, prove that it answers, and leave nothing behind that costs money.

    python -m flows.finetune [--preset NAME|FILE] [--set section.key=value ...] [--json] [--quiet]

The recipe of Microsoft's guide to fine-tuning Phi-3 on ultrachat_200k, as one Prefect flow. The steps are in `tasks`.
"""

if __name__ == "__main__":
    # Before Prefect is imported: help must be quick, and the flow must live in an importable module, not in __main__.
    from retune.cli import main

    main()

from prefect import flow
from prefect.runtime import deployment
from prefect.states import State

from flows.form import DEFAULT, complete
from flows.hooks import clean_up_after
from flows.recording import gather, recording, serving, training
from retune.request import (
    Approval,
    Compute,
    Data,
    Limits,
    Model,
    ParameterValue,
    Request,
    RunKey,
    Score,
    Serving,
    Workspace,
)
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


@flow(
    name="finetune",
    validate_parameters=True,
    persist_result=False,
    on_cancellation=[clean_up_after],
    on_crashed=[clean_up_after],
)
def finetune(
    workspace: Workspace = DEFAULT.workspace,
    model: Model = DEFAULT.model,
    data: Data = DEFAULT.data,
    compute: Compute = DEFAULT.compute,
    training: dict[str, ParameterValue] = DEFAULT.training,
    serving: Serving = DEFAULT.serving,
    score: Score = DEFAULT.score,
    approval: Approval = DEFAULT.approval,
    limits: Limits = DEFAULT.limits,
    run_key: RunKey | None = None,
    force: bool = False,
) -> State:
    """Base model and chat data to a registered model that has answered; the report is kept under `.retune/runs`.

    Args:
        workspace: Where to run.
        model: What to fine-tune.
        data: What to train on.
        compute: What to train with.
        training: Inputs of the pipeline component, under the component's own names.
        serving: How the model is served for the check.
        score: What the endpoint is asked.
        approval: Whether a person decides on the model.
        limits: How long to wait.
        run_key: Key that Azure names derive from; a run with the key of an earlier one goes on with what that left.
            Unset: the flow run's id.
        force: Train also when the last good model was made from the same data, model, parameters and code.
    """
    groups = {"workspace": workspace, "model": model, "data": data, "compute": compute, "training": training}
    groups |= {"serving": serving, "score": score, "approval": approval, "limits": limits}
    return retrain(complete(deployment.get_id(), **groups), run_key, force)


def retrain(request: Request, run_key: str | None, force: bool) -> State:
    """The recipe."""
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
        with training(run):
            submission = submit_job(request, run.key, run.watch.holder, model, cluster, data)
            run.follow(submission)
            run.job_ended(wait_for_job(request, submission))

        reading = read_metrics.submit(request, submission.job.name)
        if request.approval.required:
            run.measured(*gather(reading))
            if request.approval.before == "traffic":
                report.registered_model = register_model(request, submission, model, data)
            with run.watch.waiting_for_a_person():
                report.decision = ask_person(request, submission, report)
            note_decision(request, submission, report.decision, report.registered_model)
            if report.decision.answer != "approved":
                run.decline()

        endpoint = plan_endpoint(request, submission, compute)
        with serving(run, endpoint) as beside:
            beside += [reading, create_endpoint.submit(request, endpoint, submission)]
            if report.registered_model is None:
                report.registered_model = register_model(request, submission, model, data, report.decision)
            run.measured(gather(*beside)[0])
            deploy(request, endpoint, report.registered_model)
            report.score = ask(request, endpoint, data)
            mark_good(request, submission)
            if request.serving.keep:
                report.endpoint = keep_endpoint(request, endpoint)
    return run.final_state()

"""Retrain a chat model on Azure ML, prove that it answers, and leave nothing behind that costs money.

    python -m flows.finetune [--preset NAME|FILE] [--set section.key=value ...] [--run-key KEY] [--force] [--json] ...

The recipe of Microsoft's guide to fine-tuning Phi-3 on ultrachat_200k, as one Prefect flow. Its parameters are here,
the recipe is in `recipe.py`, the steps are in `tasks`.
"""

if __name__ == "__main__":
    # Before Prefect is imported: help must be quick, and the flow must live in an importable module, not in __main__.
    from retune_cli.running import main, run

    run(main)

from prefect import flow
from prefect.client.schemas import State
from prefect.runtime import deployment

from flows.form import DEFAULT, complete, name_run
from flows.hooks import clean_up_after
from retune.request import (
    Approval,
    Compute,
    Data,
    Limits,
    Model,
    ParameterValue,
    RunKey,
    Score,
    Serving,
    Workspace,
)


@flow(
    name="finetune",
    flow_run_name=name_run,
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
        score: How the endpoint is tested.
        approval: Whether a person approves the model.
        limits: Timeouts.
        run_key: Run key; Azure names are derived from it. A run with the key of an earlier one resumes that.
            Unset: the flow run's id.
        force: Train even if nothing has changed since the last verified model.
    """
    # Only here: to show the flow's form or its help takes none of the steps.
    from flows.recipe import retrain

    groups = {"workspace": workspace, "model": model, "data": data, "compute": compute, "training": training}
    groups |= {"serving": serving, "score": score, "approval": approval, "limits": limits}
    return retrain(complete(deployment.get_id(), **groups), run_key, force)

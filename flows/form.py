"""The parts of a request as the flow's parameters, so that Prefect's form shows them in groups.

A run's parameters replace those of its deployment group by group. Here, what a group of the run leaves open is what the
deployment says, so that `--param data='{"fraction": 0.1}'` changes one value and not ten.
"""

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import deployment, flow_run

from retune.errors import BadRequest
from retune.names import run_title
from retune.request import Request, Section, Workspace, parse

# What a run is asked to do that says nothing: nothing that costs money.
DEFAULT = Request(workspace=Workspace(emulator=True))


def complete(deployment_id: UUID | str | None, **groups: object) -> Request:
    """The request of a run that was started with these groups, as a deployment's or not.

    Raises:
        BadRequest: deployment and groups together are no usable request.
    """
    deployed = _parameters_of(deployment_id) if deployment_id else {}
    return parse({name: _merge(deployed.get(name), _given(group)) for name, group in groups.items()})


def complete_stored(parameters: dict[str, object], deployment_id: UUID | None) -> Request:
    """The request of a run whose parameters come from Prefect's database; it may hold none of the defaults."""
    return complete(deployment_id, **{name: parameters.get(name) for name in Request.model_fields})


def name_run() -> str:
    """Name of the flow run that begins: model, data and date, e.g. `Phi-4 on ultrachat_200k, 2026-11-28 20:01`."""
    date = f"{flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"
    try:
        return f"{run_title(complete_stored(flow_run.parameters, deployment.id))}, {date}"
    except BadRequest:
        # The flow itself says what is wrong with it.
        return f"finetune, {date}"


def _given(group: object) -> object:
    return group.model_dump(exclude_unset=True) if isinstance(group, Section) else group


def _merge(deployed: object, given: object) -> object:
    """The deployment's group with the run's values over it; what is no group is left to the request's own checks."""
    if isinstance(deployed, dict) and isinstance(given, dict):
        return deployed | given
    return given or deployed or {}


def _parameters_of(deployment_id: UUID | str) -> dict[str, object]:
    with get_client(sync_client=True) as client:
        return client.read_deployment(deployment_id).parameters

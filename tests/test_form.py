"""The flow's parameters as Prefect's form and API take them: groups, of which a part may be given."""

from collections.abc import Iterator
from uuid import UUID

import pytest

from flows.finetune import finetune
from flows.form import complete, complete_stored
from retune.errors import BadRequest
from retune.request import Data, Model, Request, load

DEPLOYED = load("local", []).model_dump(mode="json", exclude_unset=True)


@pytest.fixture(scope="module")
def deployment(prefect_api: str) -> Iterator[UUID]:
    """A deployment whose parameters are the local preset."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        flow = client.create_flow(finetune)
        made = client.create_deployment(
            flow_id=flow,
            name="form",
            parameters=DEPLOYED,
            parameter_openapi_schema=finetune.parameters.model_dump_for_openapi(),
            enforce_parameter_schema=True,
        )
        yield made
        client.delete_deployment(made)


def test_the_form_has_the_parts_of_a_request() -> None:
    """Groups with descriptions, literal defaults, choices and bounds, in the order of a request."""
    schema = finetune.parameters.model_dump_for_openapi()
    groups = schema["properties"]

    assert [*groups] == [*Request.model_fields, "run_key", "force"]
    for name, field in Request.model_fields.items():
        assert groups[name]["description"] == field.description, name
        assert isinstance(groups[name]["default"], dict), name
    data = schema["definitions"]["Data"]["properties"]
    assert data["on_bad_row"]["enum"] == ["fail", "drop"]
    assert (data["fraction"]["exclusiveMinimum"], data["fraction"]["maximum"]) == (0, 1)
    assert all(field.get("description") for field in data.values())
    assert schema.get("required", []) == []


def test_nothing_given_asks_for_nothing_that_costs_money() -> None:
    """The default of the workspace refuses every cloud but an emulator."""
    assert finetune.parameters.model_dump_for_openapi()["properties"]["workspace"]["default"]["emulator"] is True


def test_a_part_of_a_group_keeps_the_deployment_s_other_values(deployment: UUID) -> None:
    """Prefect hands over the group as it was given."""
    request = complete(deployment, data=Data(fraction=0.5), model={}, training={"max_steps": 2})

    assert request.data == load("local", ["data.fraction=0.5"]).data
    assert request.model == load("local", []).model
    assert request.training == load("local", ["training.max_steps=2"]).training


def test_a_whole_group_replaces_the_deployment_s(deployment: UUID) -> None:
    """As the page sends it."""
    whole = Model().model_dump(mode="json")

    assert complete(deployment, model=whole).model == Model()


def test_parameters_that_are_stored_in_part_make_the_same_request(deployment: UUID) -> None:
    """Hooks read them from Prefect."""
    assert complete_stored({"data": {"fraction": 0.5}}, deployment) == load("local", ["data.fraction=0.5"])


def test_a_run_without_deployment_is_what_it_was_given() -> None:
    """The command line gives every group."""
    request = load("local", ["score.rows=2"])

    assert complete(None, **dict(request)) == request


def test_parts_that_do_not_fit_together_are_refused(deployment: UUID) -> None:
    """With the key and the value."""
    with pytest.raises(BadRequest, match="train_split 'test_sft' must differ"):
        complete(deployment, data=Data(train_split="test_sft", test_split="test_sft"))


@pytest.mark.parametrize(
    "parameters",
    [{"data": {"fraction": 3}}, {"data": {"fractoin": 0.1}}, {"score": {"payload": "round"}}, {"run_key": "a b"}],
    ids=["bound", "unknown key", "choice", "pattern"],
)
def test_prefect_refuses_what_the_command_line_refuses(parameters: dict, deployment: UUID) -> None:
    """Before there is a run."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    with get_client(sync_client=True) as client, pytest.raises(PrefectHTTPStatusError, match="409"):
        client.create_flow_run_from_deployment(deployment, parameters=parameters)

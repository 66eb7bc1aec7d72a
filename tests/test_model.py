"""What the registry says of a model is read in each of the forms that it has had."""

import logging

import pytest
from conftest import Emulator

from retune.errors import BadRequest
from retune.report import Parameter
from retune.request import Request, load
from tasks.compute import _prices, inspect_compute
from tasks.model import display_name, read_model

A100 = [
    "standard_nc24ads_a100_v4",
    "standard_nc48ads_a100_v4",
    "standard_nc96ads_a100_v4",
    "standard_nd96asr_v4",
    "standard_nd96amsr_a100_v4",
]


def request_for(name: str, version: str = "latest") -> Request:
    """The local preset with a model of its own."""
    return load("local", [f"model.name={name}", f"model.version={version}"])


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize(("version", "archived"), [("15", True), ("14", False)], ids=["system metadata", "tags"])
def test_allow_lists_defaults_and_dates_are_read_where_they_are(version: str, archived: bool) -> None:
    """Tags as Python literals and camel-case system metadata with JSON tags say the same."""
    facts = read_model.fn(request_for("Phi-3-mini-4k-instruct", version))

    assert facts.finetune_sizes == A100
    assert "standard_nd40rs_v2" in facts.inference_sizes
    assert (facts.model.archived, facts.model.retirement_date) == (archived, "2025-08-30")
    assert {p.name: p.value for p in facts.parameters if p.source == "model"}["save_total_limit"] == 1


@pytest.mark.usefixtures("emulator")
def test_an_archived_and_retired_model_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """The guide's model has been past its retirement date since 2025; defaults that no input takes are only noted."""
    caplog.set_level(logging.INFO, "retune.model")
    facts = read_model.fn(request_for("Phi-3-mini-4k-instruct"))

    assert facts.model.warnings == [
        "Model 'Phi-3-mini-4k-instruct:15' is archived. Plan a move to another model.",
        "Model 'Phi-3-mini-4k-instruct:15' is past its retirement date 2025-08-30.",
    ]
    assert "Ignored the model's default 'learning_rate_min': the component has no such input." in caplog.messages


@pytest.mark.usefixtures("emulator")
def test_latest_is_resolved_to_a_version() -> None:
    """The report never says `latest`."""
    facts = read_model.fn(request_for("Phi-4"))

    assert (facts.model.name, facts.model.version, facts.model.archived) == ("Phi-4", "8", False)
    assert facts.model.id == "azureml://registries/azureml/models/Phi-4/versions/8"
    assert facts.model.component == "chat_completion_pipeline:0.0.82"
    assert facts.model.warnings == []


@pytest.mark.usefixtures("emulator")
def test_gpus_and_price_come_from_the_workspace_s_list() -> None:
    """The guide counts GPUs from this list; the price is beside it."""
    facts = inspect_compute.fn(load("local", ["compute.size=Standard_NC96ads_A100_v4", "compute.name=unmade"]))

    assert (facts.used.gpus_per_node, facts.used.price_per_hour_usd, facts.exists) == (4, 14.692, False)


def test_a_compute_that_is_no_cluster_is_refused() -> None:
    """A workspace may have an instance, a machine of one person, under the name that the request gives."""
    from azure.ai.ml.entities import ComputeInstance

    from tasks.compute import _check_cluster

    with pytest.raises(BadRequest, match=r"'mine' is no cluster: it has type computeinstance. Choose another compute"):
        _check_cluster(ComputeInstance(name="mine", size="Standard_NC24ads_A100_v4"), "Standard_NC24ads_A100_v4")


def test_low_priority_is_tried_when_dedicated_is_refused_and_only_then(emulator: Emulator) -> None:
    """The fallback is asked for, and the report says which tier was made."""
    from tasks.compute import ensure_cluster

    refuse = {"on": "request", "method": "PUT", "path": "/computes/", "status": 400, "message": "quota of 0 cores"}
    request = load("local", ["compute.name=fallback", "compute.low_priority_fallback=true"])
    emulator.admin("PUT", "/admin/faults", [refuse])
    try:
        used = ensure_cluster.fn(request, inspect_compute.fn(request))
    finally:
        emulator.admin("DELETE", "/admin/faults")

    # The list names no price for that tier, and the dedicated one would be wrong.
    assert (used.created, used.tier, used.price_per_hour_usd) == (True, "low_priority", None)
    assert emulator.client().compute.get("fallback").tier == "low_priority"


def test_a_node_has_the_price_of_its_tier() -> None:
    """Of Linux: neither Windows nor Spot, which no cluster of the workspace is."""
    amounts = {("Linux", "Standard"): 3.67, ("Windows", "Standard"): 5.0, ("Linux", "LowPriority"): 0.73}
    amounts |= {("Windows", "LowPriority"): 2.0, ("Linux", "Spot"): 0.5}
    values = [{"osType": os, "vmTier": tier, "retailPrice": amount} for (os, tier), amount in amounts.items()]

    assert _prices({"estimatedVMPrices": {"values": values}}) == {"dedicated": 3.67, "low_priority": 0.73}
    assert _prices({}) == {}


@pytest.mark.parametrize(
    ("source", "data"),
    [("HuggingFaceH4/ultrachat_200k", "ultrachat"), ("deployments/data/chat_sample", "chat_sample")],
)
def test_the_display_name_names_the_data(source: str, data: str) -> None:
    """As the guide does for its own."""
    parameters = [Parameter(name="per_device_train_batch_size", value=8, source="user")]

    assert (
        display_name("Phi-4", source, parameters, 2, 1) == f"Phi-4-{data}-bs16-linear-nods-nolora-save_limit-1-seqlen-1"
    )

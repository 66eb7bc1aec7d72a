"""The cluster: created if it does not exist, its size checked, its GPUs counted.

Source: the guide's compute cells. `inspect_compute` and `check_sizes` create nothing; `ensure_cluster` does.
"""

import logging
from typing import TYPE_CHECKING

from retune.errors import BadRequest, CloudError
from retune.report import ComputeUsed, Part
from retune.request import Request
from retune.waiting import wait_for_operation
from retune_cloud import workspace as cloud
from retune_cloud.answers import member, required
from retune_cloud.sdk_errors import if_exists, refusal
from tasks.model import ModelFacts
from tasks.step import repeatable_step, step

if TYPE_CHECKING:
    from azure.ai.ml.entities import AmlCompute, Compute

log = logging.getLogger("retune.compute")

# K80 sizes, refused by the guide when a model does not say which sizes it allows.
UNSUPPORTED_SIZES = ("standard_nc6", "standard_nc12", "standard_nc24", "standard_nc24r")
SERVERLESS = "serverless"
# A price list's names of the tiers in which clusters are made.
TIERS = {"standard": "dedicated", "lowpriority": "low_priority"}


class ComputeFacts(Part):
    """The cluster as it is now, and what the workspace's region offers."""

    used: ComputeUsed
    exists: bool
    region_sizes: list[str]
    # Of a node that trains, US$ per hour, by tier.
    prices_per_hour_usd: dict[str, float]
    serving_price_per_hour_usd: float | None


@repeatable_step
def inspect_compute(request: Request) -> ComputeFacts:
    """The cluster's state and size, and the GPUs and price of that size.

    Raises:
        BadRequest: the size is not offered in the region or has no GPU, or an existing cluster has another size.
        CloudError: the cluster is in the state Failed.
    """
    settings = request.compute
    client = cloud.workspace_client(request.workspace)
    sizes = {size.name.lower(): size for size in client.compute.list_sizes() if size.name}
    if settings.size.lower() not in sizes:
        raise BadRequest([f"compute.size '{settings.size}' is not offered in the workspace's region."])
    existing = None if settings.serverless else if_exists(lambda: client.compute.get(settings.name))
    cluster = None if existing is None else _check_cluster(existing, settings.size)
    size = sizes[settings.size.lower()]
    if not size.gpus:
        raise BadRequest(
            [f"compute.size '{settings.size}' has no GPU. The component trains on GPUs; choose a GPU size."]
        )
    tier = (cluster and cluster.tier) or settings.tier
    prices = _prices(size.__dict__)
    used = ComputeUsed(
        name=SERVERLESS if settings.serverless else settings.name,
        size=required(size.name, "the size's name"),
        gpus_per_node=size.gpus,
        tier=tier,
        price_per_hour_usd=prices.get(tier),
    )
    serving = sizes.get(request.serving.instance_type.lower())
    return ComputeFacts(
        used=used,
        exists=cluster is not None or settings.serverless,
        region_sizes=list(sizes),
        prices_per_hour_usd=prices,
        # Endpoints have no other tier.
        serving_price_per_hour_usd=_prices(serving.__dict__).get("dedicated") if serving else None,
    )


@step
def check_sizes(request: Request, model: ModelFacts, compute: ComputeFacts) -> None:
    """Nothing, when the model allows the sizes of training and serving.

    Raises:
        BadRequest: a size is not in the model's allow list, is on the unsupported list, or is not offered.
    """
    problems = []
    training, serving = compute.used.size, request.serving.instance_type
    if model.finetune_sizes is not None and training.lower() not in model.finetune_sizes:
        problems.append(_not_allowed("compute.size", training, model, model.finetune_sizes))
    if model.finetune_sizes is None and training.lower() in UNSUPPORTED_SIZES:
        problems.append(f"compute.size '{training}' is too old for fine-tuning. Choose a size with V100 GPUs or newer.")
    if serving.lower() not in compute.region_sizes:
        problems.append(f"serving.instance_type '{serving}' is not offered in the workspace's region.")
    elif model.inference_sizes is not None and serving.lower() not in model.inference_sizes:
        problems.append(_not_allowed("serving.instance_type", serving, model, model.inference_sizes))
    if problems:
        raise BadRequest(problems)


@repeatable_step
def ensure_cluster(request: Request, facts: ComputeFacts) -> ComputeUsed:
    """The cluster, ready; created if it does not exist, with low priority only if the request allows that.

    Raises:
        CloudError: `ComputeRefused`, with the service's own words (quota, policy).
        WaitExpired: it did not become ready within limits.compute_minutes.
    """
    if facts.exists:
        log.info("%s is there: %s GPU(s) a node, %s", facts.used.name, facts.used.gpus_per_node, facts.used.size)
        return facts.used
    settings = request.compute
    tiers = [settings.tier]
    if settings.tier == "dedicated" and settings.low_priority_fallback:
        tiers.append("low_priority")
    refusals = []
    for tier in tiers:
        try:
            _create(request, tier)
        except CloudError as refusal:
            refusals.append(refusal)
            continue
        log.info("%s is made: up to %s node(s) of %s, %s", settings.name, settings.max_nodes, facts.used.size, tier)
        price = facts.prices_per_hour_usd.get(tier)
        return facts.used.model_copy(update={"created": True, "tier": tier, "price_per_hour_usd": price})
    raise refusals[-1]


def _create(request: Request, tier: str) -> None:
    from azure.ai.ml.entities import AmlCompute

    settings = request.compute
    cluster = AmlCompute(
        name=settings.name,
        size=settings.size,
        # The SDK sends 'LowPriority' only for this spelling.
        tier=tier,
        min_instances=settings.min_nodes,
        max_instances=settings.max_nodes,
        idle_time_before_scale_down=settings.idle_seconds,
        tags={"owner": "retune"},
    )
    with refusal(
        "ComputeRefused",
        f"Cluster '{settings.name}' ({settings.size}, {tier}) was refused",
        "Ask for quota in the portal, choose another compute.size, or set compute.low_priority_fallback=true.",
    ):
        created = wait_for_operation(
            cloud.workspace_client(request.workspace).compute.begin_create_or_update(cluster),
            minutes=request.limits.compute_minutes,
            subject=f"Creation of cluster '{settings.name}'",
            limit="limits.compute_minutes",
        )
    _check_cluster(created, settings.size)


def _check_cluster(compute: "Compute", size: str) -> "AmlCompute":
    """The compute, which is a usable cluster of nodes of that size."""
    from azure.ai.ml.entities import AmlCompute

    if not isinstance(compute, AmlCompute):
        problem = f"Compute '{compute.name}' is no cluster: it has type {compute.type}. Choose another compute.name."
        raise BadRequest([problem])
    if str(compute.provisioning_state).lower() == "failed":
        raise CloudError(
            "ComputeFailed",
            f"Cluster '{compute.name}' is in the state Failed.",
            "Delete it, or choose another compute.name.",
        )
    if str(compute.size).lower() != size.lower():
        raise BadRequest(
            [
                f"Cluster '{compute.name}' exists with size {compute.size}, but compute.size is {size}. "
                f"Set compute.size={compute.size} or choose another compute.name."
            ]
        )
    return compute


def _not_allowed(key: str, size: str, model: ModelFacts, allowed: list[str]) -> str:
    return f"{key} '{size}' is not allowed for model '{model.model.name}'. Choose one of {', '.join(allowed)}."


def _prices(size: dict[str, object]) -> dict[str, float]:
    """List prices of a Linux node by tier, US$ per hour. The SDK leaves them in the raw attributes of the size."""
    listed = member(size, "estimatedVMPrices", "values") or member(size, "estimated_vm_prices", "values")
    prices = {}
    for price in listed if isinstance(listed, list) else []:
        system = member(price, "osType") or member(price, "os_type")
        tier = TIERS.get(str(member(price, "vmTier") or member(price, "vm_tier")).lower())
        amount = member(price, "retailPrice") or member(price, "retail_price")
        if str(system).lower() == "linux" and tier and isinstance(amount, int | float):
            prices[tier] = amount
    return prices

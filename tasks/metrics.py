"""Training and evaluation metrics of the job, through MLflow tracking at the workspace's tracking URI.

Source: the guide's outline ("review training and evaluation metrics"), for which it has no cell. The component logs
the steps' metrics on the job's own run too.
"""

import logging
import math
import sys
from typing import TYPE_CHECKING

from retune.report import Curve, Part
from retune.request import Request
from retune.waiting import wait_until
from retune_cloud import workspace as cloud
from retune_cloud.tracking import tracking_client
from tasks.showing import show_losses
from tasks.step import repeatable_step

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger("retune.metrics")

# Metrics appear in the tracking store a moment after they were logged.
VISIBLE_WITHIN_SECONDS = 60
LARGEST_LOSS = math.log(sys.float_info.max)


class JobMetrics(Part):
    """Last value of each metric of the job and its steps, the losses' course, and the weights, if known."""

    values: dict[str, float]
    curves: list[Curve]
    weights: str | None = None


@repeatable_step
def read_metrics(request: Request, job: str) -> JobMetrics:
    """The metrics of the job's run and of its steps; the job's own win. Perplexity is exp(loss).

    Raises:
        WaitExpired: no metric became visible.
    """
    tracking = tracking_client(cloud.workspace_client(request.workspace))
    runs = wait_until(
        lambda: _runs_with_metrics(tracking, job),
        seconds=VISIBLE_WITHIN_SECONDS,
        every=2,
        subject=f"The first metric of job '{job}' in the tracking store",
        fix="See the job's logs in Azure ML studio: the training step may have logged none.",
    )
    values = {name: value for run in runs for name, value in run.data.metrics.items() if math.isfinite(value)}
    for moment in ("before", "after"):
        loss = values.get(f"eval_loss_{moment}")
        # That of a training that has diverged is larger than a float can be.
        if loss is not None and loss < LARGEST_LOSS:
            values[f"perplexity_{moment}"] = math.exp(loss)
    log.info("%d metrics; eval_loss %s", len(values), values.get("eval_loss", "not logged"))
    curves = _curves(tracking, runs)
    show_losses(curves)
    return JobMetrics(values=values, curves=curves, weights=_weights(runs[-1].data.params))


def _curves(tracking: "MlflowClient", runs: "list[Run]") -> list[Curve]:
    """The losses that were logged more than once, by name; the job's own win."""
    curves = {}
    for run in runs:
        for name in run.data.metrics:
            if "loss" in name:
                points = [point for point in tracking.get_metric_history(run.info.run_id, name) if isfinite(point)]
                points.sort(key=lambda point: (point.step, point.timestamp))
                if len(points) > 1:
                    steps, values = [point.step for point in points], [point.value for point in points]
                    curves[name] = Curve(metric=name, steps=steps, values=values)
    return [curves[name] for name in sorted(curves)]


def isfinite(point: "Metric") -> bool:
    """Whether the metric has a number at this point; a training that diverges logs NaN."""
    return math.isfinite(point.value)


def _weights(parameters: dict[str, str]) -> str | None:
    """Which weights the training step says it loaded, e.g. `tiny-phi3, 1,020,544 parameters, sha256 1f3a…`."""
    name, count = parameters.get("base_model_name"), parameters.get("base_model_parameters")
    if not (name and count):
        return None
    return f"{name}, {int(count):,} parameters, sha256 {parameters.get('base_model_sha256', 'unknown')[:12]}"


def _runs_with_metrics(tracking: "MlflowClient", job: str) -> "list[Run] | None":
    """The steps' runs and last the job's, once any has metrics."""
    root = tracking.get_run(job)
    steps = tracking.search_runs([root.info.experiment_id], filter_string=f"tags.mlflow.rootRunId = '{job}'")
    runs = [run for run in steps if run.info.run_id != job] + [root]
    return runs if any(run.data.metrics for run in runs) else None

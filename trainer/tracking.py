"""Reports metrics, parameters and tags to the MLflow runs of this job: the step's own and the pipeline's.

The runs exist already and end without us; Azure's training step logs to both as well, so that the pipeline's run
alone tells how the training went. Without MLFLOW_TRACKING_URI nothing is sent.
"""

import math
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow.entities import Metric, Param, RunTag

FLUSH_SECONDS = 1.0
# MLflow's limits for one log-batch call.
MAX_METRICS, MAX_PARAMS = 1000, 100


class Tracker:
    """Gathers metrics and sends them in batches, at most one a second."""

    def __init__(self) -> None:
        self.run_ids = find_run_ids()
        self.pending: list[Metric] = []
        self.flushed_at = time.monotonic()

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Queues the finite numbers; MLflow stores have no common form for other values."""
        if not self.run_ids:
            return
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        self.pending += [
            Metric(name, float(value), now, step)
            for name, value in metrics.items()
            if isinstance(value, int | float) and math.isfinite(value)
        ]
        if time.monotonic() - self.flushed_at > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        for start in range(0, len(self.pending), MAX_METRICS):
            self.send(metrics=self.pending[start : start + MAX_METRICS])
        self.pending = []
        self.flushed_at = time.monotonic()

    def log_params(self, params: dict[str, object]) -> None:
        """Records each value as text; a second value for the same name is an error in MLflow."""
        if not self.run_ids:
            return
        from mlflow.entities import Param

        entities = [Param(name, str(value)) for name, value in params.items()]
        for start in range(0, len(entities), MAX_PARAMS):
            self.send(params=entities[start : start + MAX_PARAMS])

    def set_tags(self, tags: dict[str, object]) -> None:
        if not self.run_ids:
            return
        from mlflow.entities import RunTag

        self.send(tags=[RunTag(name, str(value)) for name, value in tags.items()])

    def send(
        self, metrics: "Sequence[Metric]" = (), params: "Sequence[Param]" = (), tags: "Sequence[RunTag]" = ()
    ) -> None:
        from mlflow.tracking import MlflowClient

        client = MlflowClient()
        for run_id in self.run_ids:
            client.log_batch(run_id, metrics=metrics, params=params, tags=tags)


def find_run_ids() -> list[str]:
    """The step's run and the root run, once each; none without a tracking server."""
    if "MLFLOW_TRACKING_URI" not in os.environ:
        return []
    named = [os.environ.get(name) for name in ("MLFLOW_RUN_ID", "AZUREML_ROOT_RUN_ID")]
    return list(dict.fromkeys(run_id for run_id in named if run_id))

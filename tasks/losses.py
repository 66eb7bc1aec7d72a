"""What the job has logged last, for the reader. Read in a thread: the tracking store may take a minute to answer."""

import threading
from typing import TYPE_CHECKING

from retune_cloud.tracking import tracking_client

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

# So long a look at the job waits for newer values.
PATIENCE_SECONDS = 0.5
METRICS = ("epoch", "loss", "eval_loss")


class Losses:
    """Step, epoch and losses of a job."""

    def __init__(self, client: "MLClient", job: str) -> None:
        self._client, self._job = client, job
        self._values: dict[str, float] = {}
        self._reading: threading.Thread | None = None

    def latest(self) -> dict[str, float]:
        """The newest values that were read in time; empty before the job has logged any."""
        if self._reading is None or not self._reading.is_alive():
            self._reading = threading.Thread(target=self._read, name="losses", daemon=True)
            self._reading.start()
        self._reading.join(PATIENCE_SECONDS)
        return self._values

    def _read(self) -> None:
        import mlflow
        from azure.core.exceptions import AzureError

        try:
            data = tracking_client(self._client).get_run(self._job).data
        except (mlflow.MlflowException, AzureError):
            return
        # MLflow hands out the step of a last value only here; the history has it too, and grows with the training.
        steps = {point.key: point.step for point in data._metric_objs}
        values = {metric: data.metrics[metric] for metric in METRICS if metric in data.metrics}
        if values:
            self._values = {"step": max(steps[metric] for metric in values), **values}

"""The workspace's MLflow tracking store."""

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from retune import workspace as cloud

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from mlflow import MlflowClient


def load_mlflow() -> None:
    """Import MLflow with its plug-in for Azure ML, which asks for the cloud's addresses while it is imported.

    An import that fails leaves MLflow unusable for the rest of the process, and its error names nothing.

    Raises:
        CloudError: `CloudUnreachable`, the address that names the cloud does not answer.
    """
    cloud.resource_manager()
    import mlflow  # noqa: F401


@lru_cache(maxsize=8)
def tracking_client(client: "MLClient") -> "MlflowClient":
    """A client of the store at the workspace's tracking URI; azureml-mlflow signs it in with the default credential."""
    # MLflow's own defaults wait up to 13 minutes for a store that does not answer.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    import mlflow

    workspace = client.workspaces.get(client.workspace_name)
    return mlflow.MlflowClient(tracking_uri=workspace.mlflow_tracking_uri)

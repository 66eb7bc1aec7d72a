"""The workspace's MLflow tracking store."""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from mlflow import MlflowClient


@lru_cache(maxsize=8)
def tracking_client(client: "MLClient") -> "MlflowClient":
    """A client of the store at the workspace's tracking URI; azureml-mlflow signs it in with the default credential."""
    import mlflow

    workspace = client.workspaces.get(client.workspace_name)
    return mlflow.MlflowClient(tracking_uri=workspace.mlflow_tracking_uri)

"""The workspace's MLflow tracking store."""

import os
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from retune.errors import CloudError
from retune_cloud import workspace as cloud
from retune_cloud.answers import required
from retune_cloud.sdk_errors import first_line

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from mlflow import MlflowClient


def load_mlflow() -> None:
    """Import MLflow with its plug-in for Azure ML, which asks for the cloud's addresses while it is imported.

    Raises:
        CloudError: `CloudUnreachable`, the address that names the cloud does not answer.
    """
    cloud.resource_manager()
    try:
        import mlflow  # noqa: F401
    except (OSError, ValueError, TypeError, KeyError) as error:
        # Half loaded, it could not be imported again.
        for name in [name for name in sys.modules if name.startswith(("mlflow", "azureml.mlflow"))]:
            del sys.modules[name]
        raise CloudError(
            "CloudUnreachable",
            f"The address of the cloud in {cloud.METADATA_URL} gave no usable answer: {first_line(error)}",
            "Check the network and Azure's status page, then start it again.",
        ) from error


@lru_cache(maxsize=8)
def tracking_client(client: "MLClient") -> "MlflowClient":
    """A client of the store at the workspace's tracking URI; azureml-mlflow signs it in with the default credential."""
    # MLflow's own defaults wait up to 13 minutes for a store that does not answer.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    import mlflow

    workspace = required(client.workspaces.get(client.workspace_name), "the workspace")
    return mlflow.MlflowClient(tracking_uri=workspace.mlflow_tracking_uri)

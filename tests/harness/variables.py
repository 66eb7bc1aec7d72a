"""An emulator's variables in this process, and what the SDK and MLflow keep of the cloud that they name."""

import os
import sys


class Variables:
    """Sets an emulator's variables for this process and takes them back."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._values}
        os.environ.update(self._values)
        forget_cloud()
        learn_cloud()

    def __exit__(self, *_: object) -> None:
        forget_cloud()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def forget_cloud() -> None:
    """A flow keeps the cloud's addresses in the SDK, under a name that all emulators share."""
    if module := sys.modules.get("azure.ai.ml._azure_environments"):
        module._environments.pop("AzureMLEmulator", None)


def learn_cloud() -> None:
    """MLflow's plug-in asks for the clouds while it is imported, which in this process may have been before any."""
    module = sys.modules.get("azureml.mlflow._common._cloud.cloud")
    if module and "AzureMLEmulator" not in module.KNOWN_CLOUDS:
        module.KNOWN_CLOUDS = module.get_known_clouds()

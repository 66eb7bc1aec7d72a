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

    def __exit__(self, *_: object) -> None:
        forget_cloud()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def forget_cloud() -> None:
    """The SDK and MLflow's plug-in keep a cloud's addresses under its name, which all emulators share."""
    if module := sys.modules.get("azure.ai.ml._azure_environments"):
        module._environments.pop("AzureMLEmulator", None)
    address = os.environ.get("ARM_CLOUD_METADATA_URL")
    if address and (module := sys.modules.get("azureml.mlflow._common._cloud.cloud")):
        # It asks for the clouds while it is imported, which may have been before this emulator; and later these.
        module.KNOWN_METADATA_URL_LIST = [address]
        known = module.KNOWN_CLOUDS.get("AzureMLEmulator")
        if known and not known.endpoints.resource_manager.startswith(address.partition("/metadata")[0]):
            del module.KNOWN_CLOUDS["AzureMLEmulator"]

"""Storage accounts as fsspec file systems, through `adlfs`, which is an extra."""

import os
from typing import Any

from adlfs import AzureBlobFileSystem
from azure.identity.aio import DefaultAzureCredential
from azure.storage.blob.aio import BlobServiceClient


class SignedIn(AzureBlobFileSystem):
    """A storage account, asked with the given credential and with no key that the environment may also hold."""

    def do_connect(self) -> None:
        """Make the client of the account."""
        self.account_url = f"https://{self.account_host}"
        self.service_client = BlobServiceClient(self.account_url, credential=self.credential, **trusted())


def open_account(account: str, suffix: str) -> SignedIn:
    """The file system of an account, with what follows `ACCOUNT.blob.` in the addresses of its cloud."""
    return SignedIn(
        account_name=account,
        account_host=f"{account}.blob.{suffix}",
        credential=DefaultAzureCredential(**trusted()),
        # A cached one would answer from listings of earlier runs.
        skip_instance_cache=True,
    )


def trusted() -> dict[str, Any]:
    """The certificates that the SDK's other clients trust: aiohttp does not know REQUESTS_CA_BUNDLE."""
    bundle = os.environ.get("REQUESTS_CA_BUNDLE")
    return {"connection_verify": bundle} if bundle else {}

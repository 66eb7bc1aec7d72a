"""Prove the identity and the workspace, before money is spent.

Source: the guide's sign-in cell. Unlike it, no browser opens unless it was asked for at a terminal.
"""

import base64
import json
import logging

from retune.report import Identity
from retune.request import Workspace
from retune_cloud import workspace as cloud
from retune_cloud.answers import required
from retune_cloud.sdk_errors import refusal
from retune_cloud.sign_in_errors import explain_sign_in
from retune_cloud.tracking import load_mlflow
from tasks.step import repeatable_step

log = logging.getLogger("retune.auth")


@repeatable_step
def sign_in(workspace: Workspace) -> Identity:
    """The identity of a fresh token and the workspace that it opens.

    Raises:
        CloudError: the cloud does not answer, no credential works (`SignInFailed`, with what was tried), or the
            workspace cannot be read.
        BadRequest: the workspace's address is incomplete.
    """
    from azure.core.exceptions import ClientAuthenticationError

    address = cloud.find_address(workspace)
    manager = cloud.resource_manager()
    load_mlflow()
    try:
        token = cloud.credential(workspace.interactive).get_token(f"{manager}/.default")
    except ClientAuthenticationError as error:
        raise explain_sign_in(error) from error
    with refusal(
        "WorkspaceUnreadable",
        f"Workspace '{address.name}' in resource group '{address.resource_group}' (from {address.found_in}) could "
        "not be read",
        "Check the three parts of the address and that the identity has the role AzureML Data Scientist.",
    ):
        opened = required(cloud.workspace_client(workspace).workspaces.get(address.name), "the workspace")
    claims = _claims(token.token)
    identity = Identity(
        principal=claims.get("oid") or claims.get("appid") or "unknown",
        tenant=claims.get("tid", "unknown"),
        subscription_id=address.subscription_id,
        resource_group=address.resource_group,
        workspace=address.name,
        location=required(opened.location, "the workspace's region"),
        found_in=address.found_in,
        cloud=manager,
        portal=cloud.portal(),
    )
    log.info("signed in as %s; workspace %s (from %s)", identity.principal, address.name, address.found_in)
    return identity


def _claims(token: str) -> dict[str, str]:
    """The claims of a JWT, unverified: the service verifies, this only shows."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    return json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))

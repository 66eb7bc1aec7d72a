"""What a failed sign-in means: of the many credentials that were tried, the one that was meant to work comes first."""

import re
from typing import TYPE_CHECKING, NamedTuple

from retune.errors import CloudError

if TYPE_CHECKING:
    from azure.core.exceptions import ClientAuthenticationError

# As `azure.identity` lists them, one a line, each with a text that may have several.
ATTEMPT = re.compile(r"\n\t(\w+): (.*?)(?=\n\t\w+: |\nTo mitigate|\Z)", re.DOTALL)
# What a credential says that nobody has set up on this machine.
NOT_SET_UP = re.compile(
    r"unavailable|not fully configured|not (?:been )?(?:found|installed|configured|available|supported|logged in)"
    r"|no (?:token|accounts|managed identity|response)|only supported|requires|could not|couldn't|az login"
    r"|azd auth login|Connect-AzAccount|failed to invoke|shared token cache",
    re.IGNORECASE,
)
# How a text begins that the sign-in service itself has given.
SERVICE_SAYS = "AADSTS"
NO_NETWORK = re.compile(
    r"getaddrinfo|name resolution|name or service not known|failed to resolve|failed to establish|connection refused"
    r"|connection aborted|max retries exceeded|network is unreachable|timed out",
    re.IGNORECASE,
)
SHOWN_CHARACTERS = 200
SIGN_IN = (
    "Sign in with `az login`, set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or give the worker a "
    "managed identity; at a terminal, workspace.interactive=true opens a browser."
)


class Attempt(NamedTuple):
    """A credential that was tried, and what it said."""

    credential: str
    text: str

    def __str__(self) -> str:
        line = " ".join(self.text.split())
        return f"{self.credential}: {line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + '...'}"


def explain_sign_in(error: "ClientAuthenticationError") -> CloudError:
    """`SignInFailed`, with the credential that was meant to work and one line for each of the others."""
    attempts = [Attempt(*match) for match in ATTEMPT.findall(str(error.message))]
    meant = [each for each in attempts if SERVICE_SAYS in each.text or not NOT_SET_UP.search(each.text)]
    # What the service itself has refused is surely meant.
    meant.sort(key=lambda attempt: SERVICE_SAYS not in attempt.text)
    others = [*meant[1:], *(attempt for attempt in attempts if attempt not in meant)]
    tried = "".join(f"\n  {attempt}" for attempt in others)
    if not attempts:
        return CloudError("SignInFailed", f"The sign-in failed: {' '.join(str(error.message).split())}", SIGN_IN)
    if not meant:
        return CloudError("SignInFailed", f"No credential is set up on this machine. Tried:{tried}", SIGN_IN)
    also = f"\nAlso tried:{tried}" if others else ""
    if NO_NETWORK.search(meant[0].text):
        fix = "Check the network, the proxy and the DNS of this machine, then run it again."
        return CloudError("SignInFailed", f"No network: the sign-in cannot be reached. {meant[0]}{also}", fix)
    fix = f"Renew what this credential uses: {hint_for(meant[0].credential)}"
    return CloudError("SignInFailed", f"The sign-in failed. {meant[0]}{also}", fix)


def hint_for(credential: str) -> str:
    """Where a credential gets what it signs in with."""
    hints = {
        "EnvironmentCredential": "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET.",
        "WorkloadIdentityCredential": "the federated token of the pod, AZURE_FEDERATED_TOKEN_FILE.",
        "ManagedIdentityCredential": "the managed identity of this machine.",
        "AzureCliCredential": "run `az login`.",
        "AzureDeveloperCliCredential": "run `azd auth login`.",
        "AzurePowerShellCredential": "run `Connect-AzAccount`.",
    }
    return hints.get(credential, SIGN_IN)

"""A failed sign-in names the credential that was meant to work, and what to do about that one."""

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ChainedTokenCredential, CredentialUnavailableError

from retune_cloud.sdk_errors import explain

NOT_CONFIGURED = "EnvironmentCredential authentication unavailable. Environment variables are not fully configured."
NO_IDENTITY = "ManagedIdentityCredential authentication unavailable, no response from the IMDS endpoint."
LOGGED_OUT = "Please run 'az login' to set up an account"
WRONG_SECRET = "Authentication failed: AADSTS7000215: Invalid client secret provided.\nTrace ID: 1"
EXPIRED = "AADSTS700082: The refresh token has expired due to inactivity. Please run: az login"
UNREACHABLE = "HTTPSConnectionPool(host='login.microsoftonline.com', port=443): Max retries exceeded with url: /x"


def credential(name: str, error: Exception) -> object:
    """A credential of this name that fails so."""

    def get_token(self: object, *scopes: str, **options: object) -> None:
        raise error

    return type(name, (), {"get_token": get_token})()


def failed(*attempts: tuple[str, str, bool]) -> ClientAuthenticationError:
    """What the SDK raises when these credentials were tried; the last value says whether one was set up."""
    errors = [
        (name, ClientAuthenticationError(text) if is_set_up else CredentialUnavailableError(text))
        for name, text, is_set_up in attempts
    ]
    chain = ChainedTokenCredential(*(credential(name, error) for name, error in errors))
    with pytest.raises(ClientAuthenticationError) as caught:
        chain.get_token("scope")
    return caught.value


OTHERS = [("ManagedIdentityCredential", NO_IDENTITY, False), ("AzureCliCredential", LOGGED_OUT, False)]


@pytest.mark.parametrize(
    ("attempts", "first", "fix"),
    [
        ([("EnvironmentCredential", WRONG_SECRET, True)], "EnvironmentCredential: ", "AZURE_CLIENT_SECRET"),
        ([*OTHERS, ("AzureCliCredential", EXPIRED, True)], "AzureCliCredential: AADSTS700082", "run `az login`"),
        (
            [("ManagedIdentityCredential", "Unexpected content type", False), ("AzureCliCredential", EXPIRED, True)],
            "AzureCliCredential: AADSTS700082",
            "run `az login`",
        ),
        ([("EnvironmentCredential", UNREACHABLE, True)], "No network", "Check the network"),
        ([("EnvironmentCredential", NOT_CONFIGURED, False), *OTHERS], "No credential is set up", "az login"),
    ],
    ids=["wrong secret", "expired", "expired behind another", "no network", "nothing set up"],
)
def test_the_credential_that_was_meant_comes_first(attempts: list[tuple[str, str, bool]], first: str, fix: str) -> None:
    """Each of the others is one line."""
    explained = explain(failed(*attempts))

    assert explained is not None and explained.code == "SignInFailed"
    head, *lines = explained.message.split("\n")
    assert first in head
    assert fix in explained.fix
    listed = [line.strip().partition(":")[0] for line in lines if line.startswith("  ")]
    assert len(listed) == sum(not is_set_up for _, _, is_set_up in attempts)

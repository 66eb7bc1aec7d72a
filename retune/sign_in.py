"""Who may use a Prefect server that Retune starts: whoever can read one file, a Prefect profile of mode 0600.

The file holds the server's address and a string that is new at each start. The server, the worker and the command
`prefect` read it through PREFECT_PROFILES_PATH; a person types the string once into Prefect's page. Without it the
server answers 401, to a web page as to anybody else. Retune passes only the file's path. Prefect's worker adds the
string to the environment of its flow runs.

Source: https://docs.prefect.io/v3/advanced/security-settings
"""

import contextlib
import os
import secrets
import shlex
import tomllib
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from retune.environment import changed_environment
from retune.errors import CloudError
from retune.folders import home

PROFILES_PATH = "PREFECT_PROFILES_PATH"
CLIENT, SERVER = "retune", "retune-server"
# Variables that Prefect reads before the profile.
OVERRIDES = (
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED",
)
OWN_NAMES = ("127.0.0.1", "localhost")


class SignIn(NamedTuple):
    """What a profile holds: the address of Prefect's API, and the string that opens it."""

    api: str
    string: str


def profile_file(port: int) -> Path:
    """Where the profile of the server on that port is, while the server runs."""
    return home() / f"prefect-{port}.toml"


def profile_of(api: str) -> Path | None:
    """The profile of a server of ours by its address; None where it is none of ours."""
    address = urlsplit(api)
    if address.hostname not in OWN_NAMES or not address.port:
        return None
    file = profile_file(address.port)
    return file if file.is_file() else None


def profile_of_configured(api: str) -> Path | None:
    """The profile for an address that is configured without a string; a configured string is the user's own."""
    from prefect.settings import PREFECT_API_AUTH_STRING

    return None if PREFECT_API_AUTH_STRING.value() else profile_of(api)


@contextlib.contextmanager
def new_profile(port: int) -> Iterator[Path]:
    """A profile with a new string, deleted when the server stops.

    It contains the user's own profile settings too, because Prefect reads only one profiles file.
    """
    from prefect.context import get_settings_context
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
        PREFECT_PROFILES_PATH,
        PREFECT_SERVER_API_AUTH_STRING,
        Profile,
        ProfilesCollection,
        save_profiles,
        temporary_settings,
    )

    file, string = profile_file(port), f"retune:{secrets.token_urlsafe(24)}"
    settings = get_settings_context().profile.settings
    users = {setting: value for setting, value in settings.items() if setting.name not in OVERRIDES}
    client = users | {PREFECT_API_URL: f"http://127.0.0.1:{port}/api", PREFECT_API_AUTH_STRING: string}
    client |= {PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: True}
    profiles = [Profile(name=CLIENT, settings=client)]
    profiles += [Profile(name=SERVER, settings=users | {PREFECT_SERVER_API_AUTH_STRING: string})]
    file.unlink(missing_ok=True)
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with temporary_settings({PREFECT_PROFILES_PATH: file}):
            save_profiles(ProfilesCollection(profiles, active=CLIENT))
        yield file
    finally:
        file.unlink(missing_ok=True)


def read_profile(file: Path) -> SignIn:
    """What a profile holds.

    Raises:
        CloudError: `NoSignIn`, the file cannot be read.
    """
    try:
        profile = tomllib.loads(file.read_text(encoding="utf-8"))["profiles"][CLIENT]
        return SignIn(profile["PREFECT_API_URL"], profile["PREFECT_API_AUTH_STRING"])
    except (OSError, ValueError, KeyError) as error:
        fix = "Check that the server still runs, or start one: make deploy-local."
        raise CloudError("NoSignIn", f"The Prefect sign-in in {file} cannot be read: {error}", fix) from error


def variables(file: Path, name: str = CLIENT) -> dict[str, str | None]:
    """Environment for a Prefect process that must use this profile; None removes a variable."""
    return {**dict.fromkeys(OVERRIDES), PROFILES_PATH: str(file), "PREFECT_PROFILE": name}


@contextlib.contextmanager
def signed_in(file: Path | None) -> Iterator[None]:
    """In the body, Prefect's clients in this process, and the processes that it starts, use the file's server.

    Without a file they use what is configured.

    Raises:
        CloudError: as `read_profile`.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    if file is None:
        yield
        return
    sign_in = read_profile(file)
    with (
        changed_environment(variables(file)),
        temporary_settings({PREFECT_API_URL: sign_in.api, PREFECT_API_AUTH_STRING: sign_in.string}),
    ):
        yield


@contextlib.contextmanager
def explained(api: str) -> Iterator[None]:
    """Errors of Prefect's clients in the body as ours.

    Raises:
        CloudError: `PrefectRefused` or `PrefectAway`, the server does not take the sign-in, or does not answer.
    """
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    fix = "Run the command exactly as the run's log prints it"
    try:
        yield
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise
        text = f"Prefect's API at {api} refused the sign-in."
        raise CloudError("PrefectRefused", text, f"{fix}, or set PREFECT_API_AUTH_STRING.") from error
    except httpx.HTTPError as error:
        text = f"Prefect's API at {api} cannot be reached: {error}"
        raise CloudError("PrefectAway", text, f"{fix}, or set PREFECT_API_URL.") from error


def shell_prefix(api: str) -> str:
    """What stands before a command in a shell so that it uses the Prefect server with this API, e.g. for a log."""
    if file := profile_of(api):
        return f"{PROFILES_PATH}={shlex.quote(str(file))}"
    return f"PREFECT_API_URL={shlex.quote(api)}"

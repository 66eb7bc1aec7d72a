"""Who may use a Prefect server that Retune starts: whoever can read one file, a Prefect profile of mode 0600.

The file holds the server's address and a string that is new at each start. The server, the worker and the command
`prefect` read it through PREFECT_PROFILES_PATH, so the string is no argument and no variable that we set; a person
types it once into Prefect's page. Without it the server answers 401, to a web page as to anybody else.

Source: https://docs.prefect.io/v3/advanced/security-settings
"""

import contextlib
import os
import secrets
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

from retune.environment import environment
from retune.errors import CloudError
from retune.folders import home

PROFILES_PATH = "PREFECT_PROFILES_PATH"
CLIENT, SERVER = "retune", "retune-server"
# Where a string of another server would come before ours.
OTHERS = (
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED",
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS",
)


def profile_file(port: int) -> Path:
    """Where the profile of the server on that port is, while the server runs."""
    return home() / f"prefect-{port}.toml"


@contextlib.contextmanager
def new_profile(port: int) -> Iterator[Path]:
    """A profile with a new string for the server that is about to start there; it goes with the server.

    It keeps what the user's own profile sets, as that one is not read beside it.
    """
    from prefect.context import get_settings_context
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_PROFILES_PATH,
        PREFECT_SERVER_API_AUTH_STRING,
        Profile,
        ProfilesCollection,
        save_profiles,
        temporary_settings,
    )

    file, string = profile_file(port), f"retune:{secrets.token_urlsafe(24)}"
    users = dict(get_settings_context().profile.settings)
    client = users | {PREFECT_API_URL: f"http://127.0.0.1:{port}/api", PREFECT_API_AUTH_STRING: string}
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


def variables(file: Path, name: str = CLIENT) -> dict[str, str | None]:
    """Variables with which a Prefect process reads that profile and no other; None: one that it must not have."""
    return {**dict.fromkeys(OTHERS), PROFILES_PATH: str(file), "PREFECT_PROFILE": name}


@contextlib.contextmanager
def signed_in(file: Path) -> Iterator[None]:
    """In the body, Prefect's clients in this process, and the processes that it starts, use the file's server.

    Raises:
        CloudError: `NoSignIn`, the file cannot be read.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    try:
        profile = tomllib.loads(file.read_text(encoding="utf-8"))["profiles"][CLIENT]
        address, string = profile["PREFECT_API_URL"], profile["PREFECT_API_AUTH_STRING"]
    except (OSError, ValueError, KeyError) as error:
        fix = "Is the server that wrote it still running? `make deploy-local` starts one."
        raise CloudError("NoSignIn", f"The sign-in for Prefect in {file} cannot be read: {error}", fix) from error
    own = {PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: string}
    with environment(variables(file)), temporary_settings(own):
        yield


def assignment(api: str) -> str:
    """What stands before a command in a shell so that it uses the Prefect server of this process, e.g. for a log."""
    if file := os.environ.get(PROFILES_PATH):
        return f"{PROFILES_PATH}={shlex.quote(file)}"
    return f"PREFECT_API_URL={shlex.quote(api)}"

"""The two local servers that the command line starts when none is named: the emulator and Prefect's API.

Both run in sessions of their own, so that a Ctrl-C at the terminal ends the flow and not what its clean-up needs, and
both end when this process ends, however it ends: their standard input is a pipe that closes with it.
"""

import base64
import contextlib
import ctypes
import json
import logging
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from retune import sign_in
from retune.environment import changed_environment, environment_with
from retune.errors import CloudError
from retune.folders import home
from retune.waiting import poll
from retune_cli.stack import running
from retune_cloud.workspace import METADATA_URL

log = logging.getLogger("retune.servers")

START_SECONDS, ANSWER_SECONDS = 180, 5
# From <sys/prctl.h>.
PR_SET_PDEATHSIG = 1
# Prefect's server is a child of ours, which needs longer than the server itself.
SERVER_STOP_SECONDS, STOP_SECONDS = 10, 20
DRAIN_SECONDS = 5
OWN_SERVER_RETRIES = 2
QUIET_PREFECT = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


@contextlib.contextmanager
def emulator(*, start: bool = True) -> Iterator[None]:
    """An emulator whose address is in this process's environment: the one that the environment names, that of `retune
    local start`, or else, with `start`, a new one; without `start` also that of another run, which ends with it.

    Raises:
        CloudError: `EmulatorStopped`, none runs and none may be started; `EmulatorBusy`, it is another run's;
            `ServerNotStarted`.
    """
    if os.environ.get(METADATA_URL):
        log.info("using the emulator at %s", os.environ[METADATA_URL].partition("/metadata")[0])
        yield
        return
    folder = home() / "emulator"
    if ready := _running_emulator(folder):
        if start and not running():
            raise CloudError(
                "EmulatorBusy",
                f"Process {ready['pid']} serves {folder}. If that is another run's emulator, it ends with that run.",
                "Wait for its end, or set RETUNE_HOME to another folder. If you started it yourself, use it: eval "
                f'"$(python -m azureml_emulator env --home {folder})". For several runs: retune local start.',
            )
        log.info("using the emulator at %s", ready["url"])
        with changed_environment(ready["env"]):
            yield
        return
    if not start:
        state = "is stopped" if folder.is_dir() else "has never run"
        raise CloudError(
            "EmulatorStopped",
            f"No other workspace is named, and the local one {state}: no emulator runs on {folder}.",
            "Start it: retune local start. For a workspace on Azure name its preset, or set AZURE_SUBSCRIPTION_ID, "
            "AZURE_RESOURCE_GROUP and AZURE_WORKSPACE_NAME.",
        )
    arguments = ["-m", "azureml_emulator", "--home", str(folder), "--stop-with-stdin"]
    with server("emulator", arguments, os.environ.copy(), stdout=subprocess.PIPE) as process:
        assert process.stdout
        answered, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        line = process.stdout.readline() if answered else ""
        if not line:
            raise _not_started(
                "emulator",
                "If another run uses this folder, wait for its end or set RETUNE_HOME to another one; "
                "if a package is missing: pip install 'retune[emulator,trainer]'.",
            )
        ready = json.loads(line)
        log.info("emulator at %s, state in %s", ready["url"], folder)
        with changed_environment(ready["env"]):
            yield


def _running_emulator(folder: Path) -> dict[str, Any] | None:
    """What the emulator on a folder said when it was ready, if it answers now."""
    try:
        ready = json.loads((folder / "ready.json").read_text(encoding="utf-8"))
        trusted = ssl.create_default_context(cafile=ready["ca_bundle"])
        with urllib.request.urlopen(ready["env"][METADATA_URL], timeout=ANSWER_SECONDS, context=trusted):
            return ready
    except (OSError, ValueError, LookupError):
        return None


@contextlib.contextmanager
def prefect_api(meanwhile: Callable[[], None] = lambda: None, *, local: bool = False) -> Iterator[None]:
    """A Prefect API for this process: the configured one, else a server of our own; for a run in the `local` workspace,
    that of `retune local start` if it runs.

    `meanwhile` is called before the body, while that server starts.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    if api := PREFECT_API_URL.value():
        log.info("using the Prefect API at %s", api)
        meanwhile()
        with sign_in.signed_in(sign_in.profile_of_configured(api)):
            yield
        return
    if stack := running() if local else None:
        log.info("using the local Prefect API at %s", stack.api)
        meanwhile()
        with sign_in.signed_in(stack.profile):
            yield
        return
    port = free_port()
    with prefect_server(port, meanwhile) as url:
        file = sign_in.profile_file(port)
        log.info("Prefect's page for this run: %s; it asks for the PREFECT_API_AUTH_STRING in %s", url, file)
        # A server on this machine that has died does not come back, and Prefect would ask it for a minute at each call.
        with sign_in.signed_in(file), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: OWN_SERVER_RETRIES}):
            try:
                yield
            finally:
                # Prefect's threads would go on trying for minutes.
                if _status_of(f"{url}/api/health", {}, DRAIN_SECONDS):
                    everything_is_sent()


@contextlib.contextmanager
def prefect_server(port: int, meanwhile: Callable[[], None] = lambda: None) -> Iterator[str]:
    """A running Prefect server on Prefect's own database that requires a sign-in; yields its address.

    The sign-in is in `sign_in.profile_file(port)`. `meanwhile` is called while the server starts.

    Raises:
        CloudError: `ServerNotStarted`, it does not answer, or it does not require that sign-in.
    """
    url = f"http://127.0.0.1:{port}"
    own = {"PREFECT_SERVER_UI_API_URL": f"{url}/api", "PREFECT_UI_URL": url}
    own |= {"PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false"}
    own |= {"PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true"}
    own |= {"PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"{url},http://localhost:{port}"}
    arguments = ["-m", "retune_cli.servers", str(port)]
    with sign_in.new_profile(port) as file:
        settings = environment_with(QUIET_PREFECT | sign_in.variables(file, sign_in.SERVER) | own)
        with server("prefect", arguments, settings, stdout=subprocess.DEVNULL) as process:
            meanwhile()
            _wait_until_healthy(f"{url}/api/health", process)
            _check_sign_in(f"{url}/api/admin/version", sign_in.read_profile(file).string)
            yield url


def serve_prefect(port: int) -> None:
    """Run Prefect's server until our standard input closes."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    profile = sign_in.profile_file(port)
    ours = profile.read_bytes()
    # It ends also when this process is killed together with the one that holds the pipe.
    server = subprocess.Popen(
        [*command, "--log-level", "ERROR"], stdin=subprocess.DEVNULL, preexec_fn=end_with_parent()
    )
    # Our parent closes the pipe and then sends this, which must not cut short what the first has begun.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    sys.stdin.read()
    _end(server, SERVER_STOP_SECONDS)
    # The parent may have been killed before it could delete the file; another server may have the port by now.
    with contextlib.suppress(FileNotFoundError):
        if profile.read_bytes() == ours:
            profile.unlink()


def everything_is_sent() -> bool:
    """Let Prefect's threads send the last logs and events; False when they could not in `DRAIN_SECONDS` each."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        drained = worker.drain_all(timeout=DRAIN_SECONDS)
        # Prefect's type allows for a coroutine, which it gives to callers in an event loop.
        assert isinstance(drained, tuple)
        _, unsent = drained
        if unsent:
            return False
    return True


@contextlib.contextmanager
def server(
    name: str, arguments: list[str], environment: dict[str, str], stdout: int, *, reads_stdin: bool = True
) -> "Iterator[subprocess.Popen[str]]":
    """A Python process in a session of its own, whose standard input is our pipe and whose stderr is `<name>.log`.

    One that does not end with its standard input is sent SIGTERM, on Linux, when this thread ends.
    """
    with _log_file(name).open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=errors,
            env=environment,
            text=True,
            start_new_session=True,
            preexec_fn=None if reads_stdin else end_with_parent(),
        )
    assert process.stdin
    try:
        yield process
    finally:
        process.stdin.close()
        _end(process, STOP_SECONDS)


def end_with_parent() -> Callable[[], None]:
    """What a new process does first, so that Linux sends it SIGTERM when this thread ends; elsewhere nothing.

    For a process with one thread.
    """
    parent, system = os.getpid(), ctypes.CDLL(None)

    def ask() -> None:
        with contextlib.suppress(AttributeError):
            system.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # It may have died already.
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _end(process: "subprocess.Popen[str] | subprocess.Popen[bytes]", seconds: float) -> None:
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_healthy(url: str, process: "subprocess.Popen[str]") -> None:
    def answers() -> bool | None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return None if process.poll() is None else False

    if not poll(answers, seconds=START_SECONDS, every=0.1, stoppable=False):
        raise _not_started("prefect", "Or start one with `prefect server start` and set PREFECT_API_URL.")


def _check_sign_in(url: str, string: str) -> None:
    """Make sure that the server requires the sign-in; a prefect.toml may override our settings."""
    basic = {"Authorization": f"Basic {base64.b64encode(string.encode()).decode()}"}
    without, with_it = _status_of(url, {}), _status_of(url, basic)
    if (without, with_it) != (HTTPStatus.UNAUTHORIZED, HTTPStatus.OK):
        raise CloudError(
            "ServerNotStarted",
            f"The local Prefect server answered {without} without the sign-in and {with_it} with it, not 401 and 200.",
            f"Remove server.api.auth_string from prefect.toml, .env and pyproject.toml in {Path.cwd()}.",
        )


def _status_of(url: str, headers: dict[str, str], seconds: float = START_SECONDS) -> int:
    """What a request is answered with; 0 when it is not answered in time."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=seconds) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _not_started(name: str, fix: str) -> CloudError:
    lines = _log_file(name).read_text(encoding="utf-8").strip().split("\n")[-5:]
    return CloudError(
        "ServerNotStarted",
        f"The local {name} server did not start within {START_SECONDS} s: {' | '.join(lines) or 'no output'}",
        f"See {_log_file(name)}. {fix}",
    )


def _log_file(name: str) -> Path:
    return home() / f"{name}.log"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    serve_prefect(int(sys.argv[1]))

"""Fixtures: a real emulator process for the session, or one for a single test, and clients of the real SDK against it.

The variables that lead the SDK to the emulator are set for the test process while a fixture is in use. The emulators
write every exchange to one folder, which tests/test_openapi.py checks at the end of the session.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trustme
from prefect_servers import PrefectServer, prefect_server
from variables import Variables

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from hub_client import Client
    from raw_requests import Raw

    from benchmarks.hub import Hub

# Before any test imports Prefect: its database, its results and our files go to a folder of this session.
SESSION_HOME = Path(tempfile.mkdtemp(prefix="retune-tests-"))
# The tests ask this machine only, and to load the public roots takes 30 ms of each connection.
ROOTS = SESSION_HOME / "roots.pem"
ROOTS.write_bytes(trustme.CA().cert_pem.bytes())
os.environ |= {
    "SSL_CERT_FILE": str(ROOTS),
    "REQUESTS_CA_BUNDLE": str(ROOTS),
    "PREFECT_HOME": str(SESSION_HOME / "prefect"),
    "RETUNE_HOME": str(SESSION_HOME / "retune"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
os.environ.pop("PREFECT_API_URL", None)

# Files that take over a minute. They start first, so that no process ends long after the others.
LONGEST = (
    "test_browser.py",
    "test_fault_matrix.py",
    "test_flow.py",
    "test_crashes.py",
    "test_interrupts.py",
    "test_approval.py",
    "test_chaos.py",
    "test_stops.py",
    "test_worker.py",
    "test_unchanged.py",
    "test_trainer.py",
    "test_emulator_jobs.py",
    "test_data_assets.py",
    "test_trainer_serve.py",
    "test_guide.py",
)

# Deprecations inside the SDK and what it needs; warnings of our own code stay errors.
SDK_WARNINGS = (
    "ignore::marshmallow.warnings.ChangedInMarshmallow4Warning",
    "ignore::marshmallow.warnings.RemovedInMarshmallow4Warning",
    r"ignore::DeprecationWarning:azure\..*",
    # Prefect's threads, which earlier tests have left, draw random numbers while hypothesis draws its own.
    "ignore:Do not use the `random` module inside strategies",
    # Its clients are never closed; their connections end with an emulator that stops.
    "ignore:unclosed <ssl.SSLSocket:ResourceWarning",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where exchanges go, and options of tests/test_fault_matrix.py and tests/test_browser.py."""
    parser.addoption("--exchanges", type=Path, metavar="FOLDER", help="keep what was asked and answered there")
    parser.addoption("--faults", type=Path, metavar="FILE", help="every cell, but for those that FILE says have passed")
    parser.addoption("--shard", default="1/1", metavar="K/N", help="with --faults: the K-th of N parts")
    parser.addoption(
        "--fuzz", type=int, default=2000, metavar="REQUESTS", help="as many requests of tests/test_fuzz.py"
    )
    parser.addoption("--screenshots", type=Path, metavar="FOLDER", help="keep the pictures of Prefect's page there")


def pytest_configure(config: pytest.Config) -> None:
    for line in SDK_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, the check of all exchanges last."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)} | {"test_openapi.py": len(LONGEST) + 1}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)))


# `/admin/timing`: long enough that each state is one, short enough not to be waited for.
QUICK = dict.fromkeys(
    (
        "retry_after_seconds",
        "compute_seconds",
        "queue_seconds",
        "prepare_seconds",
        "finalize_seconds",
        "endpoint_seconds",
        "deployment_seconds",
        "delete_seconds",
    ),
    0.1,
)


class Emulator:
    """One emulator process on one home."""

    def __init__(self, home: Path, exchanges: Path) -> None:
        self.home = home
        self._exchanges = exchanges
        # To make one takes a quarter of a second of processor time.
        self._clients: dict[tuple[tuple[str, str], ...], MLClient] = {}
        self.start()

    def start(self) -> None:
        self.log = self.home.with_suffix(".log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "azureml_emulator", "--home", str(self.home), "--stop-with-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "AZUREML_EMULATOR_EXCHANGES": str(self._exchanges)},
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"The emulator did not start: {self.home.with_suffix('.log').read_text()}"
        self.ready = json.loads(line)
        self.env: dict[str, str] = self.ready["env"]

    def stop(self) -> int:
        """The exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(10)
        self.close()
        return status

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.close()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.log):
            assert stream is not None
            stream.close()

    def restart(self, *, kill: bool = False) -> None:
        """Ends the process (SIGTERM, or SIGKILL) and starts another one on the same home and port."""
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()

    def request(self, method: str, path: str, *, token: str = "", content: object = None) -> tuple[int, object]:
        """Status and body of a plain HTTPS request."""
        import requests

        headers = {"Authorization": f"Bearer {token}"} if token else {}
        bundle = self.ready["ca_bundle"]
        answer = requests.request(
            method, self.ready["url"] + path, headers=headers, json=content, verify=bundle, timeout=60
        )
        return answer.status_code, answer.json() if answer.content else None

    def admin(self, method: str, path: str, content: object = None) -> object:
        """The body of an admin answer; the status must be below 400."""
        status, body = self.request(method, path, token=self.ready["admin_token"], content=content)
        assert status < 400, body
        return body

    def client(self, **changes: str) -> "MLClient":
        """The MLClient for the workspace, or with registry_name= for the registry. Needs the variables."""
        from azure.ai.ml import MLClient
        from azure.identity import DefaultAzureCredential

        if client := self._clients.get(tuple(changes.items())):
            return client
        place = {name: self.ready[name] for name in ("subscription_id", "resource_group", "workspace_name")}
        arguments = changes if "registry_name" in changes else {**place, **changes}
        names = {"resource_group": "resource_group_name"}
        arguments = {names.get(name, name): value for name, value in arguments.items()}
        client = MLClient(DefaultAzureCredential(), **arguments, enable_telemetry=False)
        self._clients[tuple(changes.items())] = client
        return client


@pytest.fixture(scope="session")
def exchanges(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the emulators of this session write what was asked and answered."""
    folder = pytestconfig.getoption("--exchanges")
    return folder.resolve() if folder else tmp_path_factory.mktemp("exchanges")


@pytest.fixture(scope="session")
def session_emulator(tmp_path_factory: pytest.TempPathFactory, exchanges: Path) -> Iterator[Emulator]:
    """With `QUICK` timing, which a test that changes it sets again."""
    emulator = Emulator(tmp_path_factory.mktemp("emulator") / "home", exchanges)
    emulator.admin("PUT", "/admin/timing", QUICK)
    yield emulator
    emulator.stop()


@pytest.fixture(autouse=True)
def not_stopped() -> None:
    """A flow that ends tells its threads to stop; a step that a test calls by itself has not been told."""
    from retune.waiting import STOP

    STOP.clear()


@pytest.fixture
def emulator(session_emulator: Emulator) -> Iterator[Emulator]:
    """The session's emulator, with its variables set and no faults."""
    with Variables(session_emulator.env):
        yield session_emulator


@pytest.fixture
def fresh_emulator(tmp_path: Path, exchanges: Path) -> Iterator[Emulator]:
    """An emulator of this test alone, which may be stopped, killed and restarted."""
    emulator = Emulator(tmp_path / "home", exchanges)
    with Variables(emulator.env):
        yield emulator
    if emulator.process.poll() is None:
        emulator.stop()
    emulator.close()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator of this module alone, with its variables set and a file beside its home.

    Its exchanges are not checked: they are what no client of the service sends.
    """
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "canary").write_text("untouched")
    emulator = Emulator(folder / "home", folder / "exchanges")
    with Variables(emulator.env):
        yield emulator
    emulator.stop()


@pytest.fixture(scope="module")
def raw(attacked: Emulator) -> "Iterator[Raw]":
    """Requests to that emulator, byte by byte."""
    from raw_requests import Raw

    raw = Raw(attacked)
    yield raw
    raw.close()


@pytest.fixture
def ml_client(emulator: Emulator) -> "MLClient":
    return emulator.client()


@pytest.fixture
def registry_client(emulator: Emulator) -> "MLClient":
    return emulator.client(registry_name="azureml")


@pytest.fixture(scope="session")
def own_prefect() -> Iterator[PrefectServer]:
    """A Prefect server for the tests of this process: a client that is killed may lock its database for minutes."""
    with prefect_server() as server:
        yield server


@pytest.fixture(scope="session")
def prefect_api(own_prefect: PrefectServer) -> Iterator[str]:
    """Address of a Prefect API for the session, which flows in this process and in child processes use."""
    from prefect.settings import PREFECT_API_URL

    from retune import sign_in
    from retune_cli import servers

    with sign_in.signed_in(own_prefect.profile):
        yield PREFECT_API_URL.value()
        servers.everything_is_sent()


@pytest.fixture(scope="session")
def empty_database(own_prefect: PrefectServer) -> Path:
    """Prefect's database without a run, for `own_homes`: making the tables takes a server ten seconds."""
    return own_prefect.empty_database


@pytest.fixture(scope="session")
def environment(session_emulator: Emulator, prefect_api: str) -> dict[str, str]:
    """What a user's shell holds with an emulator and a Prefect API named."""
    shell = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return shell | session_emulator.env | {"PREFECT_API_URL": prefect_api}


class Run(NamedTuple):
    """What the command printed and returned."""

    code: int
    report: dict
    errors: str


@pytest.fixture
def finetune(emulator: Emulator, prefect_api: str, capfd: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """`python -m flows.finetune --json --force` in this process, with `--set` for each argument."""
    from retune_cli.running import main

    def run(
        *assignments: str, preset: str = "local", key: str | None = None, force: bool = True, page: Path | None = None
    ) -> Run:
        arguments = ["--json", "--preset", preset, *["--force"] * force]
        arguments += [*(["--run-key", key] if key else []), *(["--html", str(page)] if page else [])]
        arguments += [word for assignment in assignments for word in ("--set", assignment)]
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        output = capfd.readouterr()
        return Run(exit_.value.code, json.loads(output.out), output.err)

    return run


@pytest.fixture(scope="module")
def running(root: Path) -> Iterator["Hub"]:
    """A hub of the data sets below the module's `root`."""
    from benchmarks.hub import Hub

    with Hub(root) as hub:
        yield hub


@pytest.fixture
def hub(running: "Hub") -> "Hub":
    """The module's hub without faults and with an empty log."""
    running.reset()
    return running


@pytest.fixture(scope="module")
def client(running: "Hub", tmp_path_factory: pytest.TempPathFactory) -> Iterator["Client"]:
    """The hub's client, for the module."""
    from hub_client import Client

    client = Client(running, tmp_path_factory.mktemp("home"))
    yield client
    client.close()

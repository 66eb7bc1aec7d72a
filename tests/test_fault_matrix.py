"""Every call of a run meets every fault: it completes, or fails with a name and a fix, and leaves nothing behind.

    make faults      (every cell, in two processes, and docs/faults.md)

By default a sample runs: `--faults FILE` takes all cells but those that FILE says have passed, `--shard 1/2` every
second of them, and whoever passes the last one writes the document. Runs happen in this process, and those of calls
before and after the training take over a job that is done.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import pytest
from commands import REHEARSAL, Ended, state_in_prefect, wait_for
from commands import finetune as run_command
from conftest import Emulator, Run
from fault_matrix import (
    EVENTS,
    FAULTS,
    FOR_EVER,
    HAPPENS,
    KINDS_OF_FAULTS,
    ROUTES,
    SAMPLE,
    SHORT_LEASE,
    Cell,
    Phase,
    cells,
    render,
    row,
)
from variables import Variables

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "faults.md"
KEY = "matrix"
CLUSTER = "gpu-cluster"
TRAINING_ROWS = 460
# Its own rows: those that another test of the session has uploaded would not be uploaded again.
SETTINGS = (*REHEARSAL, "data.fraction=0.1", "limits.poll_seconds=0.2", "limits.delete_minutes=0.5")
STATES = {"completed": "COMPLETED", "failed": "FAILED", "rejected": "FAILED"}
# The names that a run may fail with, docs/report.md's reader relies on them.
CODES = {
    "BadRequest",
    "CloudUnreachable",
    "ComputeFailed",
    "ComputeRefused",
    "Conflict",
    "DataAssetRefused",
    "DataAssetTaken",
    "DataChanged",
    "DeploymentFailed",
    "EmptyAnswer",
    "EndpointRefused",
    "JobFailed",
    "JobRefused",
    "JobTooSlow",
    "MalformedAnswer",
    "NotAllowed",
    "NotSignedIn",
    "NotThere",
    "Refused",
    "RegistrationRefused",
    "RegistryNotFound",
    "ScoringRefused",
    "SignInFailed",
    "Throttled",
    "TrackingUnreadable",
    "WaitExpired",
    "WorkspaceUnreadable",
}
numbers = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        number, _, count = metafunc.config.getoption("--shard").partition("/")
        file = metafunc.config.getoption("--faults")
        passed = read_outcomes(file)
        chosen = list(cells())[int(number) - 1 :: int(count)] if file else [c for c in cells() if c.id in SAMPLE]
        chosen = [cell for cell in chosen if cell.id not in passed]
        metafunc.parametrize("cell", chosen, ids=[cell.id for cell in chosen])


def read_outcomes(file: Path | None) -> dict[str, str]:
    """How the cells in the file ended, by id."""
    lines = file.read_text(encoding="utf-8").splitlines() if file and file.is_file() else []
    return {cell: outcome for line in lines for cell, outcome in json.loads(line).items()}


class Service:
    """An emulator of these tests alone, which takes no time for what needs none, and what they look at in it."""

    def __init__(self, emulator: Emulator) -> None:
        import requests

        from retune_cloud.tracking import load_mlflow

        self.emulator = emulator
        with Variables(emulator.env):
            self.client = emulator.client()
            load_mlflow()
        self._session = requests.Session()
        # Not the environment's bundle, which the variables of another emulator may name.
        self._session.trust_env = False
        self._session.verify = emulator.ready["ca_bundle"]
        self._session.headers["Authorization"] = f"Bearer {emulator.ready['admin_token']}"

    def admin(self, method: str, what: str, content: object = None) -> object:
        """An admin call's answer."""
        answer = self._session.request(method, f"{self.emulator.ready['url']}/admin/{what}", json=content, timeout=30)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def jobs(self, key: str) -> dict[str, str]:
        """The jobs of a run, whoever made them, with their statuses."""
        return {job.name: job.status for job in self.client.jobs.list(tag=f"retune.key={key}")}

    def all_ended(self, key: str) -> bool:
        """Whether nothing of the run trains any more."""
        return set(self.jobs(key).values()) <= {"Completed", "Failed", "Canceled"}

    def endpoints(self) -> list[str]:
        """Names of the endpoints that the workspace holds."""
        return [endpoint.name for endpoint in self.client.online_endpoints.list()]

    def remove_cluster(self) -> None:
        """So that the next run makes it."""
        from azure.core.exceptions import ResourceNotFoundError

        with contextlib.suppress(ResourceNotFoundError):
            self.client.compute.begin_delete(CLUSTER, action="Delete").wait(20)


@pytest.fixture(scope="module")
def service(session_emulator: Emulator) -> Service:
    """The session's emulator: azureml-mlflow keeps the addresses of the first cloud that this process has asked."""
    return Service(session_emulator)


@pytest.fixture
def emulator(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator, with its variables set and no faults, for a process that has asked it nothing yet."""
    from retune_cloud import cleanup, tracking, workspace

    for cache in (workspace._client, workspace.credential, tracking.tracking_client):
        cache.cache_clear()
    monkeypatch.setattr(cleanup, "LOOK_EVERY_SECONDS", 0.2)
    monkeypatch.setattr(cleanup, "REPEAT_SECONDS", 1.0)
    with Variables(service.emulator.env):
        yield service.emulator
    service.admin("DELETE", "faults")


@pytest.fixture
def outcomes(pytestconfig: pytest.Config) -> Iterator[dict[str, str]]:
    """Takes how a cell has ended once it has passed; the last of all cells writes the document."""
    passed: dict[str, str] = {}
    yield passed
    file = pytestconfig.getoption("--faults")
    if file and passed:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(passed) + "\n")
        everything = read_outcomes(file)
        if everything.keys() == {cell.id for cell in cells()}:
            DOCUMENT.write_text(render(everything), encoding="utf-8")


class Undisturbed(NamedTuple):
    """A run that no fault has met, on a new cluster with new rows, and the requests that it made."""

    ended: Ended
    requests: list[dict]


@pytest.fixture(scope="module")
def undisturbed(service: Service, environment: dict[str, str]) -> Undisturbed:
    """What the other cells take over: done under the module's key."""
    with Variables(service.emulator.env):
        service.remove_cluster()
    before = len(service.admin("GET", "requests")["value"])
    ended = run_command(environment, *SETTINGS, *SHORT_LEASE, key=KEY, fresh=True).end()
    assert ended.code == 0, ended.errors
    return Undisturbed(ended, service.admin("GET", "requests")["value"][before:])


@pytest.fixture
def start(
    undisturbed: Undisturbed, service: Service, finetune: Callable[..., Run]
) -> Callable[[Cell], tuple[str, Run, bool]]:
    """Makes the run of a cell: its key, what it printed, and whether each fault has hit."""

    def start(cell: Cell) -> tuple[str, Run, bool]:
        number = next(numbers)
        key = KEY if cell.phase in ("attach", "cluster") else f"{KEY}-{number}"
        rows = () if cell.phase != "submit" else (f"data.fraction={1 - number / TRAINING_ROWS:.6f}",)
        if cell.phase == "cluster":
            service.remove_cluster()
        service.admin("PUT", "faults", cell.faults_for(key))
        for _ in range(cell.runs):
            run = finetune(*SETTINGS, *rows, *cell.settings, key=key)
        faults = service.admin("GET", "faults")
        service.admin("DELETE", "faults")
        return key, run, all(fault["seen"] >= fault["from_call"] for fault in faults)

    return start


def test_every_request_of_a_run_is_in_the_matrix(undisturbed: Undisturbed) -> None:
    """No call of an undisturbed run is without a row, or in two; what the job's own steps send is left out."""
    rows = {
        (line["method"], line["path"]): [
            name for name, route in ROUTES.items() if route.matches(line["method"], line["path"])
        ]
        for line in undisturbed.requests
        if not line["path"].startswith("/admin/") and not line["path"].endswith("/runs/log-batch")
    }

    assert {call: names for call, names in rows.items() if len(names) != 1} == {}
    assert {names[0] for names in rows.values()} == ROUTES.keys()


def test_the_sample_has_every_kind_of_call_with_every_kind_of_fault() -> None:
    """And each fault and each phase; a list of names drifts, and this one must name cells that exist."""
    chosen = [cell for cell in cells() if cell.id in SAMPLE]
    calls = {row(name, call): route.kind for name, route in ROUTES.items() for call in route.calls}
    faults = {fault: kind for kind, faults in KINDS_OF_FAULTS.items() for fault in faults}
    pairs = {(calls[cell.row], faults[cell.column]) for cell in chosen if cell.column != HAPPENS}

    assert sorted(cell.id for cell in chosen) == sorted(SAMPLE)
    assert pairs == set(itertools.product(calls.values(), KINDS_OF_FAULTS))
    assert {cell.column for cell in chosen} == {*FAULTS, HAPPENS}
    assert {cell.phase for cell in chosen} == set(get_args(Phase))


def test_the_document_is_as_new_as_the_tables() -> None:
    """`make faults` has been run since a route, a fault or an event was added."""
    rows = [line.split(" | ")[0].removeprefix("| ") for line in DOCUMENT.read_text(encoding="utf-8").splitlines()]
    wanted = [row(name, call) for name, route in ROUTES.items() for call in route.calls]

    assert [name for name in [*wanted, *EVENTS] if name not in rows] == []
    assert f"| call | {' | '.join(FAULTS)} |" in DOCUMENT.read_text(encoding="utf-8")


def test_a_cloud_that_does_not_answer_a_starting_process(
    undisturbed: Undisturbed, service: Service, environment: dict[str, str]
) -> None:
    """MLflow asks for the cloud's addresses while it is imported, after the SDK; that fails once, the run completes."""
    path = ROUTES["cloud metadata GET"].path
    service.admin("PUT", "faults", [{"on": "request", "path": path, "status": 401, "from_call": 2}])
    ended = run_command(environment, *SETTINGS, key=KEY, fresh=True).end()
    (fault,) = service.admin("GET", "faults")
    service.admin("DELETE", "faults")

    assert fault["seen"] >= 2
    assert (ended.code, "Traceback" in ended.errors) == (0, False), ended.errors


def test_a_fault_ends_well_or_with_a_name(
    cell: Cell, start: Callable[[Cell], tuple[str, Run, bool]], service: Service, outcomes: dict[str, str]
) -> None:
    """The run completes, or its error has a name and a fix; one job, no endpoint, no traceback, an honest state."""
    key, run, hit = start(cell)
    report, error = run.report, run.report["error"] or {}
    jobs = service.jobs(key)

    assert hit, f"the run never made this call: {run.report['error']}"
    assert report["status"] in STATES, run.errors
    assert (report["status"] == "completed") == (error == {})
    assert not error or (error["code"] in CODES and error["fix"] and "traceback" not in error["fix"]), run.errors
    assert "Traceback" not in run.errors, run.errors
    assert list(jobs) in ([], [f"retune-{key}-1"])
    assert jobs or report["status"] != "completed"
    assert wait_for(lambda: service.all_ended(key), "the job's end")
    # Where it may not delete, the guard does as soon as it may.
    patience = 60 if cell.row == "endpoint DELETE" and cell.column == FOR_EVER else 0
    assert wait_for(lambda: service.endpoints() == [], "the endpoint's deletion", patience)
    assert state_in_prefect(report["run"]["flow_run_id"]) == STATES[report["status"]]
    outcomes[cell.id] = error.get("code", "completed")

"""`retune local` up, used and stopped: Prefect's page as a person uses it, in a real browser, and schedules.

`make screenshots` keeps the pictures for docs/operate.md, of a real training; without them one of seconds is enough.
"""

import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import pytest
from browser import Browser
from commands import wait_for
from hostile_page import CONTROL, Attack, hostile_page
from local_stack import REHEARSAL, STOP_SECONDS, Local, started, states_of
from playwright.sync_api import Page, expect, sync_playwright
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.states import Scheduled
from processes import command_line

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import Artifact

CHROMIUM = shutil.which("chromium")
RUN_SECONDS, FIRED_SECONDS, LOOK_SECONDS = 300, 400, 30
# A name that a hostile page makes point to this machine.
REBOUND = "rebound.test"
WIDTH, HEIGHT = 1400, 1000
# What is to be read in each artifact, and how many charts are to be seen in those that have any.
SHOWN = {
    "chat-data": "train",
    "loss": "Over the training steps",
    "parameters": "parameter",
    "questions": "asked",
    "summary": "Retune: completed",
    "training": "Completed",
}
CHARTS = {"chat-data": 3, "loss": 1, "summary": 4}

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")


@pytest.fixture(scope="module")
def local(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """The stack, started."""
    with started(tmp_path_factory.mktemp("browser"), empty_database) as local:
        yield local


@pytest.fixture
def browser(local: Local, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Browser]:
    """A window; its pictures are kept where --screenshots says."""
    pictures = request.config.getoption("--screenshots") or tmp_path
    pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        # No sandbox: Chromium refuses one to root, and the page is our own.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(LOOK_SECONDS * 1000)
        expect.set_options(timeout=LOOK_SECONDS * 1000)
        browser = Browser(page, local, pictures)
        browser.sign_in()
        yield browser
        chromium.close()


def wait_for_state(local: Local, run: UUID, name: str, seconds: float = RUN_SECONDS) -> None:
    """Until the run is in a state of that name."""
    deadline = time.monotonic() + seconds
    with local.client() as client:
        while (state := client.read_flow_run(run).state).name != name:
            assert time.monotonic() < deadline and not state.is_final(), state
            time.sleep(0.5)


def artifacts_of(client: "SyncPrefectClient", run: UUID) -> "dict[str, Artifact]":
    """The last artifact of each key of a run."""
    of_it = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    found = client.read_artifacts(artifact_filter=of_it)
    return {one.key: one for one in sorted(found, key=lambda one: one.created)}


def wait_for_progress(local: Local, run: UUID, progress: re.Pattern[str]) -> None:
    """Until the bar of the training says how far it is."""

    def shown() -> object:
        bar = artifacts_of(client, run).get("training")
        return bar and progress.search(bar.description or "")

    with local.client() as client:
        wait_for(shown, "progress of the training", RUN_SECONDS)


@pytest.fixture
def quick(local: Local, request: pytest.FixtureRequest) -> Iterator[None]:
    """finetune/local trains for a minute, unless pictures are taken."""
    if request.config.getoption("--screenshots"):
        yield
        return
    with local.client() as client:
        deployment = client.read_deployment_by_name("finetune/local")
        usual = deployment.parameters
        quick = {"model": usual["model"] | REHEARSAL, "training": usual["training"] | {"training_seconds": 60}}
        client.update_deployment(deployment.id, DeploymentUpdate(parameters=usual | quick))
    yield
    with local.client() as client:
        client.update_deployment(deployment.id, DeploymentUpdate(parameters=usual))


@needs_chromium
@pytest.mark.usefixtures("quick")
def test_one_click_runs_to_completion_and_the_page_shows_it(browser: Browser, local: Local) -> None:
    """Quick run of finetune/local. Every artifact is there and can be opened."""
    browser.open_deployment("local")
    browser.keep("deployment")
    run = browser.start_run(browser.quick_run)
    wait_for_state(local, run, "Running")
    page = browser.page
    progress = re.compile(r"step \d+, epoch [\d.]+, ")
    wait_for_progress(local, run, progress)
    browser.open(f"/runs/flow-run/{run}?tab=Artifacts")
    page.get_by_text("training", exact=True).click()
    # On a slow machine the training is over before the page is there.
    shown = re.compile(f"{progress.pattern}|Completed")
    expect(page.get_by_text(shown).filter(visible=True).first).to_be_visible()
    browser.keep("running")
    browser.leave()
    wait_for_state(local, run, "Completed")

    browser.open(f"/runs/flow-run/{run}?tab=Artifacts")
    for name in SHOWN:
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    browser.keep("artifacts")
    with local.client() as client:
        made = artifacts_of(client, run)
    assert {*made} == {*SHOWN}
    for name, artifact in made.items():
        browser.open(f"/artifacts/artifact/{artifact.id}")
        # The same text stands once more, as it was stored, where nobody looks.
        expect(page.get_by_text(SHOWN[name]).filter(visible=True).first).to_be_visible()
        pictures = page.locator("img[src^='data:image/svg+xml']").filter(visible=True)
        expect(pictures).to_have_count(CHARTS.get(name, 0))
        assert all(image.evaluate("image => image.naturalWidth") > 400 for image in pictures.all())
        assert page.get_by_text("base64").filter(visible=True).count() == 0
        browser.keep(name)


@needs_chromium
@pytest.mark.exhaustive
def test_a_form_is_refused_then_filled_and_its_run_is_approved(browser: Browser, local: Local) -> None:
    """A share of 300 % is refused in the page, and so is none; with 100 % the run waits for a person, and completes."""
    page = browser.page
    fraction = browser.open_form("local").get_by_label("Fraction (Optional)", exact=True)
    fraction.fill("3")
    browser.button("Submit").click()
    # The browser's own words, which are no part of the page.
    assert "less than or equal to 1" in fraction.evaluate("field => field.validationMessage")
    fraction.fill("0")
    browser.button("Submit").click()
    expect(page.get_by_text("0 is less than or equal to the minimum of 0", exact=True)).to_be_visible()
    fraction.scroll_into_view_if_needed()
    browser.keep("refused")
    with local.client() as client:
        # The sweep runs by its schedule.
        deployment = client.read_deployment_by_name("finetune/local").id
        runs = [run for run in client.read_flow_runs() if run.deployment_id == deployment]
        assert [run.state.name for run in runs if run.state.is_running()] == []

    browser.open_form("local").get_by_label("Fraction (Optional)", exact=True).fill("1")
    page.get_by_label("Component (Optional)", exact=True).fill(REHEARSAL["component"])
    page.get_by_label("Required (Optional)", exact=True).click()
    run = browser.start_run(browser.button("Submit").click)
    wait_for_state(local, run, "Paused")
    with local.client() as client:
        assert artifacts_of(client, run)["summary"].data.startswith("# Retune: waiting for approval\n")

    def approve() -> None:
        browser.open_run(run)
        browser.menu("Resume")
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Select Answer").click()
        page.get_by_role("option", name="approve").click()
        dialog.get_by_label("By", exact=True).fill("Ada")
        dialog.get_by_label("Note (Optional)", exact=True).fill("reads well")
        browser.keep("approval")
        dialog.get_by_role("button", name="Resume").click()

    browser.ask("resume", approve)
    browser.leave()
    wait_for_state(local, run, "Completed")
    with local.client() as client:
        assert "Approved by Ada: reads well" in artifacts_of(client, run)["summary"].data


@needs_chromium
@pytest.mark.exhaustive
def test_a_run_is_cancelled_in_the_page(browser: Browser, local: Local) -> None:
    """With a worker, which tells the run; while its job trains."""
    with local.client() as client:
        deployment = client.read_deployment_by_name("finetune/local").id
        parameters = {"model": REHEARSAL, "training": {"training_seconds": 300}}
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters).id
    wait_for_state(local, run, "Running")

    def cancel() -> None:
        browser.open_run(run)
        browser.menu("Cancel")
        browser.page.get_by_role("alertdialog").get_by_role("button", name="Cancel Flow Run").click()

    browser.ask("set_state", cancel)
    browser.leave()
    wait_for_state(local, run, "Cancelled")
    browser.open_run(run)
    browser.keep("cancelled")


class Addresses(NamedTuple):
    """Where the servers of a local stack are, with a model up."""

    prefect: str
    azure: str
    mlflow: str
    model: str


def last_port(log: Path) -> int:
    """Where the server listens that writes this log."""
    return int(re.findall(r'^\{"port": *(\d+)\}', log.read_text(encoding="utf-8"), re.MULTILINE)[-1])


def state_of(emulator: Path) -> dict[str, object]:
    """What the emulator keeps, and how often its model was asked."""
    files = [file for name in ("documents", "blobs") for file in (emulator / name).rglob("*") if file.is_file()]
    logs = emulator.glob("deployments/*/*/inference-server.log")
    return {str(file): file.read_bytes() for file in files} | {str(log): log.read_text().count("POST") for log in logs}


def attacks_on(servers: Addresses, deployment: UUID, victim: UUID, mark: Path) -> list[Attack]:
    """What a page would do: read and start runs, cancel and delete the victim, and ask every other server."""
    evil = {"training": {"huggingface_id": f"x'; touch {mark}; echo '"}}
    cancelled = {"state": {"type": "CANCELLED"}, "force": True}
    blobs = f"{servers.azure}/localstore.blob.{servers.azure.removeprefix('https://')}/azureml"
    question = {"input_data": {"input_string": [{"role": "user", "content": "Who are you?"}]}}
    run, made = f"{servers.prefect}/api/flow_runs/{victim}", f"{servers.prefect}/api/deployments/{deployment}"
    return [
        Attack("read runs", "POST", f"{servers.prefect}/api/flow_runs/filter", {}),
        Attack("start a run", "POST", f"{made}/create_flow_run", {"parameters": evil}),
        Attack("cancel a run", "POST", f"{run}/set_state", cancelled),
        Attack("delete a run", "DELETE", run),
        Attack("emulator's faults", "PUT", f"{servers.azure}/admin/faults", []),
        Attack("emulator's log", "GET", f"{servers.azure}/admin/requests"),
        Attack("MLflow", "POST", f"{servers.mlflow}/api/2.0/mlflow/experiments/create", {"name": "planted"}),
        Attack("model server", "POST", f"{servers.model}/score", question),
        Attack("model's health", "GET", f"{servers.model}/"),
        Attack("storage", "PUT", f"{blobs}/planted", "planted"),
        Attack("storage's list", "GET", f"{blobs}?restype=container&comp=list"),
    ]


def statuses_when_rebound(page: Page, servers: Addresses) -> dict[str, int]:
    """What a page sees whose own name came to point to this machine after it was loaded, by server and path."""
    seen = {}
    for server in servers:
        address = re.sub("127.0.0.1|localhost", REBOUND, server)
        page.goto(f"{address}/ui-settings")
        for path in ("/api/flow_runs", "/api/csrf-token?client=x", "/admin/requests", "/api/2.0/mlflow/x", "/score"):
            script = "path => fetch(path, {headers: {accept: 'application/json'}}).then(answer => answer.status)"
            seen[f"{server} {path}"] = page.evaluate(script, path)
    return seen


@needs_chromium
def test_a_hostile_page_on_another_port_gets_nothing(local: Local) -> None:
    """Beside a window that is signed in: it reads, starts, cancels and deletes no run, and reaches no other server."""
    emulator, mark = local.home / "emulator", local.home / "mark"
    with local.client() as client:
        deployment = client.read_deployment_by_name("finetune/local").id
        kept = {"model": REHEARSAL, "serving": {"keep": True, "keep_hours": 1}}
        run = client.create_flow_run_from_deployment(deployment, parameters=kept).id
        later = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
        victim = client.create_flow_run_from_deployment(deployment, state=later).id
    wait_for_state(local, run, "Completed")
    model = next(log for log in emulator.glob("deployments/*/*/inference-server.log"))
    ports = [last_port(log) for log in (emulator / "mlflow.log", model)]
    servers = Addresses(local.stack.page, local.stack.emulator, *(f"http://127.0.0.1:{port}" for port in ports))
    before = state_of(emulator)

    attacks = attacks_on(servers, deployment, victim, mark)
    with sync_playwright() as playwright, hostile_page(attacks) as address:
        # A certificate that no browser knows would keep the attacks out by chance; the sandbox refuses root.
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1"]
        )
        window = chromium.new_context(ignore_https_errors=True)
        Browser(window.new_page(), local, local.home).sign_in()
        page = window.new_page()
        page.goto(address)
        seen = page.evaluate("attack()")
        rebound = statuses_when_rebound(page, servers)
        chromium.close()

    # A server that lets every page in was read: the attacks are such as can succeed.
    assert [answer["text"] for answer in seen.pop(CONTROL)][:2] == ["read by anybody"] * 2
    assert len(seen) == len(attacks)
    assert {name: answers for name, answers in seen.items() if any(answer["status"] > 0 for answer in answers)} == {}
    # Prefect's server answers what it does not know with its page, which holds nothing.
    hidden = {call: status for call, status in rebound.items() if "/api/" in call or servers.prefect not in call}
    assert {call: status for call, status in hidden.items() if status not in (401, 403)} == {}
    with local.client() as client:
        assert client.read_flow_run(victim).state.name == "Scheduled"
        assert [found.id for found in client.read_flow_runs() if "huggingface_id" in str(found.parameters)] == []
        client.delete_flow_run(victim)
    assert not mark.exists()
    assert state_of(emulator) == before


@pytest.mark.exhaustive
def test_schedules_fire_by_themselves_and_do_not_overlap(local: Local) -> None:
    """Each minute, with a run that takes longer than that: its next tick is dropped. The sweep goes on beside it."""
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.client.schemas.schedules import CronSchedule

    with local.client() as client:
        nightly = client.read_deployment_by_name("finetune/local-nightly")
        sweep = client.read_deployment_by_name("sweep/every-15-minutes")
        usual = nightly.parameters
        long = usual | {"model": usual["model"] | REHEARSAL, "training": usual["training"] | {"training_seconds": 80}}
        client.update_deployment(nightly.id, DeploymentUpdate(parameters=long))
        for deployment in (nightly, sweep):
            each_minute = CronSchedule(cron="* * * * *", timezone="UTC")
            client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, schedule=each_minute)

        most_at_once, deadline = 0, time.monotonic() + FIRED_SECONDS
        completed = dropped = swept = False
        while not (completed and dropped and swept):
            states = states_of(client, nightly.id)
            assert time.monotonic() < deadline, states
            most_at_once = max(most_at_once, sum(state.is_running() or state.is_pending() for state in states))
            completed = any(state.is_completed() for state in states)
            dropped = any(state.is_cancelled() and "concurrency limit" in (state.message or "") for state in states)
            swept = any(state.is_completed() for state in states_of(client, sweep.id))
            time.sleep(0.5)

        for deployment in (nightly, sweep):
            client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=False)
        client.update_deployment(nightly.id, DeploymentUpdate(parameters=usual))
        while not all(state.is_final() or state.is_scheduled() for state in states_of(client, nightly.id)):
            assert time.monotonic() < deadline, states_of(client, nightly.id)
            time.sleep(0.5)

    assert most_at_once == 1


@pytest.mark.exhaustive
def test_a_run_completes_and_the_nightly_one_is_skipped(local: Local) -> None:
    """Nothing has changed between the two."""
    from prefect.deployments import run_deployment

    with local.client():
        done = run_deployment("finetune/local", parameters={"model": REHEARSAL}, timeout=RUN_SECONDS)
        again = run_deployment("finetune/local-nightly", parameters={"model": REHEARSAL}, timeout=RUN_SECONDS)

    assert done.state.name == "Completed", done.state.message
    assert (again.state.name, again.state.is_completed()) == ("Skipped", True), again.state.message


def test_stopping_ends_a_run_and_leaves_nothing(local: Local) -> None:
    """The job of a run that is in the middle and its endpoint go, and every process with them."""
    from prefect.deployments import run_deployment

    with local.client() as client:
        long = {"training_seconds": 300}
        parameters = {"model": REHEARSAL, "training": long}
        going_on = run_deployment("finetune/local", parameters=parameters, timeout=0).id
        deadline = time.monotonic() + RUN_SECONDS
        while not any("flows.guard" in command_line(process) for process in local.processes()):
            assert time.monotonic() < deadline, client.read_flow_run(going_on).state
            time.sleep(0.5)

    stopped = local("stop", seconds=STOP_SECONDS)

    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n"), stopped.stderr
    assert local.processes() == []
    assert not (local.home / "local.json").exists() and not list(local.home.glob("prefect-*.toml"))
    assert local("stop").stdout == "nothing was running\n"

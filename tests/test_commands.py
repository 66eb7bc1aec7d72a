"""Commands that look after runs: which workspace they mean, and what they say of a run that is there, or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import REHEARSAL, ROOT, finetune, retune
from conftest import Emulator

from retune import last_run, sign_in
from retune.errors import BadRequest
from retune.request import LAST, Workspace
from retune_cli.target import choose
from retune_cloud.workspace import METADATA_URL, VARIABLES, find_address

KEY = "looked-after"
ADDRESS = {"subscription_id": "11111111-0000", "resource_group": "teams", "workspace_name": "chats"}
SCOPE = "/subscriptions/11111111-0000/resourceGroups/teams/providers/Microsoft.MachineLearningServices/workspaces/chats"


@pytest.fixture(scope="module")
def ended(environment: dict[str, str]) -> dict:
    """The report of a run that has completed, the last of this machine."""
    run = finetune(environment, *REHEARSAL, key=KEY).end()
    assert run.code == 0, run.errors
    return run.report


@pytest.mark.parametrize("name", [KEY, LAST])
def test_an_ended_run_is_shown_and_cancelled_without_a_change(
    name: str, ended: dict, environment: dict[str, str]
) -> None:
    """By its key, or as the last one."""
    shown, cancelled = retune(environment, "status", name), retune(environment, "cancel", name)

    assert (shown.code, shown.report["key"], shown.report["workspace"]) == (0, KEY, "local")
    assert (cancelled.code, "already ended" in cancelled.errors) == (0, True)
    assert [job["status"] for job in cancelled.report["jobs"]] == ["Completed"]
    assert "workspace  local on this machine" in shown.errors


@pytest.mark.parametrize("command", ["status", "cancel", "logs", "attach"])
def test_a_run_that_is_not_there_is_no_success(command: str, environment: dict[str, str]) -> None:
    """Exit 1, with the name of the workspace that was asked."""
    unknown = retune(environment, command, "never-started")

    assert unknown.code == 1
    assert "workspace" in (text := unknown.errors + unknown.output) and "local" in text
    assert "Traceback" not in text


def test_runs_are_listed_newest_first(ended: dict, environment: dict[str, str]) -> None:
    """With what each is about; nothing of this one is up."""
    listed = retune(environment, "list")
    runs = listed.report["runs"]

    assert listed.code == 0
    assert sorted(runs, key=lambda run: run["created"], reverse=True) == runs
    (own,) = [run for run in runs if run["key"] == KEY]
    assert (own["status"], own["model"], own["endpoints"]) == ("Completed", "Phi-4", [])
    assert own["data"] == "deployments/data/chat_sample"


def test_an_empty_workspace_has_no_runs(fresh_emulator: Emulator, environment: dict[str, str]) -> None:
    """Which is no failure."""
    listed = retune(environment | fresh_emulator.env, "list")

    assert (listed.code, listed.report["runs"]) == (0, [])


def test_the_logs_of_a_run_s_steps_are_printed(ended: dict, environment: dict[str, str]) -> None:
    """All lines, each with its step, also when it is followed to the end."""
    printed, followed = retune(environment, "logs", KEY), retune(environment, "logs", KEY, "--follow")
    lines = [json.loads(line) for line in printed.output.split("\n") if line]

    assert (printed.code, followed.code) == (0, 0)
    assert {"chat_completion_datapreprocess", "chat_completion_finetune"} <= {line["step"] for line in lines}
    assert followed.output == printed.output


def typed(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`retune ...` as a new process in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "retune", *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT), "RETUNE_HOME": str(folder / ".retune")},
        capture_output=True,
        text=True,
        check=False,
    )


def plain_shell() -> dict[str, str]:
    """A shell that names no workspace and no server."""
    own = {METADATA_URL, *VARIABLES, *sign_in.variables(Path())}
    return {name: value for name, value in os.environ.items() if name not in own}


@pytest.mark.parametrize("command", [("status", "x"), ("cancel", "x"), ("logs", "x"), ("list",), ("sweep",)])
def test_looking_after_runs_starts_no_emulator(command: tuple[str, ...], tmp_path: Path) -> None:
    """It would find nothing there, and call that a success while a machine on Azure goes on."""
    done = typed(plain_shell(), tmp_path, *command)

    assert done.returncode == 1
    assert "EmulatorStopped" in done.stderr and "retune local start" in done.stderr
    assert not (tmp_path / ".retune" / "emulator").exists()


CONFIGS: dict[str, tuple[str, bytes]] = {
    "the SDK's form": ("config.json", json.dumps(ADDRESS).encode()),
    "with a mark of its encoding": ("config.json", json.dumps(ADDRESS).encode("utf-8-sig")),
    "one line": ("config.json", json.dumps({"Scope": SCOPE}).encode()),
    "in a folder of its own": (".azureml/config.json", json.dumps(ADDRESS).encode()),
    "in a folder above": ("../config.json", json.dumps(ADDRESS).encode()),
}


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a shell that names no workspace."""
    for name in (METADATA_URL, *VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "retune"))
    folder = tmp_path / "above" / "here"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_file_names_the_workspace(case: str, shell: Path) -> None:
    """In every form that the SDK reads."""
    name, content = CONFIGS[case]
    file = shell / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)

    request, _ = choose(None, [])
    assert not request.workspace.emulator
    assert find_address(request.workspace)[:3] == tuple(ADDRESS.values())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1]", "no JSON object with subscription_id"),
        (b"{", "not readable as JSON"),
        (json.dumps(ADDRESS | {"resource_group": "<RESOURCE_GROUP>"}).encode(), "'<RESOURCE_GROUP>'; use"),
    ],
)
def test_a_config_file_that_names_none_is_refused(content: bytes, said: str, shell: Path) -> None:
    """By what is wrong with it."""
    (shell / "config.json").write_bytes(content)

    with pytest.raises(BadRequest, match=said):
        find_address(choose(None, [])[0].workspace)


def test_a_config_file_of_another_program_names_none(shell: Path) -> None:
    """Such as a model's."""
    (shell / "config.json").write_text('{"model_type": "phi3"}')

    assert choose(None, [])[0].workspace.emulator


@pytest.mark.parametrize("variable", [*VARIABLES, METADATA_URL])
def test_the_environment_names_the_workspace(variable: str, shell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a part of it, so that the local one is not meant."""
    monkeypatch.setenv(variable, "https://localhost:1")

    assert not choose(None, [])[0].workspace.emulator


@pytest.mark.parametrize("named", [("phi4-ultrachat", []), (None, ["workspace.name=chats"])])
def test_what_is_typed_comes_first(named: tuple[str | None, list[str]], shell: Path) -> None:
    """Before the workspace of the last run."""
    last_run.keep(last_run.LastRun(key="x", flow_run_id="y", workspace=Workspace(emulator=True)))

    request, key = choose(*named, LAST)
    assert (key, request.workspace.emulator) == ("x", False)


def test_the_last_run_is_looked_for_where_it_ran(shell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment names now."""
    workspace = Workspace(subscription_id="1", resource_group="teams", name="chats")
    last_run.keep(last_run.LastRun(key="x", flow_run_id="y", workspace=workspace))
    monkeypatch.setenv("AZURE_WORKSPACE_NAME", "other")

    assert choose(None, [], LAST)[0].workspace == workspace


def test_without_a_last_run_there_is_none(shell: Path) -> None:
    """Said at once."""
    with pytest.raises(BadRequest, match="No run has been started"):
        choose(None, [], LAST)


def test_the_version_is_shown(tmp_path: Path) -> None:
    """Of the installed package."""
    done = typed(plain_shell(), tmp_path, "--version")

    assert (done.returncode, done.stdout.split()[0]) == (0, "retune"), done.stderr


@pytest.mark.parametrize("command", [("cancel", "x"), ("list",)])
def test_a_sign_in_that_fails_is_explained_everywhere(command: tuple[str, ...], tmp_path: Path) -> None:
    """A service principal whose sign-in service is away: no traceback, the cause and what to do."""
    address = dict(zip(VARIABLES, ("11111111-0000", "teams", "chats"), strict=True))
    principal = {"AZURE_CLIENT_ID": "a", "AZURE_TENANT_ID": "b", "AZURE_CLIENT_SECRET": "c"}
    away = {"AZURE_AUTHORITY_HOST": "https://localhost:1"}

    done = typed(plain_shell() | address | principal | away, tmp_path, *command)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "SignInFailed: No network" in done.stderr and "Next: Check the network" in done.stderr

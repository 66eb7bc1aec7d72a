"""prefect.yaml: what it deploys is what the presets say, complete, and safe to deploy."""

from pathlib import Path

import pytest
import yaml

from retune.request import PRESETS, Request

ROOT = Path(__file__).resolve().parent.parent
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
PRESET_OF = {
    "local": "local",
    "local-nightly": "local",
    "phi4-ultrachat": "phi4-ultrachat",
    "phi4-ultrachat-weekly": "phi4-ultrachat",
}


@pytest.mark.parametrize("name", PRESET_OF)
def test_a_deployment_runs_its_preset(name: str) -> None:
    """The worker's run and the command's run are the same request."""
    preset = yaml.safe_load((PRESETS / f"{PRESET_OF[name]}.yaml").read_text(encoding="utf-8"))
    (deployment,) = [item for item in DEPLOYMENTS if item["name"] == name]

    parameters = {name: value for name, value in deployment["parameters"].items() if name != "force"}
    assert Request(**parameters) == Request(**preset)
    assert parameters["workspace"]["emulator"] is (PRESET_OF[name] == "local")


def test_only_one_run_of_a_deployment_goes_on_at_a_time() -> None:
    """A tick of a schedule that comes too early is dropped; what a person started waits for its turn."""
    for deployment in DEPLOYMENTS:
        wanted = "CANCEL_NEW" if deployment.get("schedules") else "ENQUEUE"
        assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": wanted}, deployment["name"]


def test_no_schedule_has_parameters_or_spends_money_unasked() -> None:
    """Prefect forgets a schedule's own parameters when it is switched off and on."""
    for deployment in DEPLOYMENTS:
        for schedule in deployment.get("schedules", []):
            assert "parameters" not in schedule and schedule["slug"] and schedule["timezone"]
            assert "local" in deployment["tags"] or schedule["active"] is False

"""prefect.yaml: what it deploys is what the presets say."""

from pathlib import Path

import yaml

from retune.request import PRESETS

ROOT = Path(__file__).resolve().parent.parent


def test_the_local_deployment_runs_the_local_preset() -> None:
    """The worker's run and the command's run are the same request."""
    project = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    preset = yaml.safe_load((PRESETS / "local.yaml").read_text(encoding="utf-8"))

    (deployment,) = [item for item in project["deployments"] if item["name"] == "local"]
    assert deployment["parameters"] == {"request": preset}

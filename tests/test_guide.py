"""Microsoft's guide from first step to last against the emulator: tests/harness/guide.py, run as its readers run it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

from conftest import Emulator
from variables import Variables

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "deployments" / "data" / "chat_sample"
# Two steps without what needs a GPU.
QUICK = {
    "max_steps": 2,
    "precision": 32,
    "apply_deepspeed": "false",
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 16,
}


def test_the_guide_runs_from_sign_in_to_deletion(session_emulator: Emulator, tmp_path: Path) -> None:
    """With the emulator's exports as the only difference, every call of the guide does what the guide says."""
    python = shlex.quote(sys.executable)
    exports = f"{python} -m azureml_emulator env --home {shlex.quote(str(session_emulator.home))}"
    guide = shlex.join(
        [sys.executable, str(ROOT / "tests" / "harness" / "guide.py"), str(SAMPLE), "data", json.dumps(QUICK)]
    )
    line = f'eval "$(cd {shlex.quote(str(ROOT))} && {exports})" && exec {guide}'
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    log, _, last = done.stdout.rpartition('{"job"')
    seen = json.loads('{"job"' + last)
    with Variables(session_emulator.env):
        client = session_emulator.client()
        endpoints = [endpoint.name for endpoint in client.online_endpoints.list()]
        cancelled = client.jobs.get(seen["cancelled_job"]).status

    assert "Streaming logs/azureml/executionlogs.txt" in log
    assert "[chat_completion_finetune] step 2/2 epoch" in log
    assert "Not inputs of the component: ['learning_rate_max', 'learning_rate_min']" in log
    assert seen["status"] == "Completed"
    assert seen["display_name"] == "Phi-3-mini-4k-instruct-ultrachat-bs4-cosine-nods-lora-save_limit1-seqlen-1"
    assert {"eval_loss", "train_loss", "epoch"} <= seen["metrics"].keys()
    assert seen["registered"] == ["Phi-3-mini-4k-instruct-ultrachat-200k", seen["latest_model"]]
    assert json.loads(seen["answer"])[0]
    assert seen["log_lines"] > 0
    assert seen["keys"] == [True, True, True]
    assert seen["endpoint"] not in endpoints
    assert (seen["cancelled_status"], cancelled) == ("Canceled", "Canceled")
    # What its readers call next.
    assert seen["job"] in seen["jobs"] and seen["cancelled_job"] not in seen["jobs"]
    assert "Phi-3-mini-4k-instruct-ultrachat-200k" in seen["models"]
    assert seen["component"][0] == "shout" and "shout" in seen["components"]
    assert seen["component_inputs"] == ["word"]
    assert seen["data"][0] == "ultrachat-train" and seen["data"][1] in seen["data_versions"]
    assert seen["data_type"] == "uri_file"
    assert "gpu-cluster-big" in seen["clusters"]
    assert seen["downloaded"] == ["artifacts/logs/azureml/executionlogs.txt"]

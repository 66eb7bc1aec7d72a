"""Bad requests: refused with the fix in the message, and without one creating call on the emulator's request log."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from commands import creating_calls, requests_so_far
from conftest import Emulator, Run

# A model's allow list, the guide's first default size, and sizes without a GPU or that the region does not know.
REFUSED = [
    ("modle.name=x", "Did you mean 'model'?"),
    ("data.fraction=2", "less than or equal to 1"),
    ("data.fraction=lots", "valid number"),
    ("compute.tier=spot", "'dedicated' or 'low_priority'"),
    ("compute.name=a-name-that-is-longer-than-24", "match pattern"),
    ("serving.deployment=Demo!", "match pattern"),
    ("serving.request_timeout_seconds=600", "less than or equal to 180"),
    ("model.name=Phi-5", "Model 'Phi-5' (latest) is not in registry 'azureml'"),
    ("model.version=99", "Model 'Phi-4' (99) is not in registry"),
    ("model.component=chat_pipeline", "Component 'chat_pipeline' (latest) is not in registry"),
    ("model.component_version=0.0.1", "Component 'chat_completion_pipeline' (0.0.1) is not in registry"),
    ("compute.size=Standard_NC6", "not allowed for model"),
    ("compute.size=Standard_ND40rs_v2", "Choose one of standard_nc24ads_a100_v4"),
    ("compute.size=Standard_DS3_v2", "has no GPU"),
    ("compute.size=Standard_Z1", "is not offered in the workspace's region"),
    ("serving.instance_type=Standard_NC4as_T4_v3", "not allowed for model"),
    ("serving.instance_type=Standard_Z1", "is not offered in the workspace's region"),
    ("training.learning_rat=0.1", "Did you mean 'learning_rate'?"),
    ("training.lr_scheduler_type=bogus", "expected one of linear, cosine"),
    ("training.num_train_epochs=0", "expected at least 1"),
    ("training.num_train_epochs=many", "expected a whole number"),
    ("training.train_file_path=x.jsonl", "use the section `data`"),
    ("data.source=./nowhere", "no such folder"),
    ("data.train_split=train", "train_sft"),
    ("data.subset=none", "none"),
    ("data.fraction=0.001", "needs at least 10"),
    ("workspace.name=elsewhere", "could not be read"),
    ("workspace.registry=nobodys", "could not be opened"),
]


@pytest.mark.parametrize(("assignment", "words"), REFUSED, ids=[assignment for assignment, _ in REFUSED])
def test_a_bad_request_creates_nothing(
    assignment: str, words: str, emulator: Emulator, finetune: Callable[..., Run]
) -> None:
    """The message holds what was found and the fix; the exit code is 2, or 1 for what only the service can refuse."""
    before = requests_so_far(emulator)
    run = finetune("compute.name=never-made", assignment)

    service_s_word = assignment.startswith(("workspace.",))
    assert (run.code, run.report["status"]) == ((1, "failed") if service_s_word else (2, "rejected"))
    assert words in run.report["error"]["message"]
    assert run.report["error"]["fix"]
    assert creating_calls(emulator, before) == []


def test_problems_of_several_steps_are_reported_together(emulator: Emulator, finetune: Callable[..., Run]) -> None:
    """Parameters, compute and data are judged before the run is refused."""
    before = requests_so_far(emulator)
    run = finetune(
        "training.seeed=1", "data.train_split=nothing", "compute.size=Standard_DS3_v2", "compute.name=not-there"
    )

    assert run.code == 2
    for words in ("training.seeed", "has no split 'nothing'", "has no GPU"):
        assert words in run.report["error"]["message"]
    assert creating_calls(emulator, before) == []


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([None], "no messages"),
        ([[{"role": "robot", "content": "x"}, {"role": "assistant", "content": "y"}]], "('robot')"),
    ],
    ids=["row without messages", "unknown role"],
)
def test_a_bad_row_creates_nothing(
    messages: list, words: str, emulator: Emulator, finetune: Callable[..., Run], tmp_path: Path
) -> None:
    """A row that the component would fail on is found before a cluster is made."""
    (tmp_path / "data").mkdir()
    for split in ("train_sft", "test_sft", "test_gen"):
        chats = [
            [{"role": "user", "content": f"{split} {number}?"}, {"role": "assistant", "content": "Hi."}]
            for number in range(20)
        ]
        frame = pd.DataFrame({"messages": chats + (messages if split == "train_sft" else [])})
        frame.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    before = requests_so_far(emulator)
    run = finetune(f"data.source={tmp_path}")

    assert run.code == 2
    assert words in run.report["error"]["message"]
    assert "train_sft-00000-of-00001.parquet:21" in run.report["error"]["message"]
    assert creating_calls(emulator, before) == []


def test_an_existing_cluster_of_another_size_is_refused(emulator: Emulator, finetune: Callable[..., Run]) -> None:
    """The guide never compares; the job would run on other GPUs than the parameters were counted for."""
    from azure.ai.ml.entities import AmlCompute

    cluster = AmlCompute(name="other-size", size="Standard_NC48ads_A100_v4", max_instances=1)
    emulator.client().compute.begin_create_or_update(cluster).wait()
    before = requests_so_far(emulator)
    run = finetune("compute.name=other-size")

    assert run.code == 2
    assert "Set compute.size=" in run.report["error"]["message"]
    assert creating_calls(emulator, before) == []


def test_a_preset_that_wants_the_emulator_never_reaches_azure(
    emulator: Emulator, finetune: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the address of a real cloud in the environment, the local preset refuses to run."""
    monkeypatch.setenv("ARM_CLOUD_METADATA_URL", "https://management.azure.com/metadata/endpoints")
    run = finetune()

    assert run.code == 2
    assert "names no emulator on this machine" in run.report["error"]["message"]


def test_an_emulator_that_has_ended_is_a_named_error(
    emulator: Emulator, finetune: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exports of an emulator outlive it in a shell."""
    monkeypatch.setenv("ARM_CLOUD_METADATA_URL", "https://localhost:9/metadata/endpoints")
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "Gone")
    run = finetune()

    assert (run.code, run.report["error"]["code"]) == (1, "CloudUnreachable")
    assert "Start the emulator again" in run.report["error"]["fix"]


def test_signing_in_without_a_credential_says_what_was_tried(
    emulator: Emulator, finetune: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a worker nobody can answer a browser: the error lists the chain."""
    from retune_cloud import workspace

    monkeypatch.delenv("IDENTITY_ENDPOINT")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "dev")
    workspace.credential.cache_clear()
    run = finetune()
    workspace.credential.cache_clear()

    assert (run.code, run.report["error"]["code"]) == (1, "SignInFailed")
    assert "AzureCliCredential" in run.report["error"]["message"]
    assert "az login" in run.report["error"]["fix"]

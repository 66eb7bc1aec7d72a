"""The sample conversations: made again they are the same, and they read like the hub's ultrachat_200k."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet
import pytest

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "deployments" / "data" / "chat_sample"
SPLITS = {"train_sft": 460, "test_sft": 80, "train_gen": 240, "test_gen": 60}


def read(folder: Path, split: str) -> list[dict]:
    return pyarrow.parquet.read_table(folder / "data" / f"{split}-00000-of-00001.parquet").to_pylist()


def test_the_sample_is_what_its_program_writes(tmp_path: Path) -> None:
    """Rows and card of the committed sample come from the program and its seed."""
    subprocess.run([sys.executable, "-m", "trainer.make_sample", tmp_path], cwd=ROOT, check=True)

    assert all(read(tmp_path, split) == read(SAMPLE, split) for split in SPLITS)
    assert (tmp_path / "README.md").read_text() == (SAMPLE / "README.md").read_text()


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_is_a_conversation(split: str) -> None:
    """Roles alternate from user to assistant, prompts are not repeated, and prompt_id is the prompt's hash."""
    rows = read(SAMPLE, split)

    assert len(rows) == SPLITS[split]
    assert len({row["prompt"] for row in rows}) == len(rows)
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert row["messages"][0]["content"] == row["prompt"]
        assert row["prompt_id"] == sha256(row["prompt"].encode()).hexdigest()


def test_test_rows_ask_for_known_facts_in_other_words() -> None:
    """Every answer of a test split stands in the training split; no question does."""
    train = [message for row in read(SAMPLE, "train_sft") for message in row["messages"]]
    test = [message for split in ("test_sft", "test_gen") for row in read(SAMPLE, split) for message in row["messages"]]

    def said(messages: list[dict], role: str) -> set[str]:
        return {message["content"] for message in messages if message["role"] == role}

    assert said(test, "assistant") <= said(train, "assistant")
    assert said(test, "user").isdisjoint(said(train, "user"))


def test_the_datasets_library_reads_a_slice_offline(tmp_path: Path) -> None:
    """The folder loads as the hub's repository does, by split name and percentage."""
    code = "import sys, datasets; print(datasets.load_dataset(sys.argv[1], split='test_sft[:50%]').num_rows)"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(SAMPLE)], env=env, capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == 40

"""The five step programs of the training pipeline: real processes on the real tiny weights, with few steps."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "azureml_emulator" / "registry" / "weights" / "tiny-phi3"
SAMPLE = ROOT / "deployments" / "data" / "chat_sample" / "data"


def command(module: str, options: dict[str, object]) -> list[str]:
    named = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", f"trainer.{module}", *named]


def run_step(module: str, *, env: dict[str, str] | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(module, options), cwd=ROOT, env=os.environ | (env or {}), capture_output=True, text=True, check=False
    )


def succeed(module: str, *, env: dict[str, str] | None = None, **options: object) -> str:
    done = run_step(module, env=env, **options)

    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(module: str, **options: object) -> str:
    """What the program says when it ends with 1; a mistake of the user's prints no traceback."""
    done = run_step(module, **options)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def chat(*words: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(words)]


def write_rows(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps({"messages": row, "prompt": "left out"}) + "\n" for row in rows))
    return path


def decode(token_ids: list[int]) -> str:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(WEIGHTS / "tokenizer.json")).decode(token_ids, skip_special_tokens=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("import") / "model"
    succeed("model_import", mlflow_model_path=WEIGHTS, output_dir=folder)
    return folder


@pytest.fixture(scope="module")
def data(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preprocess") / "data"
    succeed(
        "preprocess",
        train_file_path=SAMPLE / "train_sft-00000-of-00001.parquet",
        validation_file_path=SAMPLE / "test_sft-00000-of-00001.parquet",
        test_file_path=SAMPLE / "test_gen-00000-of-00001.parquet",
        model_selector_output=model,
        output_dir=folder,
    )
    return folder


@pytest.fixture(scope="module")
def training(model: Path, data: Path) -> dict[str, object]:
    return {
        "model_selector_output": model,
        "preprocess_output": data,
        "apply_lora": "true",
        "learning_rate": "3e-3",
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 40,
    }


def test_validation_reports_the_rows_of_each_split(tmp_path: Path) -> None:
    """A sound request passes and leaves a report."""
    file = write_rows(tmp_path / "train.jsonl", [chat("Hi", "Hello.")] * 3)

    succeed("validation", train_file_path=file, validation_info=tmp_path / "out")

    assert json.loads((tmp_path / "out" / "validation.json").read_text())["rows"] == {"train": 3}


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        pytest.param({"learning_rate": 0}, "learning_rate is 0.0. Set it above 0", id="learning rate"),
        pytest.param({"num_train_epochs": 0}, "num_train_epochs is 0. Set it to 1 or more", id="epochs"),
        pytest.param(
            {"precision": "16", "apply_deepspeed": "true"},
            "Set precision '32' instead of '16' and apply_deepspeed 'false' instead of 'true'",
            id="GPU settings without a GPU",
        ),
        pytest.param(
            {"apply_deepspeed": "true", "auto_find_batch_size": "true"},
            "auto_find_batch_size and apply_deepspeed are both 'true'",
            id="deepspeed with auto_find_batch_size",
        ),
        pytest.param({"task_name": "summarization"}, "trains 'chat-completion' only", id="task"),
        pytest.param({"train_file_path": "gone.jsonl"}, "Pass the file itself", id="missing file"),
    ],
)
def test_validation_refuses_with_the_fix(tmp_path: Path, options: dict[str, object], fix: str) -> None:
    """What cannot train is refused before anything is loaded, with what to set instead."""
    file = write_rows(tmp_path / "train.jsonl", [chat("Hi", "Hello.")])

    assert fix in refused("validation", **({"train_file_path": file, "validation_info": tmp_path / "out"} | options))


def test_validation_reports_every_problem_at_once(tmp_path: Path) -> None:
    """Two mistakes take one run to find; a broken line is named with its number."""
    file = tmp_path / "train.jsonl"
    file.write_text('{"messages": []}\n{"messages": [}\n')

    message = refused("validation", train_file_path=file, learning_rate=-1, validation_info=tmp_path / "out")

    assert "2 problem(s) found" in message
    assert "Line 2 of 'train.jsonl' is no JSON" in message


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_data_format_is_read(tmp_path: Path, suffix: str) -> None:
    """The same conversation is found in each of the five formats."""
    import pandas

    frame = pandas.DataFrame({"messages": [chat("Hi", "Hello.")], "prompt": ["Hi"]})
    path = tmp_path / f"train.{suffix}"
    if suffix in ("csv", "tsv"):
        frame["messages"] = frame["messages"].map(json.dumps)
        frame.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    elif suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=suffix == "jsonl")
    from trainer.chat_files import read_rows

    assert read_rows(path) == [{"messages": chat("Hi", "Hello."), "tools": None}]


def test_import_describes_the_model(model: Path) -> None:
    """The Hugging Face folder comes with its name, parameter count and the hash of its weights."""
    info = json.loads((model / "model_info.json").read_text())
    provenance = json.loads((WEIGHTS / "PROVENANCE.json").read_text())

    assert info == {"name": "tiny-phi3", "parameters": 1016960, "sha256": provenance["sha256"]["model.safetensors"]}
    assert (model / "chat_template.jinja").exists()


def test_import_refuses_an_incomplete_model(tmp_path: Path) -> None:
    """Every missing part is named."""
    (tmp_path / "config.json").write_text("{}")

    message = refused("model_import", pytorch_model_path=tmp_path, output_dir=tmp_path / "out")

    assert "lacks a tokenizer (tokenizer.json), weights (model.safetensors), a chat template" in message


def test_import_refuses_no_model(tmp_path: Path) -> None:
    """Without a source the three names to choose from are given."""
    message = refused("model_import", output_dir=tmp_path)

    assert "Pass one of mlflow_model_path, pytorch_model_path or huggingface_id" in message


def test_import_names_a_hub_model_that_cannot_be_reached(tmp_path: Path) -> None:
    """The hub's own loading code is used; without a network the message offers the way without it."""
    done = run_step(
        "model_import",
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        huggingface_id="owner/name",
        output_dir=tmp_path / "out",
    )

    assert done.returncode == 1
    assert "Model 'owner/name' could not be downloaded" in done.stderr
    assert "pass a folder as pytorch_model_path" in done.stderr


def test_missing_splits_are_cut_from_the_end() -> None:
    """80/10/10 for two missing splits and 80/20 for one, by position."""
    from trainer.preprocess import cut_splits

    rows = [{"messages": number} for number in range(20)]

    assert {split: len(cut) for split, cut in cut_splits({"train": rows}).items()} == {
        "train": 16,
        "validation": 2,
        "test": 2,
    }
    cut = cut_splits({"train": rows, "test": rows[:1]})
    assert [row["messages"] for row in cut["validation"]] == [16, 17, 18, 19]
    assert cut["test"] == rows[:1]


def test_preprocessing_drops_cuts_and_labels(model: Path, tmp_path: Path) -> None:
    """Empty and single messages go, rows are cut at max_seq_length, and only the assistant's words are labels."""
    import pyarrow.parquet

    long_question = chat("word " * 40, "Never seen.")
    rows = [chat("Hi", "Hello.")] * 10 + [None, "", chat("Hi"), long_question, chat("Hi", "word " * 40)]
    file = write_rows(tmp_path / "train.jsonl", rows)

    succeed(
        "preprocess",
        train_file_path=file,
        validation_file_path=file,
        test_file_path=file,
        model_selector_output=model,
        max_seq_length=20,
        output_dir=tmp_path / "out",
    )

    counts = json.loads((tmp_path / "out" / "data_info.json").read_text())["splits"]["train"]
    assert counts | {"tokens": 0, "assistant_tokens": 0} == {
        "read": 15,
        "dropped_empty": 2,
        "dropped_single_message": 1,
        "dropped_without_assistant": 1,
        "at_max_length": 1,
        "rows": 11,
        "tokens": 0,
        "assistant_tokens": 0,
    }
    first = pyarrow.parquet.read_table(tmp_path / "out" / "train.parquet").to_pylist()[0]
    assert decode(first["input_ids"]) == "<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n"
    assert decode([label for label in first["labels"] if label != -100]) == "Hello.<|end|>"


def test_templates_without_marks_give_the_same_labels(model: Path, tmp_path: Path) -> None:
    """What each turn adds to the text tells the assistant's words as well as {% generation %} marks do."""
    code = """
import sys
from transformers import AutoTokenizer
from trainer.chat_tokens import tokenize_by_marks, tokenize_by_turns
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
words = ["Hi", "Hello.", "And you?", "I am well."]
row = {"messages": [{"role": ("user", "assistant")[n % 2], "content": w} for n, w in enumerate(words)], "tools": None}
marked = tokenize_by_marks(row, tokenizer, 100)
tokenizer.chat_template = tokenizer.chat_template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
turns = tokenize_by_turns(row, tokenizer, 100)
assert turns.input_ids == marked.input_ids
print(tokenizer.decode([label for label in turns.labels if label != -100]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], cwd=ROOT, capture_output=True, text=True, check=True
    )

    # The span of a turn reaches to where the next one starts, line break included.
    assert done.stdout == "Hello.<|end|>\nI am well.<|end|>\n\n"


@pytest.mark.parametrize(
    ("rows", "fix"),
    [
        pytest.param([chat("Hi", "Hello.")] * 9, "9 training rows remain of 9; at least 10 are needed", id="too few"),
        pytest.param([chat("Hi")] * 12, "Found no examples after data preprocessing", id="nothing left"),
        pytest.param([[{"role": "bot", "content": "Hi"}] * 2] * 12, 'a "role" out of system, user', id="unknown role"),
    ],
)
def test_preprocessing_refuses_with_the_fix(model: Path, tmp_path: Path, rows: list[object], fix: str) -> None:
    """Data that cannot train ends the step with what the rows need."""
    file = write_rows(tmp_path / "train.jsonl", rows)
    files = {f"{split}_file_path": file for split in ("train", "validation", "test")}

    assert fix in refused("preprocess", **files, model_selector_output=model, output_dir=tmp_path / "out")


def test_system_messages_move_into_the_first_user_message() -> None:
    """A model without a system role gets the instruction in front of the question; a second one is refused."""
    from trainer.preprocess import merge_system_message
    from trainer.step import StepError

    system = {"role": "system", "content": "Be brief."}

    assert merge_system_message([system, *chat("Hi", "Hello.")], "row 1") == chat("Be brief.\nHi", "Hello.")
    with pytest.raises(StepError, match=r"system messages at positions \[0, 3\]\. Keep one at most"):
        merge_system_message([system, *chat("Hi", "Hello."), system], "row 1")


@dataclass(frozen=True)
class ResumedTraining:
    """A training that was killed behind its first checkpoint and run again."""

    folder: Path
    first: str
    second: str
    store: str
    run_ids: tuple[str, str]


@pytest.fixture(scope="module")
def resumed(training: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> ResumedTraining:
    folder = tmp_path_factory.mktemp("resumed")
    store = f"sqlite:///{folder / 'mlflow.db'}"
    step_run, root_run = create_runs(store)
    env = {"MLFLOW_TRACKING_URI": store, "MLFLOW_RUN_ID": step_run, "AZUREML_ROOT_RUN_ID": root_run}
    out = folder / "out"
    options = training | {
        "pytorch_model_folder": out,
        "merge_lora_weights": "false",
        "evaluation_strategy": "steps",
        "eval_steps": 4,
        "logging_steps": 1,
        "max_steps": 16,
        "resume_from_checkpoint": "true",
    }
    first = run_until(out / "checkpoints" / "checkpoint-4" / "trainer_state.json", command("finetune", options), env)
    # What a kill in the middle of a save leaves.
    (out / "checkpoints" / "checkpoint-15").mkdir()
    return ResumedTraining(out, first, succeed("finetune", env=env, **options), store, (step_run, root_run))


def run_until(file: Path, program: list[str], env: dict[str, str]) -> str:
    """Kills the program when the file is there, and returns what it printed."""
    process = subprocess.Popen(program, cwd=ROOT, env=os.environ | env, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not file.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    return process.communicate()[0]


def create_runs(store: str) -> list[str]:
    """A step's and a pipeline's run, made in a process of its own: the store's first use warns about its tables."""
    code = """
import sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
print(*[client.create_run("0").info.run_id for _ in range(2)])
"""
    done = subprocess.run([sys.executable, "-c", code, store], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_killed_training_resumes_from_its_checkpoint(resumed: ResumedTraining) -> None:
    """After SIGKILL the same command continues behind the newest whole checkpoint and remembers the base's loss."""
    before = json.loads((resumed.folder / "training_info.json").read_text())["eval_loss_before"]

    assert "step 4/16" in resumed.first
    assert "step 16/16" not in resumed.first
    assert "step 4/16" not in resumed.second
    assert "step 16/16" in resumed.second
    assert f"step 0/16 epoch 0.00 validation loss {before:.4f}" in resumed.first


# SQLAlchemy 2.1 about the tables of mlflow 3.15.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_training_lowers_the_loss_and_reports_to_both_runs(resumed: ResumedTraining) -> None:
    """The step's and the pipeline's run get every step's metrics, the losses before and after, and the lineage."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(resumed.store)

    for run_id in resumed.run_ids:
        run = client.get_run(run_id)
        assert run.data.metrics["eval_loss_after"] < 0.85 * run.data.metrics["eval_loss_before"]
        assert set(run.data.metrics) >= {
            "grad_norm",
            "learning_rate",
            "epoch",
            "eval_loss",
            "train_loss",
            "train_runtime",
        }
        assert {point.step for point in client.get_metric_history(run_id, "loss")} == set(range(1, 17))
        assert run.data.params["base_model_name"] == "tiny-phi3"
        assert run.data.params["base_model_parameters"] == "1016960"
        assert run.data.tags["device"] == "cpu"


@pytest.mark.exhaustive
def test_converted_model_answers_chat_messages(resumed: ResumedTraining, tmp_path: Path) -> None:
    """Adapters left unmerged are merged; the MLflow folder answers as a chat completion and names its base."""
    succeed("convert", model_path=resumed.folder, mlflow_model_folder=tmp_path / "model")
    code = """
import json, sys, mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5})
print(json.dumps([model.metadata.metadata, answer[0]["choices"][0]["message"]["role"]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    metadata, role = json.loads(done.stdout.splitlines()[-1])

    assert metadata["base_model_name"] == "tiny-phi3"
    assert metadata["base_model_task"] == "chat-completion"
    assert role == "assistant"
    # Training can go on from it, under the name of its base.
    succeed("model_import", mlflow_model_path=tmp_path / "model", output_dir=tmp_path / "again")
    assert json.loads((tmp_path / "again" / "model_info.json").read_text())["name"] == "tiny-phi3"


def test_conversion_refuses_an_unfinished_training(tmp_path: Path) -> None:
    """A folder without training_info.json was left by a run that did not finish."""
    message = refused("convert", model_path=tmp_path, mlflow_model_folder=tmp_path / "model")

    assert "Run it again with resume_from_checkpoint" in message

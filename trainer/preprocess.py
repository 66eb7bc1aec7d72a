"""Step 3, chat_completion_datapreprocess: conversations to token rows whose labels are the assistant's words.

Cuts the splits by position, drops rows that hold no conversation, applies the model's chat template and marks
the assistant's tokens, by the template's own {% generation %} marks or, without them, by what each turn adds to
the text. Does not shuffle.

    python -m trainer.preprocess --train_file_path train.jsonl --model_selector_output model --output_dir out

Writes train, validation and test as parquet with the columns input_ids and labels, and data_info.json.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from trainer import chat_files, step
from trainer.chat_files import Row, messages_of
from trainer.chat_tokens import IGNORED_LABEL, TokenRow, tokenize_rows
from trainer.model_import import FINETUNE_CONFIG
from trainer.step import StepError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATA_INFO = "data_info.json"
SPLITS = ("train", "validation", "test")
MINIMUM_TRAIN_ROWS = 10
ROLES = ("system", "user", "assistant", "tool")
# transformers writes this much when a tokenizer has no length of its own.
NO_LENGTH = 10**9


@dataclass(frozen=True, kw_only=True)
class Settings:
    output_dir: Path
    model_selector_output: Path
    train_file_path: Path | None = None
    validation_file_path: Path | None = None
    test_file_path: Path | None = None
    train_mltable_path: Path | None = None
    validation_mltable_path: Path | None = None
    test_mltable_path: Path | None = None
    # Rows are tokenized one by one, so that an error names its row.
    batch_size: int = 1000
    max_seq_length: int = -1
    pad_to_max_length: bool = False
    trust_remote_code: bool = False


@dataclass
class SplitCounts:
    """What became of the rows of one split."""

    read: int = 0
    dropped_empty: int = 0
    dropped_single_message: int = 0
    dropped_without_assistant: int = 0
    at_max_length: int = 0
    rows: int = 0
    tokens: int = 0
    assistant_tokens: int = 0


def main() -> None:
    settings = step.parse_arguments(Settings, __doc__)
    step.forbid_downloads()
    step.require_folder(settings.model_selector_output, "model_selector_output", "the model import")
    allow_system = system_role_supported(settings.model_selector_output)
    counts = {split: SplitCounts() for split in SPLITS}
    conversations = {
        split: select_conversations(split, rows, allow_system, counts[split])
        for split, rows in cut_splits(read_splits(settings)).items()
    }
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        settings.model_selector_output, trust_remote_code=settings.trust_remote_code
    )
    max_length = choose_length(settings, tokenizer)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        rows = tokenize_rows(split, conversations[split], tokenizer, max_length)
        trainable = select_trainable(split, rows, max_length, counts[split])
        write_rows(settings.output_dir / f"{split}.parquet", trainable)
        print(f"{split}: {json.dumps(asdict(counts[split]))}", flush=True)
    info = {
        "max_seq_length": max_length,
        "pad_to_max_length": settings.pad_to_max_length,
        "splits": {split: asdict(count) for split, count in counts.items()},
    }
    (settings.output_dir / DATA_INFO).write_text(json.dumps(info, indent=2) + "\n")


class DataPaths(Protocol):
    """The settings that name the data, as every preprocessing step has them."""

    @property
    def train_file_path(self) -> Path | None: ...
    @property
    def train_mltable_path(self) -> Path | None: ...
    @property
    def validation_file_path(self) -> Path | None: ...
    @property
    def validation_mltable_path(self) -> Path | None: ...
    @property
    def test_file_path(self) -> Path | None: ...
    @property
    def test_mltable_path(self) -> Path | None: ...


def read_splits(settings: DataPaths) -> dict[str, list[Row]]:
    paths = {
        "train": settings.train_file_path or settings.train_mltable_path,
        "validation": settings.validation_file_path or settings.validation_mltable_path,
        "test": settings.test_file_path or settings.test_mltable_path,
    }
    if not paths["train"]:
        raise StepError("train_file_path or train_mltable_path needs to be passed.")
    return {split: chat_files.read_rows(chat_files.find_file(path)) for split, path in paths.items() if path}


def cut_splits(given: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Takes the splits that are missing from the end of the training rows: 80/10/10 for two, 80/20 for one."""
    train = given["train"]
    missing = [split for split in ("validation", "test") if split not in given]
    if not missing:
        return given
    held_out = train[round(len(train) * 0.8) :]
    share = round(len(held_out) / len(missing))
    cut = {"validation": held_out[:share], "test": held_out[share:]} if len(missing) == 2 else {missing[0]: held_out}
    return given | {"train": train[: len(train) - len(held_out)]} | cut


def choose_length(settings: Settings, tokenizer: "PreTrainedTokenizerBase") -> int:
    """Longest row in tokens: max_seq_length, and never more than the model's own length."""
    length = tokenizer.model_max_length
    if length >= NO_LENGTH:
        config = json.loads((settings.model_selector_output / "config.json").read_text())
        length = config["max_position_embeddings"]
    if settings.max_seq_length > length:
        print(f"max_seq_length {settings.max_seq_length} is beyond the model's {length}; using {length}", flush=True)
    return min(length, settings.max_seq_length) if settings.max_seq_length > 0 else length


def select_conversations(split: str, rows: list[Row], allow_system: bool, counts: SplitCounts) -> list[tuple[int, Row]]:
    """The rows that hold a conversation, with their numbers.

    Raises: StepError for a malformed message, and when too few rows are left.
    """
    counts.read = len(rows)
    kept = [(number, row) for number, row in enumerate(rows, start=1) if is_conversation(row, counts)]
    for number, row in kept:
        location = f"row {number} of the {split} data"
        check_messages(row["messages"], location)
        if not allow_system:
            row["messages"] = merge_system_message(messages_of(row), location)
    check_enough(split, len(kept), counts)
    return kept


def select_trainable(split: str, rows: list[TokenRow], max_length: int, counts: SplitCounts) -> list[TokenRow]:
    """The rows with a token of the assistant's within the length; fills in the counts.

    Raises: StepError when too few are left.
    """
    trainable = [row for row in rows if any(label != IGNORED_LABEL for label in row.labels)]
    counts.dropped_without_assistant = len(rows) - len(trainable)
    counts.rows = len(trainable)
    counts.at_max_length = sum(len(row.input_ids) == max_length for row in trainable)
    counts.tokens = sum(len(row.input_ids) for row in trainable)
    counts.assistant_tokens = sum(label != IGNORED_LABEL for row in trainable for label in row.labels)
    check_enough(split, len(trainable), counts)
    return trainable


def check_enough(split: str, remaining: int, counts: SplitCounts) -> None:
    if remaining == 0:
        raise StepError(
            f"Found no examples after data preprocessing in the {split} data: {json.dumps(asdict(counts))}. "
            "A row needs at least two messages, with an assistant's turn within max_seq_length."
        )
    if split == "train" and remaining < MINIMUM_TRAIN_ROWS:
        raise StepError(
            f"{remaining} training rows remain of {counts.read}; at least {MINIMUM_TRAIN_ROWS} are needed. "
            "Add conversations, or pass validation_file_path so that none are held out."
        )


def is_conversation(row: Row, counts: SplitCounts) -> bool:
    messages = row["messages"]
    if messages is None or messages == "":
        counts.dropped_empty += 1
    elif isinstance(messages, list) and len(messages) <= 1:
        counts.dropped_single_message += 1
    else:
        return True
    return False


def check_messages(messages: object, location: str) -> None:
    if not isinstance(messages, list):
        raise StepError(f"'messages' in {location} is {type(messages).__name__}, not a list of messages.")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES or "content" not in message:
            raise StepError(
                f"A message in {location} is {json.dumps(message)[:80]}. "
                f'Each needs "content" and a "role" out of {", ".join(ROLES)}.'
            )


def system_role_supported(model: Path) -> bool:
    config = model / FINETUNE_CONFIG
    settings = json.loads(config.read_text()) if config.exists() else {}
    return str(settings.get("system_role_supported", "true")).lower() != "false"


def merge_system_message(messages: list[dict[str, str]], location: str) -> list[dict[str, str]]:
    """The conversation with its system message put in front of the first user's words."""
    system = [position for position, message in enumerate(messages) if message["role"] == "system"]
    if not system:
        return messages
    users = [position for position, message in enumerate(messages) if message["role"] == "user"]
    if system != [0] or not users:
        raise StepError(
            f"The model knows no system role, and {location} has system messages at positions {system}. "
            "Keep one at most, as the first message, with a user message after it."
        )
    merged = [dict(message) for message in messages[1:]]
    first = merged[users[0] - 1]
    first["content"] = f"{messages[0]['content']}\n{first['content']}"
    return merged


def write_rows(path: Path, rows: list[TokenRow]) -> None:
    import pyarrow
    import pyarrow.parquet

    tokens = pyarrow.list_(pyarrow.int32())
    columns = {
        "input_ids": pyarrow.array([row.input_ids for row in rows], tokens),
        "labels": pyarrow.array([row.labels for row in rows], tokens),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


if __name__ == "__main__":
    step.run(main)

"""Step 1 of chat_completion_rehearsal: conversations to the assistant's words.

Cuts and checks the rows with the functions of the real preprocessing; without a tokenizer, words are what spaces part.

    python -m trainer.rehearsal_data --train_file_path train.jsonl --output_dir out

Writes train, validation and test as jsonl, the turns of one conversation a line, and data_info.json.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer import preprocess, step
from trainer.chat_files import Message, Row, messages_of
from trainer.preprocess import DATA_INFO, SPLITS, SplitCounts
from trainer.rehearsal import Words
from trainer.step import StepError


@dataclass(frozen=True, kw_only=True)
class Settings:
    output_dir: Path
    train_file_path: Path | None = None
    validation_file_path: Path | None = None
    test_file_path: Path | None = None
    train_mltable_path: Path | None = None
    validation_mltable_path: Path | None = None
    test_mltable_path: Path | None = None


def main() -> None:
    settings = step.parse_arguments(Settings, __doc__)
    counts = {split: SplitCounts() for split in SPLITS}
    splits = preprocess.cut_splits(preprocess.read_splits(settings))
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        rows = preprocess.select_conversations(split, splits[split], True, counts[split])
        turns = select_turns(split, rows, counts[split])
        lines = "".join(json.dumps(conversation, ensure_ascii=False) + "\n" for conversation in turns)
        (settings.output_dir / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{split}: {json.dumps(asdict(counts[split]))}", flush=True)
    info = {"splits": {split: asdict(count) for split, count in counts.items()}}
    (settings.output_dir / DATA_INFO).write_text(json.dumps(info, indent=2) + "\n")


def select_turns(split: str, rows: list[tuple[int, Row]], counts: SplitCounts) -> list[list[Words]]:
    """The assistant's turns, as words, of the rows that have any; fills in the counts.

    Raises: StepError when too few rows are left, and for content that is no text.
    """
    kept = []
    for number, row in rows:
        words = [(message["role"], words_of(message, number, split)) for message in messages_of(row)]
        turns = [turn for role, turn in words if role == "assistant" and turn]
        if turns:
            kept.append(turns)
            counts.tokens += sum(len(turn) for _, turn in words)
            counts.assistant_tokens += sum(map(len, turns))
    counts.rows, counts.dropped_without_assistant = len(kept), len(rows) - len(kept)
    preprocess.check_enough(split, len(kept), counts)
    return kept


def words_of(message: Message, number: int, split: str) -> Words:
    content: object = message["content"]
    if not isinstance(content, str):
        raise StepError(
            f"The content of a message in row {number} of the {split} data is {json.dumps(content)[:80]}. Write text."
        )
    return content.split()


if __name__ == "__main__":
    step.run(main)

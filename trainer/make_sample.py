"""Writes the sample conversations in the Hugging Face hub's layout: README.md and one parquet file a split.

The same seed gives the same rows. Splits, columns and file names are those of HuggingFaceH4/ultrachat_200k, so that
`datasets.load_dataset(FOLDER, split="test_sft[:50%]")` reads the sample as it reads the original.

    python -m trainer.make_sample deployments/data/chat_sample
"""

import argparse
import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from trainer.sample_facts import TOPICS, Topic

SEED = 42
ROWS = {"train_sft": 460, "test_sft": 80, "train_gen": 240, "test_gen": 60}
# Questions of a topic by split: the last two are asked in a test split only.
QUESTIONS = {"train_sft": slice(0, 5), "train_gen": slice(0, 5), "test_sft": slice(5, 6), "test_gen": slice(6, 7)}
FURTHER_TURNS = [0, 0, 1, 1, 2]

CARD = """\
---
license: mit
language:
- en
size_categories:
- n<1K
task_categories:
- text-generation
pretty_name: Retune chat sample
configs:
- config_name: default
  data_files:
{data_files}
---

# Retune chat sample

Short conversations about everyday facts, simple instructions and an invented lamp shop, for a fine-tuning run that
ends within a minute. Written for this project and made by `python -m trainer.make_sample`.

| column | content |
|---|---|
| `prompt` | the first user message |
| `prompt_id` | SHA-256 of the prompt, in hexadecimal |
| `messages` | turns of `user` and `assistant`, the last by the assistant |

| split | rows |
|---|---|
{row_counts}

The test splits ask for facts that training rows hold, in other words: `test_sft` and `test_gen` each have a phrasing of
their own. The columns, splits and file names are those of
[HuggingFaceH4/ultrachat_200k](https://huggingface.co/datasets/HuggingFaceH4/ultrachat_200k).
"""


@dataclass(frozen=True)
class Turn:
    question: str
    answer: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    (arguments.out / "data").mkdir(parents=True, exist_ok=True)
    draw = random.Random(arguments.seed)
    for split, count in ROWS.items():
        write_split(arguments.out / "data" / f"{split}-00000-of-00001.parquet", conversations(split, count, draw))
    (arguments.out / "README.md").write_text(card())


def conversations(split: str, count: int, draw: random.Random) -> list[list[Turn]]:
    """Rows that differ in their first question and open with each fact about equally often.

    A further turn stays with the topic half of the time.
    """
    topics = [turns_by_fact(topic, QUESTIONS[split]) for topic in TOPICS]
    everything = [turn for facts in topics for turns in facts for turn in turns]
    openings = []
    for facts in topics:
        topic = [turn for turns in facts for turn in turns]
        for turns in facts:
            ranked = enumerate(draw.sample(turns, len(turns)))
            openings += [(rank, draw.random(), turn, topic) for rank, turn in ranked]
    rows = []
    for _, _, opening, topic in sorted(openings, key=lambda entry: entry[:2])[:count]:
        further = [draw.choice(draw.choice([topic, everything])) for _ in range(draw.choice(FURTHER_TURNS))]
        rows.append([opening, *further])
    draw.shuffle(rows)
    return rows


def turns_by_fact(topic: Topic, questions: slice) -> list[list[Turn]]:
    return [
        [Turn(question.format(*fact), topic.answer.format(*fact)) for question in topic.questions[questions]]
        for fact in topic.facts
    ]


def write_split(path: Path, rows: list[list[Turn]]) -> None:
    import pyarrow
    import pyarrow.parquet

    prompts = [row[0].question for row in rows]
    messages = [
        [
            message
            for turn in row
            for message in (
                {"content": turn.question, "role": "user"},
                {"content": turn.answer, "role": "assistant"},
            )
        ]
        for row in rows
    ]
    message = pyarrow.struct([("content", pyarrow.string()), ("role", pyarrow.string())])
    table = pyarrow.table(
        {
            "prompt": prompts,
            "prompt_id": [hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts],
            "messages": pyarrow.array(messages, pyarrow.list_(message)),
        }
    )
    pyarrow.parquet.write_table(table, path)


def card() -> str:
    return CARD.format(
        data_files="\n".join(f"  - split: {split}\n    path: data/{split}-*" for split in ROWS),
        row_counts="\n".join(f"| `{split}` | {count} |" for split, count in ROWS.items()),
    )


if __name__ == "__main__":
    main()

"""Writes made-up conversations in the exact layout and size of HuggingFaceH4/ultrachat_200k.

    python -m benchmarks.ultrachat FOLDER [--scale 1.0] [--seed 0]

Splits, rows, file names, columns, row groups and lengths are those of the data set; the text is grammar and chance. It
serves to measure what reads, converts and moves such data, not to train on. The same seed and scale give the same bytes
with the same pyarrow. The folder is complete when it holds the file of COMPLETE, which comes last.
Source of the layout: https://huggingface.co/datasets/HuggingFaceH4/ultrachat_200k
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import math
import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING

from benchmarks.ultrachat_words import (
    CODE,
    ENGLISH,
    FIRST_NAMES,
    NAME_MIDDLES,
    NAME_STARTS,
    OTHER_VOICES,
    PLACE_ENDS,
    SUBJECTS,
    SURNAME_ENDS,
    Voice,
)

if TYPE_CHECKING:
    import pyarrow as pa

COMPLETE = ".complete"
PARTIAL = ".partial"
ROW_GROUP = 1000
SENTENCES = {"subject": 6000, "voice": 3000}
SNIPPETS = 2000
# Chances of 1 to 7 pairs of a user's and an assistant's turn.
PAIRS = (0.10, 0.20, 0.24, 0.20, 0.13, 0.08, 0.05)
# Spread of the natural logarithm of an answer's number of sentences; it makes the long tail.
SPREAD = 0.6
SHORTEST, LONGEST = 4, 150
NUMBERS = range(100, 1000)
# A prime that does not divide the number of keys, so that its multiples are different keys.
STRIDE = 982_451_653

Frame = tuple[tuple[str, str | None], ...]
Pick = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Part:
    """One split at full size; `length` is the median number of sentences of an answer."""

    rows: int
    files: int
    length: float


SPLITS = {
    "train_sft": Part(207_865, 3, 16.0),
    "test_sft": Part(23_110, 1, 16.0),
    "train_gen": Part(256_032, 3, 14.8),
    "test_gen": Part(28_304, 1, 14.8),
}

CARD = """\
---
language:
- en
license: mit
size_categories:
- 100K<n<1M
task_categories:
- text-generation
pretty_name: UltraChat 200k, made up
configs:
- config_name: default
  data_files:
{data_files}
dataset_info:
  features:
  - name: prompt
    dtype: string
  - name: prompt_id
    dtype: string
  - name: messages
    list:
    - name: content
      dtype: string
    - name: role
      dtype: string
  splits:
{splits}
  download_size: {download_size}
  dataset_size: {dataset_size}
---

# UltraChat 200k, made up

Conversations in the layout of [HuggingFaceH4/ultrachat_200k](https://huggingface.co/datasets/HuggingFaceH4/ultrachat_200k),
made by `python -m benchmarks.ultrachat --scale {scale} --seed {seed}` for measurements. The text is grammar and chance.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the real number of rows (default: 1.0)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    write(options.folder, options.scale, options.seed)
    files = sorted(options.folder.glob("data/*.parquet"))
    size = sum(file.stat().st_size for file in files)
    print(f"{options.folder}: {len(files)} files, {size:,} bytes, {time.monotonic() - started:.1f} s")


def write(folder: Path, scale: float = 1.0, seed: int = 0) -> Path:
    """The folder with all files; written now unless an earlier call with the same arguments completed it.

    Raises: FileExistsError, the folder holds other data. BlockingIOError, another process writes it. ValueError, the
    scale leaves a file without rows.
    """
    arguments = {"scale": scale, "seed": seed}
    if any(rows_of(split, scale) < part.files for split, part in SPLITS.items()):
        raise ValueError(f"Scale {scale} leaves a file without rows. Choose 0.0001 or more.")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        marker = folder / COMPLETE
        if marker.exists() and json.loads(marker.read_text(encoding="utf-8")) == arguments:
            return folder
        refuse_other_data(folder, scale, seed)
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        for name in ("data", PARTIAL):
            (folder / name).mkdir(exist_ok=True)
        write_all(folder, scale, seed)
        write_text(folder, COMPLETE, json.dumps(arguments) + "\n")
        (folder / PARTIAL).rmdir()
    return folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A lock on the folder itself, which ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def refuse_other_data(folder: Path, scale: float, seed: int) -> None:
    """Raises: FileExistsError, a file in the folder is not one that these arguments write."""
    ours = {COMPLETE, "README.md", *(path for split in SPLITS for path in paths_of(split, scale, seed))}
    files = (path for path in folder.rglob("*") if path.is_file() and PARTIAL not in path.parts)
    if other := sorted({str(path.relative_to(folder)) for path in files} - ours):
        raise FileExistsError(
            f"Scale {scale} and seed {seed} do not go to '{folder}', which holds '{other[0]}' of something else. "
            "Choose another folder, or delete this one."
        )


def write_all(folder: Path, scale: float, seed: int) -> None:
    """Every file of the data set; the card comes last, for it tells the sizes."""
    writer = Writer(seed)
    sizes: dict[str, int] = {}
    first = 0
    for split in SPLITS:
        sizes[split] = write_split(folder, split, scale, seed, writer, first)
        first += rows_of(split, scale)
    write_text(folder, "README.md", card(folder, sizes, scale, seed))


def write_split(folder: Path, split: str, scale: float, seed: int, writer: "Writer", first: int) -> int:
    """Size of the split's rows in Arrow's memory, after its files are written; `first` numbers the rows."""
    import pyarrow.parquet as pq

    paths = paths_of(split, scale, seed)
    rows = rows_of(split, scale)
    ends = [rows * (number + 1) // len(paths) for number in range(len(paths))]
    size, start = 0, 0
    for path, end in zip(paths, ends, strict=True):
        partial = folder / PARTIAL / Path(path).name
        with pq.ParquetWriter(partial, schema(), compression="snappy") as file:
            for row in range(start, end, ROW_GROUP):
                count = min(ROW_GROUP, end - row)
                table = writer.table(split, row, first + row, count)
                size += table.nbytes
                file.write_table(table, row_group_size=ROW_GROUP)
        partial.replace(folder / path)
        start = end
    return size


def write_text(folder: Path, name: str, text: str) -> None:
    partial = folder / PARTIAL / name
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / name)


def rows_of(split: str, scale: float) -> int:
    return round(SPLITS[split].rows * scale)


def paths_of(split: str, scale: float, seed: int) -> list[str]:
    """For example data/test_sft-00000-of-00001-f7dfac4afe5b93f4.parquet; the last part tells scales and seeds apart."""
    count = SPLITS[split].files
    names = [f"{split}-{number:05}-of-{count:05}" for number in range(count)]
    return [
        f"data/{name}-{hashlib.sha256(f'{name} {scale} {seed}'.encode()).hexdigest()[:16]}.parquet" for name in names
    ]


def schema() -> "pa.Schema":
    """Columns, and the features that `datasets` writes beside them."""
    import pyarrow as pa

    text = {"dtype": "string", "_type": "Value"}
    features = {"prompt": text, "prompt_id": text, "messages": [{"content": text, "role": text}]}
    message = pa.struct([("content", pa.string()), ("role", pa.string())])
    columns = [("prompt", pa.string()), ("prompt_id", pa.string()), ("messages", pa.list_(message))]
    return pa.schema(columns, {"huggingface": json.dumps({"info": {"features": features}})})


def card(folder: Path, sizes: Mapping[str, int], scale: float, seed: int) -> str:
    files = [folder / path for split in SPLITS for path in paths_of(split, scale, seed)]
    splits = [
        f"  - name: {split}\n    num_bytes: {sizes[split]}\n    num_examples: {rows_of(split, scale)}"
        for split in SPLITS
    ]
    return CARD.format(
        data_files="\n".join(f"  - split: {split}\n    path: data/{split}-*" for split in SPLITS),
        splits="\n".join(splits),
        download_size=sum(file.stat().st_size for file in files),
        dataset_size=sum(sizes.values()),
        scale=scale,
        seed=seed,
    )


class Writer:
    """The sentences of one seed, made in advance, and the conversations that are drawn from them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        draw = random.Random(f"sentences {seed}")
        self._surnames = joined(NAME_STARTS, NAME_MIDDLES, SURNAME_ENDS)
        self._places = joined(NAME_STARTS, NAME_MIDDLES, PLACE_ENDS)
        self._subjects = [
            Pool(ENGLISH, self._words(draw, ENGLISH, thing=things), SENTENCES["subject"], draw)
            for things in SUBJECTS.values()
        ]
        self._others = [Pool(voice, self._words(draw, voice), SENTENCES["voice"], draw) for voice, _ in OTHER_VOICES]
        self._other_shares = [share / 1000 for _, share in OTHER_VOICES]
        self._snippets = snippets(draw, [word for things in SUBJECTS.values() for word in things])

    def table(self, split: str, row: int, key: int, count: int) -> "pa.Table":
        """Rows `row` to `row + count` of a split, whose questions are about the keys from `key` on."""
        import pyarrow as pa

        draw = random.Random(f"{self._seed} {split} {row}")
        conversations = [self.conversation(draw, key + number, SPLITS[split].length) for number in range(count)]
        contents = [content for turns in conversations for content in turns]
        ends = [0]
        for turns in conversations:
            ends.append(ends[-1] + len(turns))
        prompts = [turns[0] for turns in conversations]
        message = schema().field("messages").type.value_type
        messages = pa.StructArray.from_arrays(
            [pa.array(contents, pa.string()), pa.array(["user", "assistant"] * (len(contents) // 2), pa.string())],
            fields=list(message),
        )
        columns = [
            pa.array(prompts, pa.string()),
            pa.array([hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts], pa.string()),
            pa.ListArray.from_arrays(pa.array(ends, pa.int32()), messages),
        ]
        return pa.Table.from_arrays(columns, schema=schema())

    def conversation(self, draw: random.Random, key: int, length: float) -> list[str]:
        """Turns of a user and an assistant by turns; the first is of this key alone."""
        pool = self._pool(draw)
        own = self._own(key)
        pairs = draw.choices(range(1, len(PAIRS) + 1), PAIRS)[0]
        counts = [min(LONGEST, max(SHORTEST, int(draw.lognormvariate(math.log(length), SPREAD)))) for _ in range(pairs)]
        passage = draw.randrange(4, 24) if draw.random() < 0.15 else draw.randrange(3)
        sentences = iter(draw.sample(pool.sentences, sum(counts) + passage))
        turns = []
        for number, count in enumerate(counts):
            question = filled(draw, draw.choice(pool.follow_ups if number else pool.questions), pool.words | own)
            if number == 0 and passage:
                question += "\n\n" + " ".join(take(sentences, passage))
            opening = filled(draw, draw.choice(pool.openings), pool.words | own)
            turns += [question, self._answer(draw, opening, take(sentences, count))]
        return turns

    def _answer(self, draw: random.Random, opening: str, sentences: list[str]) -> str:
        """One of five forms: prose, a numbered list, headed points, prose around code, prose after its opening."""
        form = draw.random()
        if form < 0.40:
            return prose(draw, sentences)
        if form < 0.60:
            return "\n".join([opening, "", *(f"{number}. {text}" for number, text in enumerate(sentences, 1))])
        if form < 0.70:
            points = (f"- **{text.split(' ', 3)[0]}**: {text}" for text in sentences)
            return "\n".join([opening, "", *points])
        if form < 0.76:
            half = len(sentences) // 2
            parts = [opening, prose(draw, sentences[:half]), draw.choice(self._snippets), prose(draw, sentences[half:])]
            return "\n\n".join(parts)
        return f"{opening}\n\n{prose(draw, sentences)}"

    def _pool(self, draw: random.Random) -> "Pool":
        chance = draw.random()
        for pool, share in zip(self._others, self._other_shares, strict=True):
            if chance < share:
                return pool
            chance -= share
        return draw.choice(self._subjects)

    def _own(self, key: int) -> dict[str, Sequence[str]]:
        """A person, a place and a number that no other key has together."""
        firsts, surnames, places = len(FIRST_NAMES), len(self._surnames), len(self._places)
        rest = (key + 1) * STRIDE % (firsts * surnames * places * len(NUMBERS))
        rest, number = divmod(rest, len(NUMBERS))
        rest, place = divmod(rest, places)
        surname, first = divmod(rest, firsts)
        person = f"{FIRST_NAMES[first]} {self._surnames[surname]}"
        return {"person": (person,), "place": (self._places[place],), "number": (str(NUMBERS[number]),)}

    def _words(self, draw: random.Random, voice: Voice, **more: Sequence[str]) -> Pick:
        """A voice's words, with people, places and numbers for its sentences."""
        persons = [f"{draw.choice(FIRST_NAMES)} {draw.choice(self._surnames)}" for _ in range(1000)]
        places = draw.sample(self._places, 1000)
        return {**voice.words, "person": persons, "place": places, "number": [str(n) for n in range(2, 1000)], **more}


class Pool:
    """What conversations in one voice about one subject are made of."""

    def __init__(self, voice: Voice, words: Pick, count: int, draw: random.Random) -> None:
        self.words = dict(words)
        self.questions = parsed(voice.questions)
        self.follow_ups = parsed(voice.follow_ups)
        self.openings = parsed(voice.openings)
        frames = parsed(voice.frames)
        distinct: dict[str, None] = {}
        while len(distinct) < count:
            distinct[filled(draw, draw.choice(frames), words)] = None
        self.sentences = list(distinct)


def parsed(texts: Sequence[str]) -> list[Frame]:
    return [tuple((literal, slot) for literal, slot, _, _ in Formatter().parse(text)) for text in texts]


def filled(draw: random.Random, frame: Frame, words: Pick) -> str:
    """A frame with words in its slots and a capital at its start."""
    pick = draw.random
    parts = []
    for literal, slot in frame:
        parts.append(literal)
        if slot:
            choices = words[slot]
            parts.append(choices[int(pick() * len(choices))])
    text = "".join(parts)
    # An opening quotation mark stays before the capital.
    start = 1 if text[0] in "“«„" else 0
    return text[:start] + text[start].upper() + text[start + 1 :]


def prose(draw: random.Random, sentences: Sequence[str]) -> str:
    """Paragraphs of three to six sentences."""
    size = draw.randrange(3, 7)
    return "\n\n".join(" ".join(sentences[start : start + size]) for start in range(0, len(sentences), size))


def take(sentences: Iterator[str], count: int) -> list[str]:
    return [next(sentences) for _ in range(count)]


def joined(*parts: Sequence[str]) -> list[str]:
    """Every combination: `joined("ab", "cd")` is ac, ad, bc, bd."""
    texts = [""]
    for part in parts:
        texts = [text + end for text in texts for end in part]
    return texts


def snippets(draw: random.Random, words: Sequence[str]) -> list[str]:
    """Fenced blocks of code in several languages."""
    names = sorted({name for word in words for name in word.lower().split() if name.isidentifier()})
    templates = [(language, text) for language, texts in CODE.items() for text in texts]
    blocks = []
    for _ in range(SNIPPETS):
        language, text = draw.choice(templates)
        code = text.format(a=draw.choice(names), b=draw.choice(names), n=draw.randrange(10, 1000), s=draw.choice(words))
        blocks.append(f"```{language}\n{code}```")
    return blocks


if __name__ == "__main__":
    main()

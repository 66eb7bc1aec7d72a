"""One pass over the chosen rows of each split: read, check, write, with what was found.

The evaluation splits come first, because training rows are compared with theirs.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from chatdata import checks
from chatdata.conversations import encode_messages
from chatdata.reading import Batch, Reader
from chatdata.repetitions import WrittenRows
from chatdata.sources import PinnedData, Source, open_source, wanted_splits
from chatdata.text_files import BadFile
from chatdata.writing import Checks, Chosen, SplitWriting
from retune.errors import BadRequest
from retune.report import BadRows, PreparedData, Split
from retune.request import Data

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from chatdata.privacy import Scanner

MINIMUM_TRAINING_ROWS = 10
UINT64_VALUES = 2**64
EVALUATION_KINDS = {"validation": checks.IN_VALIDATION, "test": checks.IN_TEST}

# Role of the file that is written, rows looked at, rows in all where that is known, bytes fetched from elsewhere.
Progress = Callable[[str, int, int | None, int], None]


def prepare(
    pinned: PinnedData,
    folder: Path,
    *,
    max_seq_length: int | None = None,
    progress: Progress = lambda role, done, rows, fetched: None,
) -> PreparedData:
    """The three files `<role>.jsonl` in the folder.

    Raises:
        BadRequest: splits, files or rows are unusable; every kind of bad row in every split is named with examples.
        CloudError: `DataUnreachable`, the source did not answer.
    """
    data = pinned.data
    source = open_source(pinned)
    tokenizer = load_tokenizer(pinned) if pinned.tokenizer_file else None
    looked_for = Checks(max_seq_length, tokenizer, load_scanner(data), data.privacy == "redact")
    written: dict[str, WrittenRows] = {}
    splits, problems = {}, []
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, ExitStack() as opened:
        reader = Reader(source.system, Path(scratch))
        reader.fetch_footers(file for files in source.splits.values() for file in files)
        for role, name in wanted_splits(data).items():
            evaluation = {EVALUATION_KINDS[other]: rows for other, rows in written.items()} if role == "train" else {}
            writing = SplitWriting(looked_for, folder / f"{role}.jsonl", evaluation)
            try:
                chosen = choose(reader, source, name, data)
                report = partial(report_progress, progress, role, chosen.rows, reader)
                splits[role], written[role] = writing.write(chosen, report)
            except BadFile as error:
                problems.append(f"Split '{name}' of '{data.source}': {error}")
                continue
            opened.callback(written[role].close)
            if data.on_bad_row == "fail":
                problems += [
                    f"Split '{name}' of '{data.source}': {describe_bad_rows(bad)}" for bad in unfit(splits[role])
                ]
            problems += too_few(role, name, splits[role])
        fetched = reader.fetched_bytes
    if problems:
        raise BadRequest(problems, "Mend the rows, or set data.on_bad_row=drop to leave them out.")
    splits = {role: splits[role] for role in ("train", "validation", "test")}
    return PreparedData(
        source=data.source, revision=pinned.revision, selection=data.selection, splits=splits, fetched_bytes=fetched
    )


def report_progress(progress: Progress, role: str, rows: int | None, reader: Reader, done: int) -> None:
    progress(role, done, rows, reader.fetched_bytes)


def choose(reader: Reader, source: Source, split: str, data: Data) -> Chosen:
    """The chosen rows of a split.

    Raises:
        BadFile: a file cannot be read.
    """
    files = source.splits[split]
    if data.selection == "hash" and data.fraction < 1:
        every = (batch for file in files for batch in reader.batches(file, None))
        return Chosen((choose_by_digest(batch, data.seed, data.fraction) for batch in every), None)
    counts = [reader.count_rows(file) for file in files]
    # As `datasets` rounds a percent slice, but never to nothing.
    rows = max(round(sum(counts) * data.fraction), min(sum(counts), 1))

    def leading() -> Iterator[Batch]:
        left = rows
        for file, count in zip(files, counts, strict=True):
            for batch in reader.batches(file, min(left, count)) if left else ():
                taken = batch if len(batch) <= left else batch.only(range(left))
                left -= len(taken)
                yield taken
                if not left:
                    return

    return Chosen(leading(), rows)


def choose_by_digest(batch: Batch, seed: int, fraction: float) -> Batch:
    """The rows whose digest falls below the fraction; that of messages is the same in any file and format."""
    digests = [xxhash.xxh3_64_intdigest(messages, seed) for messages in encode_messages(batch.conversations)]
    return batch.only([number for number, digest in enumerate(digests) if digest < fraction * UINT64_VALUES])


def load_tokenizer(pinned: PinnedData) -> "Tokenizer":
    """The tokenizer that is named.

    Raises:
        BadRequest: its file is none.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(pinned.tokenizer_file)
    # The package raises nothing narrower.
    except Exception as error:
        detail = " ".join(str(error).split())[:200]
        problem = f"data.tokenizer '{pinned.data.tokenizer}': {pinned.tokenizer_file} is not readable: {detail}."
        raise BadRequest([problem], "Name a folder that save_pretrained wrote, or leave data.tokenizer out.") from error


def load_scanner(data: Data) -> "Scanner | None":
    """The scanner for personal data and secrets, if it is wanted."""
    if data.privacy == "off":
        return None
    from chatdata.privacy import load_scanner as load

    return load()


def unfit(split: Split) -> list[BadRows]:
    """What was found of the kinds that make a row unfit."""
    return [bad for bad in split.bad_rows if bad.kind not in checks.ONLY_COUNTED]


def describe_bad_rows(bad: BadRows) -> str:
    return f"{bad.rows} row(s): {bad.kind}, e.g. {'; '.join(bad.examples)}."


def too_few(role: str, name: str, split: Split) -> list[str]:
    """A sentence when the component would refuse the file for having too few rows."""
    needed = MINIMUM_TRAINING_ROWS if role == "train" else 1
    if split.rows >= needed:
        return []
    return [
        f"Split '{name}' has {split.rows} usable row(s), {role} needs at least {needed}. "
        "Raise data.fraction or choose another split."
    ]

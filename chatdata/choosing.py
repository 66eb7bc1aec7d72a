"""Which rows of a split are used: those of its role, where rows are held out for others, and of these a share.

Rows are held out by a digest of what the conversation says, without case, spaces and punctuation, so a row keeps its
side when others are added, and its repetitions are on the same side. First rows are held out, then `data.fraction` of
each part is taken.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import orjson
import polars as pl
import xxhash

from chatdata.conversations import Conversation, encode_messages
from chatdata.reading import Batch, Reader
from chatdata.source_files import Source, SourceFile, SourceSplit
from chatdata.splits import ROLES, Role
from chatdata.writing import Chosen
from retune.data_settings import Data
from retune.waiting import pause

UINT64_VALUES = 2**64
SALT = b"held out of training\0"
# The component needs so many rows to train on.
MINIMUM_TRAINING_ROWS = 10


class HeldOut(NamedTuple):
    """How the rows of one split are shared among roles."""

    split: SourceSplit
    # For each file a number for each row, the position of its role in ROLES.
    sides: dict[str, np.ndarray]

    @property
    def all_rows(self) -> int:
        return sum(map(len, self.sides.values()))

    def rows(self, role: Role) -> int:
        return sum(int((sides == ROLES.index(role)).sum()) for sides in self.sides.values())


def hold_out(reader: Reader, source: Source, data: Data) -> dict[Role, HeldOut]:
    """The shared split of each role that has no split of its own, and of the split to train on, which it is held out
    from; empty where every role has one.

    Raises:
        BadFile: a file cannot be read.
    """
    missing: list[Role] = [role for role in ROLES if role not in source.splits]
    if not missing:
        return {}
    split = source.splits["train"]
    reader.fetch_whole(split.files)
    shares: dict[Role, float] = {"validation": data.validation_fraction, "test": data.test_fraction}
    digests = {file.path: digest_file(reader, file, data.seed) for file in split.files}
    whole = [digest for part in digests.values() for digest in part]
    readable = np.array([digest is not None for digest in whole], dtype=bool)
    # A row that could not be read says nothing by which to hold it out.
    sides = np.full(len(whole), ROLES.index("train"), dtype=np.uint8)
    values = np.array([digest for digest in whole if digest is not None], dtype=np.uint64)
    sides[readable] = share_out(values, {role: shares[role] for role in missing})
    ends = np.cumsum([len(part) for part in digests.values()])[:-1]
    held = HeldOut(split, dict(zip(digests, np.split(sides, ends), strict=True)))
    roles: list[Role] = [*missing, "train"]
    return dict.fromkeys(roles, held)


def digest_file(reader: Reader, file: SourceFile, seed: int) -> list[int | None]:
    """A digest of what each row of a file says; None for a row that could not be read."""
    digests: list[int | None] = []
    for batch in reader.batches(file, None):
        pause(0)
        unread = {*batch.broken}
        if not isinstance(batch.conversations, pl.Series):
            unread |= {number for number, row in enumerate(batch.conversations) if row.messages is None}
        digests += [
            None if number in unread else xxhash.xxh3_64_intdigest(SALT + text.encode(), seed)
            for number, text in enumerate(spoken(batch))
        ]
    return digests


def spoken(batch: Batch) -> pl.Series:
    """The letters and digits of each row's messages; of a row without any, the row as it is."""
    if isinstance(batch.conversations, pl.Series):
        contents = pl.col("messages").list.eval(pl.element().struct.field("content")).list.join("\n")
        texts = pl.DataFrame({"messages": batch.conversations}).select(text=contents)
    else:
        texts = pl.DataFrame(
            {"text": [text_of(conversation) for conversation in batch.conversations]}, {"text": pl.String}
        )
    text = pl.col("text").fill_null("")
    letters = text.str.normalize("NFKC").str.to_lowercase().str.replace_all(r"[^\pL\pN]+", "")
    return texts.select(pl.when(letters == "").then(text).otherwise(letters)).to_series()


def text_of(conversation: Conversation) -> str:
    """All that a conversation says, its calls included; of one that is none, what it is instead."""
    messages, _ = conversation
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return repr(messages).encode(errors="replace").decode()
    texts = [message[name] for message in messages for name in ("content", "tool_calls") if message.get(name)]
    joined = "\n".join(text if isinstance(text, str) else orjson.dumps(text, default=str).decode() for text in texts)
    return joined.encode(errors="replace").decode()


def share_out(digests: np.ndarray, shares: Mapping[Role, float]) -> np.ndarray:
    """The role of each row, as its position in ROLES: for each role with a share, the rows whose digests fall into it.

    Of few rows a role gets those with the lowest digest if it would else get none, and no more if too few would be left
    to train on.
    """
    sides = np.full(len(digests), ROLES.index("train"), dtype=np.uint8)
    start = 0.0
    for role, share in shares.items():
        end = start + share
        within = (digests >= np.uint64(start * UINT64_VALUES)) & (digests < np.uint64(end * UINT64_VALUES))
        sides[within] = ROLES.index(role)
        start = end
    training = int((sides == ROLES.index("train")).sum())
    few = training < MINIMUM_TRAINING_ROWS
    lowest = np.unique(digests)[: len(shares)]
    for role, digest in zip(shares, lowest, strict=False):
        if few:
            sides[sides == ROLES.index(role)] = ROLES.index("train")
        if not (sides == ROLES.index(role)).any():
            sides[digests == digest] = ROLES.index(role)
    return sides


def choose(reader: Reader, split: SourceSplit, data: Data, role: Role, held: HeldOut | None) -> Chosen:
    """The chosen rows of a role.

    Raises:
        BadFile: a file cannot be read.
    """
    hashed = data.selection == "hash" and data.fraction < 1
    if held is None and not hashed:
        counts = [reader.count_rows(file) for file in split.files]
        rows = leading_rows(sum(counts), data.fraction)
        return Chosen(take(leading(reader, split.files, counts, rows), rows), rows)
    batches = (batch for file in split.files for batch in reader.batches(file, None))
    if held is not None:
        batches = (batch for file in split.files for batch in batches_of(reader, file, role, held))
    if hashed:
        return Chosen((choose_by_digest(batch, data.seed, data.fraction) for batch in batches), None)
    rows = leading_rows(held.rows(role) if held else 0, data.fraction)
    return Chosen(take(batches, rows), rows)


def leading_rows(count: int, fraction: float) -> int:
    """How many rows a share is: as `datasets` rounds a percent slice, but never nothing."""
    return max(round(count * fraction), min(count, 1))


def leading(reader: Reader, files: list[SourceFile], counts: list[int], rows: int) -> Iterator[Batch]:
    """Batches with the leading rows of files, and no files beyond."""
    for file, count in zip(files, counts, strict=True):
        if rows > 0:
            yield from reader.batches(file, min(rows, count))
        rows -= count


def batches_of(reader: Reader, file: SourceFile, role: Role, held: HeldOut) -> Iterator[Batch]:
    """The rows of a file that are a role's."""
    sides, start = held.sides[file.path], 0
    for batch in reader.batches(file, None):
        positions = np.flatnonzero(sides[start : start + len(batch)] == ROLES.index(role))
        start += len(batch)
        if len(positions):
            yield batch.only(positions.tolist())


def take(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    """The first rows of batches."""
    for batch in batches if rows else ():
        taken = batch if len(batch) <= rows else batch.only(range(rows))
        rows -= len(taken)
        yield taken
        if not rows:
            return


def choose_by_digest(batch: Batch, seed: int, fraction: float) -> Batch:
    """The rows whose digest falls below the fraction; that of messages is the same in any file and format."""
    digests = [xxhash.xxh3_64_intdigest(messages, seed) for messages in encode_messages(batch.conversations)]
    return batch.only([number for number, digest in enumerate(digests) if digest < fraction * UINT64_VALUES])

"""Rows that repeat an earlier row of their split, or a row of an evaluation split: exactly, or nearly.

Exactly: the same roles and texts. Nearly: `is_near_duplicate` says so. Comparing each row with all others would take
too long, so only rows are compared that share two of the four ends (beginning and end) of their two longest turns. A
near duplicate that differs in three of these four is missed.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import orjson
import polars as pl

from chatdata import checks
from retune.waiting import pause

COMPARED_WORDS = 50
SIMILARITY = 0.9
# Of each end, so many letters and digits, looked for in so many characters.
END_LETTERS, END_CHARACTERS = 40, 64
# A single shared end is weak evidence: many chats open alike.
SHARED_ENDS = 2
# An end that so many dissimilar rows share (a template's first words) is no evidence at all.
DISSIMILAR_ROWS = 4


def is_near_duplicate(first: list[dict[str, object]], second: list[dict[str, object]]) -> bool:
    """Whether two conversations have the same words, or, with 50 words or more, a Jaccard similarity of at least 0.9
    over the sequences of three words, repeated ones counted as often as they occur."""
    words, others = (
        re.findall(r"\w+", " ".join(message["content"] for message in messages).casefold())
        for messages in (first, second)
    )
    if words == others:
        return True
    few, many = sorted((len(words), len(others)))
    # Texts of such different lengths cannot be that similar.
    if few < COMPARED_WORDS or few < SIMILARITY * many:
        return False
    sequences, other_sequences = (Counter(zip(text, text[1:], text[2:], strict=False)) for text in (words, others))
    shared = (sequences & other_sequences).total()
    return shared >= SIMILARITY * (sequences.total() + other_sequences.total() - shared)


def ends_of(texts: pl.Expr) -> pl.Expr:
    """Digests of the beginning and the end of each text of a list, without case, spaces and punctuation."""

    def letters(text: pl.Expr) -> pl.Expr:
        return text.str.to_lowercase().str.replace_all(r"[^\pL\pN]+", "")

    heads = letters(pl.element().str.head(END_CHARACTERS)).str.head(END_LETTERS).hash(seed=0)
    tails = letters(pl.element().str.tail(END_CHARACTERS)).str.tail(END_LETTERS).hash(seed=1)
    return pl.concat_list(texts.list.eval(heads), texts.list.eval(tails))


def select_candidates(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that may repeat another one, with the ends that they share; (row, exact, shared)."""
    shared = (
        rows.select("row", shared="ends")
        .explode("shared")
        .filter(pl.col("shared").is_duplicated())
        .group_by("row", maintain_order=True)
        .agg("shared")
        .filter(pl.col("shared").list.len() >= SHARED_ENDS)
    )
    return (
        rows.select("row", "exact", pl.col("exact").is_duplicated().alias("repeated"))
        .join(shared, on="row", how="left", maintain_order="left")
        .filter(pl.col("repeated") | pl.col("shared").is_not_null())
        .select("row", "exact", pl.col("shared").fill_null([]))
    )


class RowLocation(NamedTuple):
    """Where a row stands in the source."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


class WrittenRows:
    """The rows of a prepared file, which can be read again one by one.

    `rows` has, in the file's order: file, number, size, exact, ends, and more.
    """

    def __init__(self, path: Path, rows: pl.DataFrame) -> None:
        self.path, self.rows = path, rows
        self._offsets = rows["size"].cum_sum() - rows["size"]
        self._file: IO[bytes] | None = None

    def close(self) -> None:
        """The rows are not read any more."""
        if self._file is not None:
            self._file.close()

    def location(self, row: int) -> RowLocation:
        """Where a row stands in the source."""
        return RowLocation(self.rows["file"][row], self.rows["number"][row])

    def messages(self, row: int) -> list[dict[str, object]]:
        """The conversation of a row."""
        if self._file is None:
            self._file = self.path.open("rb")
        self._file.seek(self._offsets[row])
        return orjson.loads(self._file.readline())["messages"]


class Compared:
    """The rows of one file that later rows are compared with."""

    def __init__(self, file: WrittenRows) -> None:
        self.file = file
        # The first row that has a digest or an end.
        self._exact: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        # How often two rows that share an end were not alike.
        self._dissimilar: Counter[int] = Counter()

    def add(self, row: int, exact: int, ends: list[int]) -> None:
        """Later rows are compared with this one too."""
        self._exact.setdefault(exact, row)
        for end in ends:
            self._ends.setdefault(end, row)

    def find_same(self, exact: int) -> int | None:
        """The row with this digest."""
        return self._exact.get(exact)

    def find_near(self, ends: list[int], messages: list[dict[str, object]]) -> int | None:
        """A row with two of these ends of which the messages are a near duplicate."""
        holders = [self._ends.get(end) for end in ends]
        for row in dict.fromkeys(holders):
            shared = [end for end, holder in zip(ends, holders, strict=True) if holder == row]
            if row is None or len(shared) < SHARED_ENDS:
                continue
            if any(self._dissimilar[end] > DISSIMILAR_ROWS for end in shared):
                continue
            if is_near_duplicate(messages, self.file.messages(row)):
                return row
            self._dissimilar.update(shared)
        return None


def find_repetitions(file: WrittenRows, evaluation: dict[str, WrittenRows]) -> Iterator[tuple[int, str, str]]:
    """Row, kind and detail of each row of a file that repeats an earlier one, or one of the evaluation splits, by their
    kinds."""
    files = {checks.DUPLICATE: file, **evaluation}
    keys = [
        written.rows.select("exact", "ends", kind=pl.lit(kind), number=pl.int_range(pl.len()))
        for kind, written in files.items()
    ]
    everything = pl.concat(keys).with_row_index("row")
    suspects = select_candidates(everything).join(
        everything.select("row", "kind", "number"), on="row", maintain_order="left"
    )
    columns = ("number", "exact", "shared")
    compared = {kind: Compared(written) for kind, written in files.items()}
    for kind in evaluation:
        for number, exact, ends in suspects.filter(kind=kind).select(columns).iter_rows():
            compared[kind].add(number, exact, ends)
    for number, exact, ends in suspects.filter(kind=checks.DUPLICATE).select(columns).iter_rows():
        pause(0)
        if problem := find_repeated(file, number, exact, ends, compared):
            yield number, *problem
        else:
            compared[checks.DUPLICATE].add(number, exact, ends)


def find_repeated(
    file: WrittenRows, number: int, exact: int, ends: list[int], compared: dict[str, Compared]
) -> tuple[str, str] | None:
    """Kind and detail of the row that a row repeats: one that is the same, else one that is nearly the same."""
    for kind, others in compared.items():
        if (row := others.find_same(exact)) is not None:
            return kind, f"of {others.file.location(row)}"
    if len(ends) < SHARED_ENDS:
        return None
    messages = file.messages(number)
    for kind, others in compared.items():
        if (row := others.find_near(ends, messages)) is not None:
            near = checks.NEAR_DUPLICATE if kind == checks.DUPLICATE else kind
            return near, f"nearly {others.file.location(row)}"
    return None

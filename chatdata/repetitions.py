"""Rows that repeat an earlier row of their split, or a row of an evaluation split: exactly, or nearly.

Exactly: the same roles and texts. Nearly: `is_near_duplicate` says so of the words that differ beyond a template that
many rows share (`chatdata.templates`). Comparing each row with all others would take too long. Only rows are compared
that share two of the four ends (beginning and end) of their two longest turns, of ends that few rows have. A near
duplicate that differs in three of these four is missed. A row whose ends are a template's is compared by what is left
without it.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

import polars as pl

from chatdata import checks
from chatdata.templates import NO_TEMPLATE, Template, Templates, is_near_duplicate, words_of
from chatdata.written import WrittenRows
from retune.waiting import pause

# Of each end, so many letters and digits, looked for in so many characters.
END_LETTERS, END_CHARACTERS = 40, 64
# A single shared end is weak evidence: many chats open alike.
SHARED_ENDS = 2
# An end that more different rows share is a template's; among few rows, one that more than a share of them have.
CROWD, CROWD_SHARE, SMALLEST_CROWD = 8, 0.25, 2
# A row with so many of them is compared by what is left without the template.
CROWDED_ENDS = 2
# Only exact repetitions are found of a conversation with more characters: its words alone would fill the memory.
COMPARED_CHARACTERS = 1_000_000
# An end that so many dissimilar rows share is no evidence at all.
DISSIMILAR_ROWS = 4


def ends_of(texts: pl.Expr) -> pl.Expr:
    """Digests of the beginning and the end of each text of a list, without case, spaces and punctuation."""

    def letters(text: pl.Expr) -> pl.Expr:
        return text.str.to_lowercase().str.replace_all(r"[^\pL\pN]+", "")

    heads = letters(pl.element().str.head(END_CHARACTERS)).str.head(END_LETTERS).hash(seed=0)
    tails = letters(pl.element().str.tail(END_CHARACTERS)).str.tail(END_LETTERS).hash(seed=1)
    return pl.concat_list(texts.list.eval(heads), texts.list.eval(tails))


class Suspect(NamedTuple):
    """A row that may repeat another."""

    number: int
    exact: int
    # The ends that it shares with few rows, and the one that it shares with most if that is a template's.
    ends: list[int]
    crowd: int | None
    crowded: int


def select_candidates(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that may repeat another one; (row, exact, ends, crowd, crowded) as in Suspect."""
    shared = (
        rows.select("row", "exact", end="ends").explode("end").filter(pl.col("end").is_duplicated()).drop_nulls("end")
    )
    limit = min(CROWD, max(SMALLEST_CROWD, CROWD_SHARE * len(rows)))
    crowds = shared.group_by("end").agg(different=pl.col("exact").n_unique()).filter(pl.col("different") > limit)
    of_row = (
        shared.join(crowds, on="end", how="left", maintain_order="left")
        .group_by("row", maintain_order=True)
        .agg(
            ends=pl.col("end").filter(pl.col("different").is_null()),
            crowd=pl.col("end")
            .filter(pl.col("different").is_not_null())
            .sort_by(pl.col("different").drop_nulls())
            .last(),
            crowded=pl.col("different").count(),
        )
    )
    near = (pl.col("ends").list.len() >= SHARED_ENDS) | (pl.col("crowded") >= CROWDED_ENDS)
    return (
        rows.select("row", "exact", pl.col("exact").is_duplicated().alias("repeated"))
        .join(of_row.filter(near), on="row", how="left", maintain_order="left")
        .filter(pl.col("repeated") | pl.col("ends").is_not_null())
        .select("row", "exact", pl.col("ends").fill_null([]), "crowd", pl.col("crowded").fill_null(0))
    )


class Compared:
    """The rows of one file that later rows are compared with."""

    def __init__(self, file: WrittenRows, templates: Templates) -> None:
        self.file, self._templates = file, templates
        # The first row that has a digest, or an end or what is left without the template.
        self._exact: dict[int, int] = {}
        self._keys: dict[int, int] = {}
        # How often two rows that share an end were not alike.
        self._dissimilar: Counter[int] = Counter()

    def add(self, row: Suspect, keys: list[int]) -> None:
        """Later rows are compared with this one too."""
        self._exact.setdefault(row.exact, row.number)
        for key in keys:
            self._keys.setdefault(key, row.number)

    def find_same(self, exact: int) -> int | None:
        """The row with this digest."""
        return self._exact.get(exact)

    def find_near(self, keys: list[int], needed: int, words: list[str], template: Template) -> int | None:
        """A row with so many of these keys whose words are nearly the same beyond the template."""
        holders = [self._keys.get(key) for key in keys]
        for row in dict.fromkeys(holders):
            shared = [key for key, holder in zip(keys, holders, strict=True) if holder == row]
            if row is None or len(shared) < needed:
                continue
            if any(self._dissimilar[key] > DISSIMILAR_ROWS for key in shared):
                continue
            if is_near_duplicate(words, words_of(self.file.messages(row)), template):
                return row
            self._dissimilar.update(shared)
        return None


def find_repetitions(
    file: WrittenRows, evaluation: dict[str, WrittenRows], *, dropped: Collection[str], near: bool = True
) -> Iterator[tuple[int, str, str]]:
    """Row, kind and detail of each row of a file that repeats an earlier one, or one of the evaluation splits, by their
    kinds; with `near`, also of those that nearly do. Rows of the `dropped` kinds will be left out, so that no later row
    is a repetition of one of them; a row of any other kind is kept, and exact copies of it are duplicates."""
    files = {checks.DUPLICATE: file, **evaluation}
    keys = [
        written.rows.select(
            "exact",
            ends=pl.when(pl.col("characters") <= COMPARED_CHARACTERS).then("ends").otherwise([]),
            kind=pl.lit(kind),
            number=pl.int_range(pl.len()),
        )
        for kind, written in files.items()
    ]
    everything = pl.concat(keys).with_row_index("row")
    suspects = select_candidates(everything).join(
        everything.select("row", "kind", "number"), on="row", maintain_order="left"
    )
    templates = Templates(
        (crowd, files[kind], number)
        for crowd, kind, number in suspects.drop_nulls("crowd").select("crowd", "kind", "number").iter_rows()
    )
    compared = {kind: Compared(written, templates) for kind, written in files.items()}
    finder = Finder(file, compared, templates, near)
    for kind, written in evaluation.items():
        for row in suspects_of(suspects, kind):
            compared[kind].add(row, finder.keys(written, row) if near else [])
    for row in suspects_of(suspects, checks.DUPLICATE):
        pause(0)
        problem = finder.find(row)
        if problem is None:
            compared[checks.DUPLICATE].add(row, finder.keys(file, row) if near else [])
            continue
        yield row.number, *problem
        if problem[0] not in dropped:
            compared[checks.DUPLICATE].add(row, [])


def suspects_of(suspects: pl.DataFrame, kind: str) -> Iterator[Suspect]:
    columns = ("number", "exact", "ends", "crowd", "crowded")
    return (Suspect(*row) for row in suspects.filter(kind=kind).select(columns).iter_rows())


class Finder:
    """Finds the row that a row repeats."""

    def __init__(self, file: WrittenRows, compared: dict[str, Compared], templates: Templates, near: bool) -> None:
        self._file, self._compared, self._templates, self._near = file, compared, templates, near

    def keys(self, file: WrittenRows, row: Suspect) -> list[int]:
        """What a row shares with those that it may nearly repeat: ends, or what is left without the template."""
        if row.crowd is None or row.crowded < CROWDED_ENDS:
            return row.ends
        return self._templates.of(row.crowd).keys(words_of(file.messages(row.number)))

    def find(self, row: Suspect) -> tuple[str, str] | None:
        """Kind and detail of the row that a row repeats: one that is the same, else one that is nearly the same."""
        for kind, others in self._compared.items():
            if (same := others.find_same(row.exact)) is not None:
                return kind, f"of {others.file.location(same)}"
        if not self._near or (row.crowded < CROWDED_ENDS and len(row.ends) < SHARED_ENDS):
            return None
        needed = 1 if row.crowded >= CROWDED_ENDS else SHARED_ENDS
        words = words_of(self._file.messages(row.number))
        template = NO_TEMPLATE if row.crowd is None else self._templates.of(row.crowd)
        keys = template.keys(words) if row.crowded >= CROWDED_ENDS else row.ends
        for kind, others in self._compared.items():
            if (nearly := others.find_near(keys, needed, words, template)) is not None:
                return checks.NEARLY[kind], f"nearly {others.file.location(nearly)}"
        return None

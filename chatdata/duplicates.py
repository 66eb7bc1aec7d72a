"""Conversations that were there before: the same, or nearly the same.

The same: the same roles and texts. Nearly the same: equal but for case, spaces and punctuation, or, from 50 words on, a
Jaccard similarity of at least 0.9 over the runs of three words. A candidate shares two of the four ends of its two
longest turns with an earlier row; it is then compared in full with that row, which is read back from the file that it
was written to. Nothing is called a near duplicate by chance; one that was changed at three of the four ends is missed.

Memory: about 100 bytes a row.
"""

import itertools
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import orjson

from chatdata.turns import ENDS
from chatdata.words import alike

# One alone is often a common opening.
COMMON_ENDS = 2
# What so many different rows share (a common system text, a template's first words) says nothing.
DIFFERENT_ROWS = 4
# Of a key, for its byte and its bit in a table of 4 MB.
BYTE_BITS, BIT_BITS = 22, 3
# More rows than a file has.
NUMBERS = 1 << 40


class SeenKeys:
    """64-bit keys with the number of the row that first had each; sorted runs of doubling size, 12 bytes a key."""

    def __init__(self) -> None:
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []
        # Most keys are new; a table of their leading bits tells that sooner than a search.
        self._there = np.zeros(1 << BYTE_BITS, np.uint8)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The row of each key, -1 where it is new."""
        rows = np.full(len(keys), -1, dtype=np.int64)
        places, bits = table_bits(keys)
        perhaps = np.flatnonzero(self._there[places] & bits)
        # In order, so that the search stays in the processor's cache.
        perhaps = perhaps[np.argsort(keys[perhaps])]
        sought = keys[perhaps]
        for known, holders in self._runs:
            places = np.searchsorted(known, sought)
            places[places == len(known)] = 0
            hit = known[places] == sought
            rows[perhaps[hit]] = holders[places[hit]]
        return rows

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Takes keys with their rows; of equal ones the first."""
        if not len(keys):
            return
        places, bits = table_bits(keys)
        np.bitwise_or.at(self._there, places, bits)
        keys, first = np.unique(keys, return_index=True)
        run = keys, rows[first].astype(np.uint32)
        while self._runs and len(self._runs[-1][0]) <= len(run[0]):
            before = self._runs.pop()
            run = sorted_run(np.concatenate([before[0], run[0]]), np.concatenate([before[1], run[1]]))
        self._runs.append(run)


def table_bits(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The byte of each key in a table, and its bit in that byte."""
    places = (keys >> np.uint64(64 - BYTE_BITS)).astype(np.int64)
    bits = (keys >> np.uint64(64 - BYTE_BITS - BIT_BITS)).astype(np.uint8) & ((1 << BIT_BITS) - 1)
    return places, np.left_shift(np.uint8(1), bits)


def sorted_run(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    return keys[order], rows[order]


class Place(NamedTuple):
    """Where a row stands in the source."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


class Conversation(NamedTuple):
    """A row as it is compared."""

    place: Place
    # Those of its batch, and its number among them.
    rows: Sequence[list[dict[str, object]]]
    number: int
    exact: int
    ends: tuple[int, ...]


class WrittenRows:
    """The rows that one file holds so far, and what is needed to find a row again among them.

    Rows are numbered as they are written. Those of the batch that is being looked at are held as they are, until the
    batch is added. `await_file` returns when the file holds the batch of the row that begins at an offset.
    """

    def __init__(self, path: Path, await_file: Callable[[int], None]) -> None:
        self._path, self._await_file = path, await_file
        self._file: IO[bytes] | None = None
        self._exact, self._ends = SeenKeys(), SeenKeys()
        self._offsets, self._numbers, self._files = array("Q"), array("I"), array("H")
        self._names: list[str] = []
        self._different: Counter[int] = Counter()
        # Those of these keys that too many rows share.
        self._common: set[int] = set()
        self._held: dict[int, Conversation] = {}
        self._held_exact: dict[int, int] = {}
        self._held_ends: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._offsets)

    def close(self) -> None:
        """Nothing is compared with these rows any more."""
        if self._file is not None:
            self._file.close()

    def place(self, row: int) -> Place:
        """Where a row stands in the source."""
        if row in self._held:
            return self._held[row].place
        return Place(self._names[self._files[row]], self._numbers[row])

    def lookup(self, batch: "Keys") -> "Lookup":
        """What earlier batches hold of the keys of a batch."""
        return Lookup(self._exact.find(batch.exact), self._ends.find(batch.ends.ravel()).reshape(batch.ends.shape))

    def hold(self, row: int, conversation: Conversation) -> None:
        """Takes a row of the present batch, which later ones of the batch may be like."""
        self._held[row] = conversation
        self._held_exact[conversation.exact] = row
        for key in conversation.ends:
            self._held_ends.setdefault(key, row)

    def add(self, keys: "Keys", file: str, numbers: Sequence[int], sizes: Sequence[int], offset: int) -> None:
        """Takes rows of the present batch, which stand in a file at these numbers, as they are written from the offset
        on."""
        self._held, self._held_exact, self._held_ends = {}, {}, {}
        if not numbers:
            return
        rows = np.arange(len(self), len(self) + len(numbers))
        if not self._names or self._names[-1] != file:
            self._names.append(file)
        self._offsets.extend(itertools.accumulate(sizes[:-1], initial=offset))
        self._numbers.extend(numbers)
        self._files.extend([len(self._names) - 1] * len(numbers))
        self._exact.add(keys.exact, rows)
        ends, rows = keys.ends.ravel(), rows.repeat(ENDS)
        if self._common:
            telling = np.isin(ends, np.array(list(self._common), np.uint64), invert=True)
            ends, rows = ends[telling], rows[telling]
        self._ends.add(ends, rows)

    def same(self, conversation: Conversation, found: int) -> int | None:
        """The row that is the same; `found` is what the lookup said."""
        return int(found) if found >= 0 else self._held_exact.get(conversation.exact)

    def nearly_same(self, conversation: Conversation, found: np.ndarray) -> int | None:
        """The row that is nearly the same; `found` is what the lookup said for each end."""
        rows = [
            known if known >= 0 else self._held_ends.get(key, -1)
            for key, known in zip(conversation.ends, found.tolist(), strict=True)
        ]
        for row in set(rows):
            if row < 0 or rows.count(row) < COMMON_ENDS:
                continue
            keys = [key for key, holder in zip(conversation.ends, rows, strict=True) if holder == row]
            if self._common.intersection(keys):
                continue
            if alike(conversation.rows[conversation.number], self._messages(row)):
                return row
            self._different.update(keys)
            self._common.update(key for key in keys if self._different[key] > DIFFERENT_ROWS)
        return None

    def _messages(self, row: int) -> list[dict[str, object]]:
        if held := self._held.get(row):
            return held.rows[held.number]
        self._await_file(self._offsets[row])
        if self._file is None:
            self._file = self._path.open("rb")
        self._file.seek(self._offsets[row])
        return orjson.loads(self._file.readline())["messages"]


class Keys(NamedTuple):
    """The keys of a batch's rows, as columns: (rows,) and (rows, ENDS)."""

    exact: np.ndarray
    ends: np.ndarray

    def only(self, wanted: np.ndarray) -> "Keys":
        """The keys of some of the rows; `wanted` is (rows,) of bool."""
        return Keys(self.exact[wanted], self.ends[wanted])


class Lookup(NamedTuple):
    """Rows of earlier batches that have the keys of a batch, in the same shapes; -1 where there is none."""

    exact: np.ndarray
    ends: np.ndarray


def worth_comparing(batch: Keys, own: Lookup, others: list[Lookup]) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a batch may be like a row before them, and which ones others of the batch may be like.

    The first have their digest, or enough of their ends, in common with one row; `own` is about the file that the
    batch goes to.
    """
    first, repeated = firsts(batch.exact)
    same = first < np.arange(len(first))
    ends, shared = (found.reshape(batch.ends.shape) for found in firsts(batch.ends.ravel()))
    # In this batch, the row that has an end first; a row does not count for itself.
    here = np.where(ends // ENDS < np.arange(len(first))[:, None], ends // ENDS, -1)
    # Rows of the batch get the numbers after those of all rows that the file holds.
    own_ends = np.where(own.ends >= 0, own.ends, np.where(here >= 0, here + NUMBERS, -1))
    for exact, holders in [(own.exact, own_ends), *others]:
        same |= exact >= 0
        holders = np.sort(holders, axis=1)
        same |= ((holders[:, 1:] == holders[:, :-1]) & (holders[:, 1:] >= 0)).any(axis=1)
    return same, repeated | (shared.sum(axis=1) >= COMMON_ENDS)


def firsts(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first place that holds the same key, for each place, and whether there are several."""
    first, several = np.arange(len(keys)), np.zeros(len(keys), bool)
    ordered = np.sort(keys)
    # Most occur once.
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        places = np.flatnonzero(np.isin(keys, repeated))
        _, leaders, groups = np.unique(keys[places], return_index=True, return_inverse=True)
        first[places], several[places] = places[leaders[groups]], True
    return first, several

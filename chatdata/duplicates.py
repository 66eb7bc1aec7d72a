"""Conversations that were there before: the same, or nearly the same.

The same: the same roles and texts. Nearly the same: what chatdata.words calls alike. A candidate shares two of the
four ends of its two longest turns with an earlier row; it is then compared in full with that row, which is read back
from the file that it was written to. Nothing is called a near duplicate by chance; one that was changed at three of the
four ends is missed.

Memory: 120 to 190 bytes a row.
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
# Of a new table of keys, and how it grows when it has fewer slots than this for a key.
SLOTS, SLOTS_PER_KEY, GROWTH = 1 << 18, 2, 2
# Keys that are entered at a time: what that takes in memory does not grow with the table.
ENTERED = 1 << 14
# More rows than a file has.
NUMBERS = 1 << 40


class SeenKeys:
    """64-bit keys with the number of the row that first had each: a hash table in arrays, 20 to 34 bytes a key."""

    def __init__(self) -> None:
        self._count, self._keys, self._rows = 0, np.zeros(0, np.uint64), np.zeros(0, np.uint32)
        # One more than the place of a key among all; 0 in a free slot.
        self._slots = np.zeros(SLOTS, np.int32)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The row of each key, -1 where it is new."""
        rows = np.full(len(keys), -1, np.int64)
        numbers, slots = np.arange(len(keys)), self._first_slots(keys)
        while len(numbers):
            places = self._slots[slots]
            taken = np.flatnonzero(places)
            numbers, slots, places = numbers[taken], slots[taken], places[taken] - 1
            same = self._keys[places] == keys[numbers]
            rows[numbers[same]] = self._rows[places[same]]
            numbers, slots = self._next_slots(keys, numbers, slots, ~same)
        return rows

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Takes keys with their rows; of equal ones the first."""
        begin, end = self._count, self._count + len(keys)
        if end > len(self._keys):
            self._keys, self._rows = (with_room(kept, end + end // 2) for kept in (self._keys, self._rows))
        self._keys[begin:end], self._rows[begin:end], self._count = keys, rows, end
        if end * SLOTS_PER_KEY > len(self._slots):
            self._slots = np.zeros(GROWTH * len(self._slots), np.int32)
            begin = 0
        for start in range(begin, end, ENTERED):
            self._enter(start, min(start + ENTERED, end))

    def _enter(self, begin: int, end: int) -> None:
        """Give each of these keys that is new a slot."""
        keys = self._keys[begin:end]
        numbers, slots = np.arange(len(keys)), self._first_slots(keys)
        while len(numbers):
            free = np.flatnonzero(self._slots[slots] == 0)[::-1]
            # Of several that want one slot the last that is written gets it, which is the first of them.
            self._slots[slots[free]] = begin + 1 + numbers[free]
            others = self._keys[self._slots[slots] - 1] != keys[numbers]
            numbers, slots = self._next_slots(keys, numbers, slots, others)

    def _first_slots(self, keys: np.ndarray) -> np.ndarray:
        """The slot where the search for each key begins."""
        return (keys >> np.uint64(65 - len(self._slots).bit_length())).astype(np.int64)

    def _next_slots(
        self, keys: np.ndarray, numbers: np.ndarray, slots: np.ndarray, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of those keys whose search goes on, and its next slot: the trailing bits say how far away."""
        numbers = numbers[wanted]
        return numbers, slots[wanted] + (keys[numbers] | 1).astype(np.int64) & len(self._slots) - 1


def with_room(kept: np.ndarray, size: int) -> np.ndarray:
    """An array of that size that begins with another one; the rest takes no memory until it is written."""
    roomy = np.empty(size, kept.dtype)
    roomy[: len(kept)] = kept
    return roomy


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

    @property
    def messages(self) -> list[dict[str, object]]:
        """Of a column they are made each time."""
        return self.rows[self.number]


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
            if alike(conversation.messages, self._messages(row)):
                return row
            self._different.update(keys)
            self._common.update(key for key in keys if self._different[key] > DIFFERENT_ROWS)
        return None

    def _messages(self, row: int) -> list[dict[str, object]]:
        if held := self._held.get(row):
            return held.messages
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

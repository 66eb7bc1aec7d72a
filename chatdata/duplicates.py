"""Conversations that were there before: the same, or nearly the same.

The same: the same roles and texts. Nearly the same: equal but for case, spaces and punctuation, or, from 50 words on, a
Jaccard similarity of at least 0.9 over the runs of three words. A candidate shares two of the four ends of its two
longest turns with an earlier row; it is then compared in full with that row, which is read back from the file that it
was written to. Nothing is called a near duplicate by chance; one that was changed at three of the four ends is missed.

Memory: about 100 bytes a row.
"""

import re
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import xxhash

ENDS = 2 * 2
# One alone is often a common opening.
COMMON_ENDS = 2
END_BYTES = 40
# Characters, enough for that many bytes without spaces and punctuation.
END_WINDOW = 96
# ASCII but for NUL, which stands between texts and in none.
NOT_LETTERS = bytes(code for code in range(1, 128) if not chr(code).isalnum())
COMPARED_WORDS = 50
SIMILARITY = 0.9
SHINGLE_WORDS = 3
# What so many different rows share (a common system text, a template's first words) says nothing.
DIFFERENT_ROWS = 4
WORD = re.compile(r"\w+")


class SeenKeys:
    """64-bit keys with the number of the row that first had each; sorted runs of doubling size, 12 bytes a key."""

    def __init__(self) -> None:
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The row of each key, -1 where it is new."""
        rows = np.full(len(keys), -1, dtype=np.int64)
        for known, holders in self._runs:
            places = np.searchsorted(known, keys)
            places[places == len(known)] = 0
            hit = known[places] == keys
            rows[hit] = holders[places[hit]]
        return rows

    def add(self, keys: dict[int, int]) -> None:
        """Takes new keys with their rows."""
        if not keys:
            return
        run = sorted_run(np.fromiter(keys, np.uint64, len(keys)), np.fromiter(keys.values(), np.uint32, len(keys)))
        while self._runs and len(self._runs[-1][0]) <= len(run[0]):
            before = self._runs.pop()
            run = sorted_run(np.concatenate([before[0], run[0]]), np.concatenate([before[1], run[1]]))
        self._runs.append(run)


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

    messages: list[dict[str, object]]
    exact: int
    ends: tuple[int, ...]


class WrittenRows:
    """The rows that one file holds so far, and what is needed to find a row again among them.

    `await_file` returns when the file holds the rows of all batches before the present one.
    """

    def __init__(self, path: Path, await_file: Callable[[], None]) -> None:
        self._path, self._await_file = path, await_file
        self._exact, self._ends = SeenKeys(), SeenKeys()
        self._offsets, self._numbers, self._files = array("Q"), array("I"), array("H")
        self._names: list[str] = []
        self._different: Counter[int] = Counter()
        self._fresh_exact: dict[int, int] = {}
        self._fresh_ends: dict[int, int] = {}
        self._fresh_messages: dict[int, list[dict[str, object]]] = {}

    def place(self, row: int) -> Place:
        """Where a row stands in the source."""
        return Place(self._names[self._files[row]], self._numbers[row])

    def lookup(self, batch: "Keys") -> "Lookup":
        """What earlier batches hold of the keys of a batch."""
        return Lookup(self._exact.find(batch.exact), self._ends.find(batch.ends.ravel()).reshape(batch.ends.shape))

    def add(self, conversation: Conversation, place: Place, offset: int) -> None:
        """Takes a row that is written at the offset."""
        row = len(self._offsets)
        if not self._names or self._names[-1] != place.file:
            self._names.append(place.file)
        self._offsets.append(offset)
        self._numbers.append(place.number)
        self._files.append(len(self._names) - 1)
        self._fresh_exact[conversation.exact] = row
        self._fresh_messages[row] = conversation.messages
        for key in conversation.ends:
            self._fresh_ends.setdefault(key, row)

    def batch_is_written(self) -> None:
        """The rows taken so far are in the file."""
        self._exact.add(self._fresh_exact)
        self._ends.add({key: row for key, row in self._fresh_ends.items() if self._different[key] <= DIFFERENT_ROWS})
        self._fresh_exact, self._fresh_ends, self._fresh_messages = {}, {}, {}

    def same(self, conversation: Conversation, found: int) -> int | None:
        """The row that is the same; `found` is what the lookup said."""
        return int(found) if found >= 0 else self._fresh_exact.get(conversation.exact)

    def nearly_same(self, conversation: Conversation, found: np.ndarray) -> int | None:
        """The row that is nearly the same; `found` is what the lookup said for each end."""
        rows = [
            known if known >= 0 else self._fresh_ends.get(key, -1)
            for key, known in zip(conversation.ends, found.tolist(), strict=True)
        ]
        for row in set(rows):
            if row < 0 or rows.count(row) < COMMON_ENDS:
                continue
            keys = [key for key, holder in zip(conversation.ends, rows, strict=True) if holder == row]
            if any(self._different[key] > DIFFERENT_ROWS for key in keys):
                continue
            if alike(conversation.messages, self._messages(row)):
                return row
            self._different.update(keys)
        return None

    def _messages(self, row: int) -> list[dict[str, object]]:
        if row in self._fresh_messages:
            return self._fresh_messages[row]
        self._await_file()
        with self._path.open("rb") as file:
            file.seek(self._offsets[row])
            return orjson.loads(file.readline())["messages"]


class Keys(NamedTuple):
    """The keys of a batch's rows, as columns: (rows,) and (rows, ENDS)."""

    exact: np.ndarray
    ends: np.ndarray


class Lookup(NamedTuple):
    """Rows of earlier batches that have the keys of a batch, in the same shapes; -1 where there is none."""

    exact: np.ndarray
    ends: np.ndarray


def keys_of(conversations: list[Conversation]) -> Keys:
    """The keys of a batch."""
    ends = np.array([one.ends for one in conversations], np.uint64).reshape(-1, ENDS)
    return Keys(np.array([one.exact for one in conversations], np.uint64), ends)


def worth_comparing(batch: Keys, lookups: list[Lookup]) -> np.ndarray:
    """Which rows of a batch share enough keys with any other row, in it or before it, to be looked at one by one."""
    same, ends = shared(batch.exact), shared(batch.ends.ravel()).reshape(batch.ends.shape)
    for lookup in lookups:
        same, ends = same | (lookup.exact >= 0), ends | (lookup.ends >= 0)
    return same | (ends.sum(axis=1) >= COMMON_ENDS)


def shared(keys: np.ndarray) -> np.ndarray:
    """Which keys are there more than once."""
    _, places, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return counts[places] > 1


def conversation_of(messages: list[dict[str, object]], written: bytes) -> Conversation:
    """A row with its keys; `written` is its messages as JSON."""
    return Conversation(messages, xxhash.xxh3_64_intdigest(written), end_keys(messages))


def end_keys(messages: list[dict[str, object]]) -> tuple[int, ...]:
    """Digests of the beginnings and ends of the two longest turns, without case, spaces and punctuation."""
    texts = sorted([message["content"] for message in messages if message["role"] != "system"], key=len)
    one, two = texts[-1], texts[-2]
    ends = "\0".join((one[:END_WINDOW], one[-END_WINDOW:], two[:END_WINDOW], two[-END_WINDOW:]))
    first, last, second, end = ends.casefold().encode().translate(None, NOT_LETTERS).split(b"\0")
    digest = xxhash.xxh3_64_intdigest
    return (
        digest(first[:END_BYTES]),
        digest(last[-END_BYTES:], 1),
        digest(second[:END_BYTES]),
        digest(end[-END_BYTES:], 1),
    )


def alike(one: list[dict[str, object]], other: list[dict[str, object]]) -> bool:
    """Whether two conversations are nearly the same."""
    first, second = words_of(one), words_of(other)
    if first == second:
        return True
    if min(len(first), len(second)) < COMPARED_WORDS:
        return False
    if min(len(first), len(second)) < SIMILARITY * max(len(first), len(second)):
        return False
    runs, others = shingles(first), shingles(second)
    return (runs & others).total() >= SIMILARITY * (runs | others).total()


def words_of(messages: list[dict[str, object]]) -> list[str]:
    return WORD.findall(" ".join(str(message["content"]) for message in messages).casefold())


def shingles(words: list[str]) -> Counter[tuple[str, ...]]:
    """How often each run of words occurs."""
    return Counter(zip(*(words[start:] for start in range(SHINGLE_WORDS)), strict=False))

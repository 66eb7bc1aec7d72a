"""The turns of many conversations as columns, and what is worked out from them without a loop over rows.

A thread that works on columns leaves the interpreter to others for most of the time.
"""

from collections.abc import Sequence
from itertools import chain, pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa

ROLES = ("system", "user", "assistant", "tool")
SYSTEM, USER, ASSISTANT, _ = range(len(ROLES))

# The beginning and the end of each of the two longest turns.
ENDS = 2 * 2
# Letters and digits of an end.
END_BYTES = 40
# Enough for that many without spaces and punctuation.
WINDOW_BYTES = 64
NUL, SPACE = b"\0", b" "
# ASCII but for NUL, which stands between windows.
NOT_LETTERS = bytes(code for code in range(1, 128) if not chr(code).isalnum())
# A byte of UTF-8 without what tells the two cases of a letter apart, of most letters of the scripts that have cases.
FOLDED = bytes([*bytes(range(128)).lower(), *(0x80 | code & 0x0E for code in range(0x80, 0xC0)), *[0xFF] * 64])
# Odd and irregular: each word of an end is multiplied by another one.
MULTIPLIERS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5, 0x85EBCA77C2B2AE63], np.uint64
)
SHIFT = np.uint64(29)

ROLE, CONTENT = itemgetter("role"), itemgetter("content")
TAB, RETURN, DEL = b"\t\r\x7f"
NOWHERE = np.zeros(0, np.int64)
PART_BYTES = 1 << 18


class Turns(NamedTuple):
    """The turns of conversations, one after the other."""

    # Turns of each conversation; (conversations,) of int.
    counts: np.ndarray
    # Places in ROLES, -1 for another role; (turns,) of int.
    roles: np.ndarray
    # Where each text begins in `text`, and where the last one ends; (turns + 1,) of int64.
    starts: np.ndarray
    # All texts in UTF-8; (bytes,) of uint8, not empty.
    text: np.ndarray


class Marks(NamedTuple):
    """Places in a text in UTF-8 of what is not a printable character of ASCII."""

    # Of C0, but for tab, line feed and carriage return; and DEL.
    controls: np.ndarray
    # Bytes of characters beyond ASCII, and what they are.
    beyond: np.ndarray
    values: np.ndarray


class Conversations(Sequence[list[dict[str, str]]]):
    """The conversations of a column of lists of role and content without a null, each made when it is asked for."""

    def __init__(self, column: pa.ListArray) -> None:
        self.turns = turns_of_column(column)
        self._column = column
        self._firsts = np.cumsum([0, *self.turns.counts]).tolist()
        self._roles = starts_and_text(columns_of(elements(column))["role"])

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: int | slice) -> "list[dict[str, str]] | Conversations":
        if isinstance(row, slice):
            return Conversations(self._column[row])
        row = range(len(self))[row]
        first, last = self._firsts[row : row + 2]
        contents = texts_between(first, last, self.turns.starts, self.turns.text)
        roles = texts_between(first, last, *self._roles)
        return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


def texts_between(first: int, last: int, starts: np.ndarray, text: np.ndarray) -> list[str]:
    """Some of the texts of a column."""
    view = memoryview(text)
    return [str(view[start:end], "utf-8") for start, end in pairwise(starts[first : last + 1].tolist())]


def turns_of_column(conversations: pa.ListArray) -> Turns:
    """The turns of a column of lists of role and content without a null; the texts are not copied."""
    columns = columns_of(elements(conversations))
    roles = numbers_of_roles(*starts_and_text(columns["role"]))
    return Turns(lengths(conversations), roles, *starts_and_text(columns["content"]))


# Columns are read as buffers: pyarrow.compute and pandas, which pyarrow's own methods import for some of this, take as
# long as two batches.
def lengths(lists: pa.ListArray) -> np.ndarray:
    """Elements of each list of a column without a null; (lists,) of int."""
    return np.diff(numbers_of(lists.offsets))


def elements(lists: pa.ListArray) -> pa.Array:
    """Those of all lists of a column without a null, one after the other."""
    offsets = numbers_of(lists.offsets)
    return lists.values[int(offsets[0]) : int(offsets[-1])]


def columns_of(structs: pa.StructArray) -> dict[str, pa.Array]:
    """The fields of a column of structs, by name."""
    return dict(zip([field.name for field in structs.type], structs.flatten(), strict=True))


def numbers_of(column: pa.Int32Array) -> np.ndarray:
    """The numbers of a column without a null, not copied."""
    return np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: len(column)]


def starts_and_text(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Where each text of a column without a null begins, and where the last one ends; and all of them, not copied."""
    _, starts, text = texts.buffers()
    starts = np.frombuffer(starts, np.int32)[texts.offset :][: len(texts) + 1]
    return starts.astype(np.int64), np.frombuffer(text or NUL, np.uint8)


def numbers_of_roles(starts: np.ndarray, text: np.ndarray) -> np.ndarray:
    """The place of each text in ROLES, -1 for one that is not there."""
    numbers = np.full(len(starts) - 1, -1)
    for number, name in enumerate(ROLES):
        fits = np.flatnonzero(np.diff(starts) == len(name))
        letters = text[starts[fits, None] + np.arange(len(name))]
        numbers[fits[(letters == np.frombuffer(name.encode(), np.uint8)).all(axis=1)]] = number
    return numbers


def turns_of_rows(rows: Sequence[list[dict[str, object]]]) -> Turns:
    """The turns of rows in which nothing is wrong with form or characters."""
    texts = [content.encode() for content in map(CONTENT, chain.from_iterable(rows))]
    roles = np.fromiter(map(ROLES.index, map(ROLE, chain.from_iterable(rows))), np.int64, len(texts))
    starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    counts = np.fromiter(map(len, rows), np.int64, len(rows))
    return Turns(counts, roles, starts, np.frombuffer(b"".join(texts) or NUL, np.uint8))


def bounds(turns: Turns) -> np.ndarray:
    """Where each conversation begins in the text, and where the last one ends; (conversations + 1,) of int64."""
    return turns.starts[np.concatenate([[0], np.cumsum(turns.counts)])]


def rows_at(turns: Turns, places: np.ndarray) -> np.ndarray:
    """The conversations that these places of the text are in."""
    return np.searchsorted(bounds(turns)[1:], places, side="right")


def marks_of(turns: Turns) -> Marks:
    """The marks of all texts, found in a few passes, each of which leaves the interpreter to others; over parts of the
    text that stay in the processor's cache meanwhile."""
    begin, end = int(turns.starts[0]), int(turns.starts[-1])
    room, marked = np.empty(PART_BYTES, np.uint8), np.empty(PART_BYTES, bool)
    controls, beyond = [NOWHERE], [NOWHERE]
    for start in range(begin, end, PART_BYTES):
        text = turns.text[start : min(start + PART_BYTES, end)]
        signed, part, shifted = text.view(np.int8), marked[: len(text)], room[: len(text)]
        # 0x0B to 0x1F become 0 to 20, and tab and line feed the greatest.
        if np.subtract(text, np.uint8(0x0B), out=shifted).min() <= 20:
            low = np.flatnonzero(np.less_equal(shifted, 20, out=part))
            controls.append(start + low[text[low] != RETURN])
        if text.min() < TAB:
            controls.append(start + np.flatnonzero(np.less(text, TAB, out=part)))
        if signed.max() == DEL:
            controls.append(start + np.flatnonzero(np.equal(text, DEL, out=part)))
        beyond.append(start + np.flatnonzero(np.less(signed, 0, out=part)))
    places = np.concatenate(beyond)
    return Marks(np.concatenate(controls), places, turns.text[places])


def characters_of(turns: Turns, marks: Marks) -> np.ndarray:
    """Characters in the texts of each conversation; (conversations,) of int64."""
    ends = bounds(turns)
    # Of each character beyond ASCII, all bytes but the first.
    further = marks.beyond[marks.values < 0xC0]
    return np.diff(ends) - np.diff(np.searchsorted(further, ends))


def end_keys(turns: Turns) -> np.ndarray:
    """Digests of the beginnings and ends of each conversation's two longest turns, without case, spaces and
    punctuation; (conversations, ENDS) of uint64. They mean nothing where there are fewer than two turns."""
    if not len(turns.roles):
        return np.zeros((len(turns.counts), ENDS), np.uint64)
    longest = np.concatenate(two_longest(turns))
    heads, tails = digests_of_ends(turns.text, turns.starts[longest], turns.starts[longest + 1])
    return np.stack([*heads.reshape(2, -1), *tails.reshape(2, -1)], axis=1)


def two_longest(turns: Turns) -> tuple[np.ndarray, np.ndarray]:
    """The longest turn of each conversation and the second, as places among all turns; (conversations,) each."""
    # A system message is the first, and often that of all conversations.
    sizes = np.where(turns.roles == SYSTEM, 0, np.diff(turns.starts) + 1)
    # Of turns of one size the last counts as the longest.
    ranks = sizes * len(sizes) + np.arange(len(sizes))
    longest, second = np.zeros((2, len(turns.counts)), np.int64)
    some = turns.counts > 0
    first = (np.cumsum(turns.counts) - turns.counts)[some]
    longest[some] = np.maximum.reduceat(ranks, first) % len(sizes)
    ranks[longest[some]] -= ranks.max() + 1
    second[some] = np.maximum.reduceat(ranks, first) % len(sizes)
    return longest, second


def digests_of_ends(text: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Digests of the first and of the last letters and digits of pieces of a text; (pieces,) of uint64 each."""
    pieces = len(begins)
    letters = NUL * END_BYTES + letters_of(windows(text, begins, ends)) + NUL * END_BYTES
    letters = np.frombuffer(letters, np.uint8)
    last = np.flatnonzero(letters == 0)[END_BYTES:][: 2 * pieces]
    first = np.concatenate([[END_BYTES], last[:-1] + 1])
    found = np.lib.stride_tricks.sliding_window_view(letters, END_BYTES)
    # The last ones are those before the NUL at the end of a window.
    found = found[np.concatenate([first[:pieces], last[pieces:] - END_BYTES])]
    sizes = (last - first)[:, None]
    places = np.arange(END_BYTES)
    # Of a window with fewer letters, what is its neighbour's is left out.
    found[:pieces][places >= sizes[:pieces]] = 0
    found[pieces:][places < END_BYTES - sizes[pieces:]] = 0
    heads, tails = digests(found.view(np.uint64)).reshape(2, pieces)
    # Text that is both a beginning and an end has two digests.
    return heads, ~tails * MULTIPLIERS[0]


def windows(text: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The first bytes of each piece of a text, then the last ones, each with a NUL after it and spaces for what a
    piece does not have; (2, pieces, WINDOW_BYTES + 1) of uint8."""
    if len(text) < WINDOW_BYTES:
        text = np.concatenate([text, np.zeros(WINDOW_BYTES, np.uint8)])
    starts = np.clip(np.stack([begins, ends - WINDOW_BYTES]), 0, len(text) - WINDOW_BYTES)
    made = np.zeros((*starts.shape, WINDOW_BYTES + 1), np.uint8)
    taken = made[:, :, :WINDOW_BYTES]
    taken[:] = np.lib.stride_tricks.sliding_window_view(text, WINDOW_BYTES)[starts]
    taken[taken == 0] = ord(SPACE)
    low, high = np.maximum(begins - starts, 0), ends - starts
    cut = (low > 0) | (high < WINDOW_BYTES)
    places = np.arange(WINDOW_BYTES)
    outside = (places < low[cut][:, None]) | (places >= high[cut][:, None])
    taken[cut] = np.where(outside, ord(SPACE), taken[cut])
    return made


def letters_of(made: np.ndarray) -> bytes:
    """The letters and digits of windows, in one case; a NUL after each window."""
    return made.tobytes().translate(FOLDED, NOT_LETTERS)


def digests(words: np.ndarray) -> np.ndarray:
    """A digest of each row of words; (rows, words) of uint64 to (rows,) of uint64."""
    mixed = np.zeros(len(words), np.uint64)
    for word, multiplier in zip(words.T, MULTIPLIERS, strict=True):
        mixed = (mixed ^ word) * multiplier
        mixed ^= mixed >> SHIFT
    return mixed

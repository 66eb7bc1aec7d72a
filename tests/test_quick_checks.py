"""The checks of many rows at once say what those of one row say."""

import re

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatdata.checks import is_well_formed, problems_of_characters, surely_well_formed, suspicious
from chatdata.duplicates import SeenKeys
from chatdata.lines import can_be_written, json_of
from chatdata.turns import (
    END_BYTES,
    FOLDED,
    NOT_LETTERS,
    WINDOW_BYTES,
    Conversations,
    characters_of,
    end_keys,
    marks_of,
    rows_at,
    turns_of_column,
    turns_of_rows,
)
from chatdata.words import count_words, digests_of_words, folded

COLUMN = pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))
texts = st.sampled_from(["a", "", " ", "\n", "\u00a0", "\u2003x", "\u00e9", " a", "\x7f", "{"])
turns = st.fixed_dictionaries({"content": texts, "role": st.sampled_from(["system", "user", "assistant", "tool", "x"])})
usual = st.builds(
    lambda system, count, content: [
        {"content": content, "role": role} for role in ["system"][:system] + ["user", "assistant"] * count
    ],
    st.integers(0, 1),
    st.integers(0, 3),
    texts,
)


@settings(deadline=None)
@given(st.lists(st.one_of(st.lists(turns, max_size=5), usual), max_size=8), st.integers(0, 3))
def test_a_row_that_surely_is_well_formed_is_so(rows: list[list[dict[str, str]]], first: int) -> None:
    """Also in a slice of a column; the usual rows are found without looking at them one by one."""
    sure = surely_well_formed(turns_of_column(pa.array(rows, COLUMN)[first:])).tolist()

    for row, found in zip(rows[first:], sure, strict=True):
        assert is_well_formed(row) or not found
        order = [turn["role"] for turn in row]
        visible = all(turn["content"][:1] in ("a", "{") for turn in row)
        if visible and order in (["user", "assistant"], ["system", "user", "assistant"]):
            assert found


# Around every bound of what is bad.
edges = st.text(
    st.sampled_from(
        'a\\"\t\n\r\x00\x07\x08\x0b\x0c\x0e\x1f \x7e\x7f\x80\x9f\xa0\xbf\xc0\xc2\xc3\xe2\xef€\u20ad\ufffc\ufffd\ufffe😀'
    ),
    max_size=6,
)


@settings(deadline=None)
@given(st.lists(st.lists(edges, min_size=1, max_size=4), max_size=8), st.integers(0, 3))
def test_bad_characters_are_suspected_in_many_rows_at_once(rows: list[list[str]], first: int) -> None:
    """No row that is bad goes unnoticed, and none in plain ASCII is suspected for nothing."""
    column = pa.array([[{"content": text, "role": "user"} for text in row] for row in rows], COLUMN)[first:]

    turns = turns_of_column(column)
    suspected = suspicious(turns, marks_of(turns)).tolist()

    for row, found in zip(rows[first:], suspected, strict=True):
        text = "\n".join(row)
        assert found or not problems_of_characters(text.encode())
        assert not (found and text.isascii()) or problems_of_characters(text.encode())
    whole = [[{"content": text, "role": "user"} for text in row] for row in rows[first:]]
    turns = turns_of_rows(whole)
    assert suspicious(turns, marks_of(turns)).tolist() == suspected


roles = st.sampled_from(["system", "user", "assistant", "tool", "x", "\x07"])
messages = st.builds(lambda role, content: {"role": role, "content": content}, roles, edges)
conversations = st.lists(messages, max_size=4)


@settings(deadline=None)
@given(st.lists(conversations, max_size=8), st.integers(0, 3))
def test_a_columns_rows_are_written_as_orjson_writes_them(rows: list[list[dict[str, str]]], first: int) -> None:
    """All but those without turns, with other roles or with other control characters than those of usual text; each
    can also be made, and its characters are counted."""
    conversations = Conversations(pa.array(rows, COLUMN))[first:]
    marks = marks_of(conversations.turns)
    writable = can_be_written(conversations.turns, rows_at(conversations.turns, marks.controls)).tolist()

    written = list(json_of(conversations.turns, writable))

    assert list(conversations) == rows[first:]
    for row, is_written, line in zip(rows[first:], writable, written, strict=True):
        assert line == (orjson.dumps(row) if is_written else None)
        texts = "".join(turn["content"] for turn in row)
        known = {turn["role"] for turn in row} <= {"system", "user", "assistant", "tool"}
        assert is_written == (bool(row) and known and not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", texts))
    counted = characters_of(conversations.turns, marks).tolist()
    assert counted == [sum(len(turn["content"]) for turn in row) for row in rows[first:]]


@pytest.mark.parametrize(
    ("upper", "lower"),
    [
        ("PLEASE, TELL ME: WHY?", "please tell me why"),
        ("ÄÖÜ ÉÈÊ ÑÇ", "äöü éèê ñç"),
        ("ПРИВЕТ ЁЖ ЇЖАК", "привет ёж їжак"),
        ("ΚΑΛΗΜΕΡΑ ΩΡΑΙΑ", "καλημερα ωραια"),
        ("ŠĐ ĀĒĪ ŐŰ", "šđ āēī őű"),
        ("ԲԱՐԵՎ", "բարեւ".replace("եւ", "եվ")),
    ],
    ids=["ASCII", "Latin 1", "Cyrillic", "Greek", "Latin A", "Armenian"],
)
def test_ends_do_not_depend_on_case(upper: str, lower: str) -> None:
    """The two cases of a letter make the same key, and other letters another."""
    rows = [
        [{"role": "user", "content": f"x{text}"}, {"role": "assistant", "content": f"{text} {text} 1"}]
        for text in (upper, lower, lower[::-1])
    ]

    first, second, other = end_keys(turns_of_rows(rows)).tolist()

    assert first == second
    assert first != other


# Longer and shorter than a window, with texts that have few letters, or none.
pieces = st.sampled_from(["word ", "a", "B", "- * - ", "é", "Ж", "  ", "1", "\x00", "😀"])
long_texts = st.builds(lambda times, parts: "".join(parts) * times, st.integers(0, 30), st.lists(pieces, max_size=6))


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from(["system", "user"]), long_texts), max_size=4), max_size=6))
def test_keys_of_ends_tell_what_the_ends_tell(rows: list[list[tuple[str, str]]]) -> None:
    """Two ends have one key if their first or last forty letters are the same, whatever stands around the rows; a
    column and rows make the same keys."""
    rows = [[{"content": text, "role": role} for role, text in row] for row in rows]
    keys = end_keys(turns_of_rows(rows))

    assert keys.tolist() == end_keys(turns_of_column(pa.array([[], *rows, []], COLUMN)[1:-1])).tolist()
    seen: dict[tuple[str, bytes], int] = {}
    for row, found in zip(rows, keys.tolist(), strict=True):
        texts = [turn["content"].encode() for turn in row if turn["role"] != "system"]
        if len(texts) < 2:
            continue
        *_, second, longest = sorted(texts, key=len)
        ends = [end for side in zip(ends_of(longest), ends_of(second), strict=True) for end in side]
        for end, key in zip(ends, found, strict=True):
            assert seen.setdefault(end, key) == key
    assert len(set(seen.values())) == len(seen)


def ends_of(text: bytes) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """The beginning and the end of a text, as the keys are meant to see them."""
    head, tail = (part.translate(FOLDED, NOT_LETTERS + b"\0") for part in (text[:WINDOW_BYTES], text[-WINDOW_BYTES:]))
    return ("head", head[:END_BYTES]), ("tail", tail[-END_BYTES:])


@settings(deadline=None)
@given(st.text(max_size=40))
def test_words_are_what_the_pattern_says(text: str) -> None:
    """Also beyond ASCII; and they are counted without being taken apart."""
    words = re.findall(r"\w+", text.casefold())
    letters = folded(f" {text} ")

    assert "".join(map(chr, letters)).split() == words
    assert count_words(letters) == len(words)
    digests = digests_of_words(letters).tolist()
    assert dict(zip(words, digests, strict=True)) == dict(zip(reversed(words), reversed(digests), strict=True))
    assert len(set(digests)) == len(set(words))


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), max_size=30), max_size=6), st.integers(0, 4))
def test_keys_have_the_row_that_had_them_first(batches: list[list[int]], repeats: int) -> None:
    """In one batch and in several, however many keys there are."""
    seen, first = SeenKeys(), {}
    many = np.arange(repeats * 20_000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    seen.add(many, np.arange(len(many)) + 1000)
    first.update(zip(many.tolist(), range(1000, 1000 + len(many)), strict=True))
    for number, batch in enumerate(batches):
        keys = np.array(batch, np.uint64)

        assert seen.find(keys).tolist() == [first.get(key, -1) for key in batch]
        seen.add(keys, np.full(len(keys), number))
        for key in batch:
            first.setdefault(key, number)
    assert seen.find(many).tolist() == [first[key] for key in many.tolist()]

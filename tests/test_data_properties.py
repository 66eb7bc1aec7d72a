"""What the data step does with many rows at once is what its rules say of one row, whatever the rows hold."""

import json
import random
import re
import tempfile
from pathlib import Path

import orjson
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatdata import checks
from chatdata.conversations import Conversation, from_columns, from_plain, to_series
from chatdata.formats import Format
from chatdata.reading import Batch
from chatdata.repetitions import ends_of
from chatdata.templates import COMPARED_WORDS, is_near_duplicate, words_of
from chatdata.writing import Checks, Chosen, SplitWriting, describe, rows_of
from retune.data_settings import Data
from retune.report import Split

COLUMN = pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))
# Around every bound of what is bad.
edges = st.text(
    st.sampled_from(
        'a\\"\t\n\r\x00\x07\x08\x0b\x0c\x0e\x1c\x1f \x7e\x7f\x80\x85\x9f\xa0\xbf\xc0\xc2\xc3\xe2\xef€\u20ad\u2003\u2028'
        "\ufffc\ufffd\ufffe😀"
    ),
    max_size=6,
)
roles = st.sampled_from(["user", "assistant", "user", "assistant", "system", "tool", "x", "u", "?", "user ", ""])
messages = st.builds(lambda role, content: {"role": role, "content": content}, roles, edges)
conversations = st.lists(messages, max_size=5)


def described(rows: list[list[dict[str, str]]], first: int = 0) -> pl.DataFrame:
    """What the step knows of the conversations of a column from the first row on."""
    messages = from_plain(pa.array(rows, COLUMN)[first:])
    return describe(pl.DataFrame({"number": range(len(messages)), "messages": messages}, strict=False))


@settings(deadline=None)
@given(st.lists(conversations, min_size=1, max_size=8), st.integers(0, 3))
def test_no_unfit_row_goes_unnoticed(rows: list[list[dict[str, str]]], first: int) -> None:
    """Also in a slice of a column; usual rows in plain ASCII are never suspected."""
    about = described(rows, first)
    suspected = [unfit or not checks.are_fit(roles) for unfit, roles in about.select("unfit", "letters").iter_rows()]

    for row, found in zip(rows[first:], suspected, strict=True):
        assert found or not checks.problems_of_conversation(row)
        plain = all(re.fullmatch(r"[ -~]*", message["content"]) and "\\" not in message["content"] for message in row)
        assert not (found and plain) or checks.problems_of_conversation(row)


@settings(deadline=None)
@given(st.lists(conversations, min_size=1, max_size=8), st.integers(0, 3))
def test_a_row_is_written_as_it_is(rows: list[list[dict[str, str]]], first: int) -> None:
    """From a column and from objects alike, as orjson writes it, and its characters are counted."""
    about = described(rows, first)

    assert about["messages"].to_list() == rows[first:]
    assert [line.encode() for line in about["line"]] == [orjson.dumps({"messages": row}) for row in rows[first:]]
    assert about["characters"].to_list() == [sum(len(turn["content"]) for turn in row) for row in rows[first:]]
    assert to_series([row for row in rows[first:] if row]).to_list() == [row for row in rows[first:] if row]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[{"content": "a", "role": "user", "name": None}]]),
        pa.array([[{"role": "user", "content": "a"}]], pa.large_list(COLUMN.value_type)),
        pa.array(['[{"content": "a", "role": "user"}]']),
    ],
    ids=["null field", "large list", "JSON text"],
)
def test_a_column_of_another_type_gives_the_same_conversations(column: pa.Array) -> None:
    """Null fields, long columns and JSON in text change nothing."""
    batch = pa.record_batch({"messages": column})

    conversations = from_columns(batch, Format("openai", {"messages": "messages"}), {})

    assert [*rows_of(Batch("", range(1), conversations, {}))] == [Conversation([{"role": "user", "content": "a"}])]


WORDS = [f"word{number}" for number in range(120)]


def answer(words: list[str]) -> list[str]:
    """The words of a conversation with this answer."""
    return words_of([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": " ".join(words)}])


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (WORDS, True),
        ([word.upper() + ",\n" for word in WORDS], True),
        ([*WORDS[:60], "other", *WORDS[61:]], True),
        (["other", *WORDS], True),
        ([*WORDS, *WORDS[:20]], False),
        ([*WORDS[:60], "other", *WORDS[61:80], "other", *WORDS[81:]], True),
        ([*WORDS[:30], "x", *WORDS[31:60], "y", *WORDS[61:90], "z", *WORDS[91:]], False),
        (WORDS[::-1], False),
        (WORDS[:100], False),
    ],
    ids=["same", "case", "one word", "one more", "a sixth more", "two words", "three words", "reversed", "cut"],
)
def test_near_duplicates_share_nine_tenths_of_their_sequences(words: list[str], near: bool) -> None:
    """Of three words, in either direction."""
    first, second = answer(WORDS), answer(words)

    assert (is_near_duplicate(first, second), is_near_duplicate(second, first)) == (near, near)


def test_short_conversations_are_near_duplicates_only_with_the_same_words() -> None:
    """One word of fewer than fifty may be the point of the answer."""
    words = WORDS[: COMPARED_WORDS - 2]

    assert is_near_duplicate(answer(words), answer([word.title() for word in words]))
    assert not is_near_duplicate(answer(words), answer([*words[:-1], "other"]))


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
    texts = pl.DataFrame({"texts": [[text] for text in (upper, lower, lower[::-1])]})

    first, second, other = texts.select(ends_of(pl.col("texts"))).to_series().to_list()

    assert first == second
    assert not set(first) & set(other)


short = st.text(st.sampled_from("ab, A"), min_size=1, max_size=3).filter(lambda text: not text.isspace())
turns = st.lists(short, min_size=2, max_size=3)


def written(batches: list[list[list[str]]], folder: Path) -> tuple[Split, list[list[str]]]:
    """A split with these turns of users and assistants, and what its file holds."""
    rows = [
        [[{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)] for texts in batch]
        for batch in batches
    ]
    read = [Batch("a", range(len(batch)), list(map(Conversation, batch)), {}) for batch in rows]
    writing = SplitWriting(Checks(None, None, None, Data(near_duplicates="drop")), folder / "rows.jsonl", {})
    split, file = writing.write(Chosen(iter(read), None), lambda rows: None)
    kept = [[turn["content"] for turn in file.messages(row)] for row in range(len(file.rows))]
    file.close()
    lines = (folder / "rows.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [[turn["content"] for turn in json.loads(line)["messages"]] for line in lines] == kept
    return split, kept


@settings(deadline=None)
@given(st.lists(st.lists(turns, max_size=6), min_size=1, max_size=4))
def test_a_repetition_is_left_out_and_nothing_else(batches: list[list[list[str]]]) -> None:
    """The first of rows with the same texts is kept, across batches too; a row is lost only to one with its words."""
    with tempfile.TemporaryDirectory() as folder:
        split, kept = written(batches, Path(folder))

    rows = [texts for batch in batches for texts in batch]
    assert len(set(map(tuple, kept))) == len(kept)
    assert set(map(plain_words, kept)) == set(map(plain_words, rows))
    assert split.selected == len(rows) == len(kept) + sum(split.dropped.values())


def plain_words(texts: list[str]) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", " ".join(texts).casefold()))


def test_a_file_of_many_sizes_loses_only_what_is_repeated(tmp_path: Path) -> None:
    """Rows from a few bytes to several megabytes, a third of them repeated."""
    draw = random.Random(0)
    texts = [[f"{number}", f"{number} " * 4 ** draw.randrange(11)] for number in range(40)]
    rows = [row for text in texts for row in [text] * (1 + (draw.random() < 0.3))]

    split, kept = written([rows[:17], rows[17:]], tmp_path)

    assert kept == texts
    assert split.dropped == {"duplicate": len(rows) - len(texts)}

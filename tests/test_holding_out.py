"""Where a source has no split to validate or to test with, rows of its training split are held out."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from chatdata.choosing import share_out
from chatdata.prepare import prepare
from chatdata.sources import pin
from retune.errors import BadRequest
from retune.report import PreparedData
from retune.request import Data, Workspace

Row = dict[str, object]


def row(number: int, name: str = "train") -> Row:
    messages = [
        {"role": "user", "content": f"How do I keep {name} plant number {number}?"},
        {"role": "assistant", "content": f"Water {name} plant {number} every {number + 2} days."},
    ]
    return {"messages": messages}


def prepared(folder: Path, rows: dict[str, list[Row]], **settings: object) -> PreparedData:
    """What is prepared of files of these rows."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name, part in rows.items():
        (source / name).write_text("".join(json.dumps(each) + "\n" for each in part), encoding="utf-8")
    target = folder / "target"
    target.mkdir()
    return prepare(pin(Data(source=str(source), **settings), Workspace()), target)


def questions(data: PreparedData, role: str) -> set[str]:
    text = Path(data.splits[role].path).read_text(encoding="utf-8")
    return {json.loads(line)["messages"][0]["content"] for line in text.split("\n")[:-1]}


ROLES = ("train", "validation", "test")


def test_a_row_keeps_its_side_when_others_are_added(tmp_path: Path) -> None:
    """In any order and with any others, what is held out stays out of training."""
    rows = [row(number) for number in range(400)]

    before = prepared(tmp_path / "before", {"chats.jsonl": rows[:200]})
    after = prepared(tmp_path / "after", {"chats.jsonl": rows[::-1]})

    sides = {role: (questions(before, role), questions(after, role)) for role in ROLES}
    assert all(few < many for few, many in sides.values())
    assert [10 < len(sides[role][0]) < 30 for role in ("validation", "test")] == [True, True]
    assert before.splits["validation"].held_out == "10% of 'chats.jsonl', by digest"


def test_repetitions_are_on_one_side(tmp_path: Path) -> None:
    """A row that differs from another in case, spaces, punctuation and composed letters alone is never held out."""
    rows = [row(number, "café") for number in range(300)]
    text = json.dumps(rows, ensure_ascii=False).replace("How do I keep", "HOW, do  I keep")
    shouted = json.loads(unicodedata.normalize("NFD", text))

    data = prepared(tmp_path, {"chats.jsonl": rows + shouted}, on_bad_row="drop")

    sides = [
        {
            unicodedata.normalize("NFC", question.casefold()).replace(",", "").replace("  ", " ")
            for question in questions(data, role)
        }
        for role in ROLES
    ]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 300


GIVEN = {
    "train and test": (("train", "test"), "validation"),
    "train and validation": (("train", "validation"), "test"),
    "train": (("train",), None),
}


@pytest.mark.parametrize("case", GIVEN)
def test_a_given_split_is_never_trained_on(case: str, tmp_path: Path) -> None:
    """It stays what it is; only what is missing is held out."""
    names, missing = GIVEN[case]
    rows = {f"{name}.jsonl": [row(number, name) for number in range(100)] for name in names}

    data = prepared(tmp_path, rows)

    held = {role for role, split in data.splits.items() if split.held_out}
    assert held == ({missing} if missing else {"validation", "test"})
    for name in set(names) - {"train"}:
        assert data.splits[name].rows == 100
        assert not any(f" {name} " in question for question in questions(data, "train"))
    assert data.splits["train"].rows + sum(data.splits[role].rows for role in held) == 100


def test_the_fraction_is_taken_after_rows_are_held_out(tmp_path: Path) -> None:
    """A quarter of each part, and the parts of the whole are the same."""
    rows = {"chats.jsonl": [row(number) for number in range(400)]}

    whole = prepared(tmp_path / "whole", rows)
    quarter = prepared(tmp_path / "quarter", rows, fraction=0.25)

    for role in ROLES:
        assert questions(quarter, role) < questions(whole, role)
        assert quarter.splits[role].rows == round(whole.splits[role].rows * 0.25)


def test_shares_and_seed_are_settings(tmp_path: Path) -> None:
    """Another seed holds out others; a larger share holds out more."""
    rows = {"chats.jsonl": [row(number) for number in range(1000)]}

    plain = prepared(tmp_path / "plain", rows)
    seeded = prepared(tmp_path / "seeded", rows, seed=1)
    larger = prepared(tmp_path / "larger", rows, validation_fraction=0.3, test_fraction=0.05)

    assert questions(plain, "test") != questions(seeded, "test")
    assert 250 < larger.splits["validation"].rows < 350
    assert 30 < larger.splits["test"].rows < 70
    assert questions(plain, "validation") < questions(larger, "validation")


@pytest.mark.parametrize("rows", [12, 13, 20, 30])
def test_few_rows_are_enough(rows: int, tmp_path: Path) -> None:
    """Each role gets a row, and ten are left to train on, from twelve rows."""
    for seed in range(5):
        data = prepared(tmp_path / str(seed), {"chats.jsonl": [row(number) for number in range(rows)]}, seed=seed)

        assert data.splits["train"].rows >= 10
        assert data.splits["validation"].rows >= 1
        assert data.splits["test"].rows >= 1


def test_sides_are_the_shares_of_all_digests() -> None:
    """Of many rows each role has its share within a percent."""
    digests = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)

    sides = share_out(digests, {"validation": 0.1, "test": 0.2})

    assert abs((sides == 0).mean() - 0.1) < 0.01
    assert abs((sides == 1).mean() - 0.2) < 0.01


def test_a_source_whose_splits_have_no_usual_names_says_what_to_set(tmp_path: Path) -> None:
    """Two splits, of which none is known to train on; the setting that is named is enough."""
    names = {f"{name}-00000-of-00001.jsonl": [row(number, name) for number in range(40)] for name in ("en", "de")}

    with pytest.raises(BadRequest, match=r"its splits: de, en") as caught:
        prepared(tmp_path / "unnamed", names)
    data = prepared(tmp_path / "named", names, train_split=caught.value.fix.rpartition("=")[2])

    assert data.splits["train"].rows > 20


def test_a_file_without_a_split_in_its_name_trains_where_no_other_does(tmp_path: Path) -> None:
    """Beside a test file; where a file is named for training, the other is said not to be read."""
    both = {
        "chats.jsonl": [row(number) for number in range(40)],
        "test.jsonl": [row(number, "test") for number in range(9)],
    }

    data = prepared(tmp_path / "two", both)
    named = prepared(tmp_path / "three", both | {"train.jsonl": [row(number, "more") for number in range(40)]})

    assert (data.splits["train"].source_split, data.splits["test"].rows) == ("chats.jsonl", 9)
    assert named.splits["train"].source_split == "train"
    assert (data.unused, named.unused) == ([], ["chats.jsonl"])


@pytest.mark.parametrize("name", ["held.jsonl", "./held.jsonl", "h*.jsonl"])
def test_a_file_that_is_named_for_a_test_is_never_trained_on(name: str, tmp_path: Path) -> None:
    """Beside others without a split in their names, and where the pattern to train on matches it too."""
    files = {f"{letter}.jsonl": [row(number, letter) for number in range(40)] for letter in "ab"}
    files["held.jsonl"] = [row(number, "held") for number in range(9)]

    named = prepared(tmp_path / "beside", files, test_split=name)
    matched = prepared(tmp_path / "matched", files, test_split=name, train_split="*.jsonl")
    with pytest.raises(BadRequest, match=r"names only files that validate or test"):
        prepared(tmp_path / "only", files, test_split=name, train_split="held.*")

    for data in (named, matched):
        assert data.splits["test"].rows == 9
        assert data.splits["train"].rows + data.splits["validation"].rows == 80
        assert not any(" held " in question for question in questions(data, "train"))


def test_rows_that_cannot_be_read_are_never_held_out(tmp_path: Path) -> None:
    """They say nothing by which to tell them apart, and all of them on one side would take its place."""
    rows = [row(number) for number in range(30)] + [{"messages": None}] * 30

    settings = {"on_bad_row": "drop", "drop_limit": 1}
    splits = [prepared(tmp_path / f"{seed}", {"chats.jsonl": rows}, seed=seed, **settings).splits for seed in range(8)]

    assert [(each["train"].dropped, each["validation"].dropped, each["test"].dropped) for each in splits] == [
        ({"no messages": 30}, {}, {})
    ] * 8

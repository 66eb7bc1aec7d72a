"""Copies of a row that is kept are duplicates; copies of a row that is left out are left out with it."""

import json
from pathlib import Path

import pytest

from chatdata import repetitions
from chatdata.prepare import prepare
from chatdata.sources import pin
from retune.report import Split
from retune.request import Data, Workspace


def chat(question: str, answer: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def good(name: str) -> dict[str, object]:
    return chat(f"What is {name}?", f"It is {name}.")


def prepared(folder: Path, more: list[dict[str, object]], **settings: object) -> Split:
    """The training split of twelve good rows and more, beside twelve rows each that validate and test."""
    rows = {name: [good(f"{name} {number}") for number in range(12)] for name in ("train", "validation", "test")}
    rows["train"] += more
    folder.mkdir()
    for name, part in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    (folder / "out").mkdir()
    return prepare(pin(Data(source=str(folder), **settings), Workspace()), folder / "out").splits["train"]


NEARLY = {
    "near duplicate": chat("WHAT IS TRAIN 3", "It is train 3!"),
    "nearly in the test split": chat("what  is TEST 2", "it is test 2"),
}


@pytest.mark.parametrize("kind", NEARLY)
def test_copies_of_a_near_duplicate_are_trained_on_once_or_not_at_all(kind: str, tmp_path: Path) -> None:
    """Once where it is kept, not at all where it is left out, whatever becomes of exact duplicates."""
    copies = [NEARLY[kind]] * 3

    noted = prepared(tmp_path / "noted", copies, on_bad_row="drop")
    dropped = prepared(tmp_path / "dropped", copies, near_duplicates="drop", duplicates="note")

    assert (noted.rows, noted.noted, noted.dropped) == (13, {kind: 1}, {"duplicate": 2})
    assert (dropped.rows, dropped.noted, dropped.dropped) == (12, {}, {kind: 3})


def test_copies_of_a_row_that_validates_are_trained_on_once_or_not_at_all(tmp_path: Path) -> None:
    """Once where the overlap is only noted, not at all where such rows are left out."""
    copies, kind = [good("validation 2")] * 2, "also in the validation split"

    noted = prepared(tmp_path / "noted", copies, evaluation_overlap="note", duplicates="drop")
    dropped = prepared(tmp_path / "dropped", copies, evaluation_overlap="drop", duplicates="note")

    assert (noted.rows, noted.noted, noted.dropped) == (13, {kind: 1}, {"duplicate": 1})
    assert (dropped.rows, dropped.noted, dropped.dropped) == (12, {}, {kind: 2})


def test_a_very_long_conversation_is_compared_whole_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words would fill the memory; a copy of it is found all the same."""
    monkeypatch.setattr(repetitions, "COMPARED_CHARACTERS", 1000)
    long = chat("What is in the book?", "word " * 400)
    nearly = chat("what is in the book", "WORD " * 400)

    split = prepared(tmp_path / "rows", [long, nearly, long], duplicates="drop")

    assert (split.noted, split.dropped) == ({}, {"duplicate": 1})

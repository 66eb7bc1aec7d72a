"""Rows that share a long template are no repetitions; rows that repeat what is beyond it are."""

import json
from pathlib import Path

import pytest

from benchmarks.templated import plant
from chatdata.prepare import prepare
from chatdata.sources import pin
from retune.report import Split
from retune.request import Data, Workspace


def prepared(folder: Path, rows: list[dict], **settings: object) -> Split:
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "out").mkdir()
    return prepare(pin(Data(source=str(folder), **settings), Workspace()), folder / "out").splits["train"]


@pytest.mark.parametrize("place", ["end", "middle", "start"])
def test_templated_rows_are_all_kept(place: str, tmp_path: Path) -> None:
    """A 240-word instruction, an 8-word message, one of 12 labels: nothing is a near duplicate."""
    rows = plant(600, repeated=0, place=place).rows

    split = prepared(tmp_path / "chats", rows)

    assert split.rows == split.selected
    assert (split.dropped, split.noted) == ({}, {})


@pytest.mark.parametrize("place", ["end", "middle", "start"])
def test_repetitions_among_templated_rows_are_found(place: str, tmp_path: Path) -> None:
    """Whose messages differ in case, spaces and punctuation alone: nearly all, and no others."""
    planted = plant(600, repeated=60, place=place)

    split = prepared(
        tmp_path / "chats", planted.rows, near_duplicates="drop", validation_fraction=0.01, test_fraction=0.01
    )

    kept = [json.loads(line) for line in Path(split.path).read_text(encoding="utf-8").split("\n")[:-1]]
    dropped = split.dropped.get("near duplicate", 0)
    assert 57 <= dropped <= 60
    assert len(kept) == split.selected - dropped

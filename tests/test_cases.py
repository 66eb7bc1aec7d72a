"""Data sets as people bring them, with no setting but their source; tests/cases/README.md says what is right."""

from pathlib import Path

import pytest

from chatdata.prepare import prepare
from chatdata.sources import pin
from retune.errors import BadRequest
from retune.report import PreparedData
from retune.request import Data, Workspace

CASES = Path(__file__).parent / "cases"
# Rows of the training, validation and test files, and how the format begins.
USABLE: dict[str, tuple[int, str]] = {
    "01-u2028": (22, "openai"),
    "01b-u2028-parquet": (22, "openai"),
    "02-openai-tools": (42, "openai"),
    "02c-tools-with-text": (42, "openai"),
    "02f-multiturn-tools": (42, "openai"),
    "03b-sharegpt-jsonl": (42, "sharegpt"),
    "04-alpaca": (42, "alpaca"),
    "06-nan": (22, "openai"),
    "07d-wrapped": (22, "openai"),
    "13-zst": (22, "openai"),
    "25b-classify-template": (76, "openai"),
    "25e-classify-60": (72, "openai"),
    "25h-240": (52, "openai"),
    "F1-openai-one-file": (60, "openai"),
    "F4-save-to-disk/ds": (50, "openai"),
    "F4-save-to-disk/single": (40, "openai"),
    "F4-save-to-disk/pq": (40, "openai"),
    "F4-save-to-disk/csv": (40, "openai"),
    "F4-save-to-disk/js": (40, "openai"),
}
REFUSED = {
    "09b-cr-only": "carriage return alone, so it is one line. Convert it, e.g. `tr",
    "13c-gz-misnamed": "the file is gzip, in spite of its name. Rename it to end in .gz",
    "16-lfs-pointer": "a Git LFS pointer, not the data itself. Fetch the data with `git lfs pull`",
    "11b-weight": "data.weights=note keeps such rows",
}
ONE_BAD_ROW = {
    "26-array-surrogate": "1 row(s): half a character, e.g. train.json:15",
    "26c-array-latin1-byte": "1 row(s): not UTF-8, e.g. train.json:6",
}


def prepared(case: str, folder: Path, **settings: object) -> PreparedData:
    folder.mkdir()
    return prepare(pin(Data(source=str(CASES / case), **settings), Workspace()), folder)


@pytest.mark.parametrize("case", USABLE)
def test_a_case_is_usable_and_no_row_is_lost(case: str, tmp_path: Path) -> None:
    """All rows are kept, a split is made where there is none, and what the model may not see is told."""
    rows, form = USABLE[case]

    data = prepared(case, tmp_path / "out")

    assert sum(split.rows for split in data.splits.values()) == rows
    assert all(split.format.startswith(form) and not split.dropped for split in data.splits.values())
    assert any("rows have tools" in warning for warning in data.warnings) == case.startswith("02")


@pytest.mark.parametrize("case", REFUSED)
def test_a_case_is_refused_by_what_it_is(case: str, tmp_path: Path) -> None:
    """With the command or the setting that helps."""
    with pytest.raises(BadRequest) as caught:
        prepared(case, tmp_path / "out")

    assert REFUSED[case] in str(caught.value)


@pytest.mark.parametrize("case", ONE_BAD_ROW)
def test_one_bad_element_of_an_array_is_one_bad_row(case: str, tmp_path: Path) -> None:
    """With its number; the others are usable."""
    with pytest.raises(BadRequest) as caught:
        prepared(case, tmp_path / "refused")
    data = prepared(case, tmp_path / "usable", on_bad_row="drop")

    assert ONE_BAD_ROW[case] in str(caught.value)
    assert sum(data.splits["train"].dropped.values()) == 1


def test_weights_are_said_to_be_ignored(tmp_path: Path) -> None:
    """Where the request asks for that."""
    data = prepared("11b-weight", tmp_path / "out", weights="note")

    assert data.warnings == ["14 rows have weights, which the component ignores: it trains on all answers in full."]

"""A row ends at a line feed and nowhere else, from the data step to the training."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatdata.prepare import prepare
from chatdata.sources import pin
from retune.report import PreparedData
from retune.request import Data, Score, Workspace
from tasks.score import choose_rows
from trainer.chat_files import read_rows

# All that `str.splitlines` takes for the end of a line and JSON texts may hold, and what is as odd beside them.
SEPARATORS = "\x0b\x0c\x85\u2028\u2029\r\n\t\ufeff\u00a0"
EMOJI = "\U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea e\u0301"


def row(number: int, extra: str = "") -> dict[str, object]:
    messages = [
        {"role": "user", "content": f"How do I keep plant {number} alive?{extra}"},
        {"role": "assistant", "content": f"Water it every {number + 2} days.{extra}"},
    ]
    return {"messages": messages}


ODD = row(99, "".join(f" {mark} x" for mark in SEPARATORS) + EMOJI)


def prepared(folder: Path, train: bytes, ending: str) -> PreparedData:
    folder.mkdir()
    (folder / f"train.{ending}").write_bytes(train)
    for name in ("validation", "test"):
        text = json.dumps(row(50 if name == "test" else 51)) + "\n" + json.dumps(ODD | {"id": 1}) + "\n"
        (folder / f"{name}.jsonl").write_text(text.replace("plant 99", f"plant {name}"), encoding="utf-8")
    (folder / "out").mkdir()
    return prepare(pin(Data(source=str(folder)), Workspace()), folder / "out")


def jsonl(*, ascii_only: bool) -> bytes:
    lines = [json.dumps(each, ensure_ascii=ascii_only) + "\n" for each in [*map(row, range(12)), ODD]]
    return "".join(lines).encode()


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([*map(row, range(12)), ODD]), sink)
    return sink.getvalue().to_pybytes()


WRITTEN = {
    "raw": (jsonl(ascii_only=False), "jsonl"),
    "escaped": (jsonl(ascii_only=True), "jsonl"),
    "parquet": (parquet(), "parquet"),
    "carriage returns": (jsonl(ascii_only=False).replace(b"\n", b"\r\n"), "jsonl"),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_every_separator_inside_a_text_is_data(case: str, tmp_path: Path) -> None:
    """The row is the same in the prepared file, in the training's rows, and in the questions for the endpoint."""
    data = prepared(tmp_path / "chats", *WRITTEN[case])

    rows = read_rows(Path(data.splits["train"].path))
    questions = choose_rows(data.splits["test"], Score(rows=2))
    assert len(rows) == data.splits["train"].rows == 13
    assert rows[-1]["messages"] == ODD["messages"]
    odd = ODD["messages"][0]["content"].replace("plant 99", "plant test")
    assert odd in [conversation[-1]["content"] for conversation, _ in questions]


@pytest.mark.parametrize("mark", ["\x1c", "\x1d", "\x1e", "\x00", "\x1b"])
def test_other_control_characters_are_bad_rows_of_the_data_step(mark: str, tmp_path: Path) -> None:
    """They never reach the training."""
    from retune.errors import BadRequest

    train = jsonl(ascii_only=False) + (json.dumps(row(77, mark)) + "\n").encode()

    with pytest.raises(BadRequest, match=r"1 row\(s\): control characters, e\.g\. train\.jsonl:14"):
        prepared(tmp_path / "chats", train, "jsonl")


def test_a_row_of_thirty_megabytes_is_read_by_all(tmp_path: Path) -> None:
    """A text that is larger than any batch."""
    train = jsonl(ascii_only=False) + (json.dumps(row(77, " word" * 6_000_000)) + "\n").encode()

    data = prepared(tmp_path / "chats", train, "jsonl")

    rows = read_rows(Path(data.splits["train"].path))
    assert len(rows) == data.splits["train"].rows == 14
    assert len(rows[-1]["messages"][0]["content"]) > 30_000_000

"""Chat files that are meant to fill memory or to say two things at once: refused, with the row or the file named."""

import gzip
import json
import re
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatdata import arrow_batches, expanding
from chatdata.conversations import LEVELS
from chatdata.reading import Batch, Reader
from chatdata.source_files import SourceFile, kind_of
from chatdata.text_files import BadFile
from retune.data_settings import Data

ROW = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
LINE = json.dumps(ROW).encode() + b"\n"


def read(file: Path) -> list[Batch]:
    """All batches of the file."""
    source = SourceFile(file.name, str(file), kind_of(file.name))
    return list(Reader(fsspec.filesystem("file"), file.parent, Data()).batches(source, None))


def problems(file: Path) -> dict[int, str]:
    """What is wrong, by row."""
    return {batch.numbers[place]: detail for batch in read(file) for place, (_, detail) in batch.broken.items()}


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.gz", "rows.csv.gz"])
def test_a_file_that_expands_too_far_is_not_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A few kilobytes of it would else be gigabytes."""
    monkeypatch.setattr(expanding, "FREE_BYTES", 1 << 20)
    part = {"rows.jsonl.gz": LINE, "rows.json.gz": LINE.strip() + b",", "rows.csv.gz": b'"[{""role"": ""user""}]"\n'}
    begin = {"rows.jsonl.gz": b"", "rows.json.gz": b"[", "rows.csv.gz": b"messages\n"}
    (tmp_path / name).write_bytes(gzip.compress(begin[name] + part[name] * 200_000))

    with pytest.raises(BadFile, match=f"{name}.*expand to over"):
        read(tmp_path / name)


def test_a_parquet_column_that_expands_too_far_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its footer says how far, so not even a part of it is read."""
    monkeypatch.setattr(expanding, "FREE_BYTES", 1 << 20)
    rows = [[{"role": "user", "content": "a" * 100_000}]] * 200
    pq.write_table(pa.table({"messages": rows}), tmp_path / "rows.parquet", compression="zstd", use_dictionary=False)

    with pytest.raises(BadFile, match=r"rows.parquet: row group 1, messages.*: its \d+ bytes expand to 20\d+"):
        read(tmp_path / "rows.parquet")


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_value_that_many_rows_share_is_not_in_memory_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """A file stores it once, so its size does not tell; a batch has as many rows as fit."""
    monkeypatch.setattr(arrow_batches, "BATCH_BYTES", 1 << 20)
    content = pa.array(["a" * 100_000]).dictionary_encode().take(pa.array([0] * 600))
    role = pa.array(["user", "assistant"] * 300)
    messages = pa.StructArray.from_arrays([role, content], ["role", "content"])
    table = pa.table({"messages": pa.ListArray.from_arrays(pa.array(range(0, 601, 2), pa.int32()), messages)})
    file = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        pq.write_table(table, file)
    else:
        with pa.ipc.new_stream(str(file), table.schema) as stream:
            stream.write_table(table)

    batches = read(file)

    assert file.stat().st_size < 1 << 20
    assert sum(len(batch) for batch in batches) == 300
    assert max(len(batch) for batch in batches) <= arrow_batches.DECODED_ROWS
    monkeypatch.setattr(expanding, "ROW_BYTES", 100_000)
    with pytest.raises(BadFile, match="a row is larger than"):
        read(file)


def test_a_file_that_is_compressed_as_text_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a factor of ten or twenty."""
    monkeypatch.setattr(expanding, "FREE_BYTES", 1 << 10)
    lines = [json.dumps({"messages": [{"role": "user", "content": f"{n * 7919:x} " * 5}]}) for n in range(5000)]
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))

    assert sum(len(batch) for batch in read(tmp_path / "rows.jsonl.gz")) == 5000


def test_a_row_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is in memory as a whole."""
    monkeypatch.setattr(expanding, "ROW_BYTES", 1 << 16)
    (tmp_path / "rows.jsonl").write_bytes(LINE + LINE.replace(b'"a"', b'"' + b"a" * (1 << 17) + b'"'))

    with pytest.raises(BadFile, match="a row is larger than"):
        read(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("levels", [LEVELS + 1, 500, 990, 1020, 5000])
def test_a_row_that_is_too_deep_is_named(tmp_path: Path, levels: int) -> None:
    """Whatever it would do to a program that reads it step by step."""
    deep = b'{"messages": ' + b"[" * levels + b"]" * levels + b"}\n"
    (tmp_path / "rows.jsonl").write_bytes(LINE + deep + LINE)

    found = problems(tmp_path / "rows.jsonl")
    assert list(found) == [2] and re.search("deeper|depth|ecursion", found[2]), found


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b'{"messages": [], "messages": [{"role": "user", "content": "a"}]}', "messages"),
        (b'{"messages": [{"role": "user", "role": "system", "content": "a"}]}', "role"),
        (b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "content"),
    ],
)
def test_a_key_that_stands_twice_is_named(tmp_path: Path, line: bytes, key: str) -> None:
    """A parser keeps the last without a word."""
    (tmp_path / "rows.jsonl").write_bytes(LINE + line + b"\n" + LINE)
    (tmp_path / "rows.json").write_bytes(b"[" + LINE.strip() + b"," + line + b"]")

    assert problems(tmp_path / "rows.jsonl") == {2: f"the key '{key}' stands twice"}
    with pytest.raises(BadFile, match=f"the key '{key}' stands twice"):
        read(tmp_path / "rows.json")


@pytest.mark.parametrize(
    "content", ['say "role" and "content"', '{"role": "x", "role": "y"}', "role", "content", "[" * 90]
)
def test_what_only_looks_alike_is_read(tmp_path: Path, content: str) -> None:
    """Keys and brackets inside a text."""
    row = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": content}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")

    assert problems(tmp_path / "rows.jsonl") == {}

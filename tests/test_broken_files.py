"""Ways to break a file: each is refused by what it is, and what the refusal says helps when it is followed.

Rows that are broken in a good file are in test_chat_checks.py.
"""

import bz2
import gzip
import json
import lzma
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from public_shapes import chat

from chatdata.formats import Format
from chatdata.prepare import prepare
from chatdata.sources import pin
from retune.errors import BadRequest
from retune.report import PreparedData
from retune.request import Data, Workspace

ROWS = 30
GOOD = "".join(json.dumps({"messages": chat(number)}) + "\n" for number in range(ROWS)).encode()
ARRAY = json.dumps([{"messages": chat(number)} for number in range(ROWS)]).encode()


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([{"messages": chat(number)} for number in range(ROWS)]), sink)
    return sink.getvalue().to_pybytes()


def delimited(delimiter: str, rows: int = ROWS) -> str:
    lines = [f"prompt{delimiter}completion"]
    lines += [delimiter.join(f'"{message["content"]}"' for message in chat(number)) for number in range(rows)]
    return "\n".join(lines) + "\n"


def prepared(source: Path, folder: Path, **settings: object) -> PreparedData:
    folder.mkdir()
    return prepare(pin(Data(source=str(source), **settings), Workspace()), folder)


Fix = Callable[[Path, str], tuple[Path, dict[str, object]]]


def rename(path: Path, text: str) -> tuple[Path, dict[str, object]]:
    """Gives the file the ending that the message names."""
    ending = re.search(r"Rename it to end in (\.\w+)", text)
    assert ending
    return path.rename(path.with_name(path.name.partition(".")[0] + ".jsonl" * (ending[1] in GZIPPED) + ending[1])), {}


GZIPPED = (".gz", ".bz2", ".xz", ".zst")


def run_command(path: Path, text: str) -> tuple[Path, dict[str, object]]:
    """Runs the command that the message names, and names the file that it wrote."""
    command = re.search(r"`([^`]+)`", text)
    assert command
    subprocess.run(command[1], shell=True, cwd=path.parent, check=True)
    return path.parent / command[1].rpartition("> ")[2], {}


def replace(content: bytes) -> Fix:
    """What a person does who fetches, unpacks or exports the file again."""

    def fix(path: Path, _: str) -> tuple[Path, dict[str, object]]:
        path.write_bytes(content)
        return path, {}

    return fix


def use_setting(path: Path, text: str) -> tuple[Path, dict[str, object]]:
    """Sets what the message names."""
    named = re.search(r"data\.(\w+)=(\w+)", text)
    assert named
    return path, {named[1]: int(named[2]) if named[2].isdigit() else named[2]}


def map_columns(path: Path, text: str) -> tuple[Path, dict[str, object]]:
    """Sets data.columns as the message says."""
    command = re.search(r"--set .*\}'", text)
    assert command
    _, assignment = shlex.split(command[0])
    return path, {"columns": yaml.safe_load(assignment.removeprefix("data.columns="))}


class Broken(NamedTuple):
    """A file, what its refusal says, and how a person follows that."""

    name: str
    content: bytes
    said: str
    fix: Fix


BROKEN: dict[str, Broken] = {
    "empty": Broken("chats.jsonl", b"", "the file is empty", replace(GOOD)),
    "blank lines": Broken("chats.jsonl", b"\n \n\n", "the file has no row", replace(GOOD)),
    "LFS pointer": Broken(
        "chats.jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735294\n",
        "Git LFS pointer, not the data itself. Fetch the data with `git lfs pull`",
        replace(GOOD),
    ),
    "LFS pointer as parquet": Broken(
        "chats.parquet",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735294\n",
        "Git LFS pointer",
        replace(parquet()),
    ),
    "gzip under another name": Broken("chats.jsonl", gzip.compress(GOOD), "the file is gzip", rename),
    "bzip2 under another name": Broken("chats.jsonl", bz2.compress(GOOD), "the file is bzip2", rename),
    "xz under another name": Broken("chats.jsonl", lzma.compress(GOOD), "the file is xz", rename),
    "parquet under another name": Broken("chats.jsonl", parquet(), "the file is parquet", rename),
    "a spreadsheet": Broken(
        "chats.csv", b"PK\x03\x04" + b"\x00" * 99, "a zip archive, or a spreadsheet", replace(delimited(",").encode())
    ),
    "a web page": Broken("chats.jsonl", b"<!DOCTYPE html>\n<html></html>", "the file is a web page", replace(GOOD)),
    "UTF-16": Broken("chats.jsonl", GOOD.decode().encode("utf-16"), "the file is UTF-16", run_command),
    "UTF-16 without a mark": Broken("chats.jsonl", GOOD.decode().encode("utf-16-le"), "UTF-16LE", run_command),
    "UTF-16 CSV": Broken("chats.csv", delimited(",").encode("utf-16"), "the file is UTF-16", run_command),
    "UTF-32": Broken("chats.jsonl", GOOD.decode().encode("utf-32"), "the file is UTF-32", run_command),
    "carriage returns alone": Broken(
        "chats.jsonl", GOOD.replace(b"\n", b"\r"), "its lines end in a carriage return alone", run_command
    ),
    "an array without its end": Broken("chats.json", ARRAY[:-30], "not readable as json", replace(ARRAY)),
    "two lists": Broken(
        "chats.json",
        json.dumps({"train": json.loads(ARRAY), "test": json.loads(ARRAY)}, indent=1).encode(),
        "holds several lists of rows; its keys: train, test",
        replace(ARRAY),
    ),
    "gzip cut off": Broken(
        "chats.jsonl.gz", gzip.compress(GOOD)[:-20], "not readable as json", replace(gzip.compress(GOOD))
    ),
    "parquet cut off": Broken("chats.parquet", parquet()[:-50], "not readable as parquet", replace(parquet())),
    "open quotes": Broken(
        "chats.csv", delimited(",").encode() + b'"open', "not readable as csv", replace(delimited(",").encode())
    ),
    "German columns": Broken(
        "chats.csv",
        delimited(",").replace("prompt,completion", "frage,antwort").encode(),
        "frage, antwort",
        map_columns,
    ),
    "columns with spaces and colons": Broken(
        "chats.csv",
        delimited(",").replace("prompt,completion", "What's asked: text,yes").encode(),
        '"yes"',
        map_columns,
    ),
    "columns of keys and dates": Broken(
        "chats.jsonl",
        b"".join(
            json.dumps({"id": f"68a1-{n}", "create_time": f"2026-11-{n:02}", "title": f"Plant {n}"}).encode() + b"\n"
            for n in range(ROWS)
        ),
        "A row needs a question and an answer",
        replace(GOOD),
    ),
    "two columns of one name": Broken(
        "chats.csv",
        delimited(",").replace("prompt,completion", "completion,completion").encode(),
        "two columns are named 'completion'",
        replace(delimited(",").encode()),
    ),
    "a quote in a cell": Broken(
        "chats.csv",
        delimited(",").replace('"\n', '"\n"He said "yes"","No."\n', 1).encode(),
        "line 3: ",
        replace(delimited(",").replace('"\n', '"\n"He said ""yes""","No."\n', 1).encode()),
    ),
    "a misspelt column": Broken(
        "chats.csv", delimited(",").replace("completion", "completoin").encode(), "completion: completoin", map_columns
    ),
    "no header": Broken(
        "chats.csv",
        delimited(",").replace("prompt,completion", "How do I keep it?,Water it.").encode(),
        "The first line looks like a row",
        replace(delimited(",").encode()),
    ),
    "running text": Broken(
        "chats.jsonl",
        b"".join(json.dumps({"text": f"Story {n}."}).encode() + b"\n" for n in range(ROWS)),
        "A row needs a question and an answer",
        replace(GOOD),
    ),
    "no columns": Broken("chats.jsonl", b"{}\n" * 20, "its columns: none", replace(GOOD)),
    "plain text": Broken(
        "chats.jsonl", b"hello\nworld\n" * 20, "the first one, at 1, is not valid JSON", replace(GOOD)
    ),
    "too few rows": Broken(
        "chats.jsonl", GOOD[: GOOD.index(b"\n") * 5], "5 row(s), and a run needs 12: 10 to train on", replace(GOOD)
    ),
    "one row many times": Broken(
        "chats.jsonl", GOOD + GOOD[: GOOD.index(b"\n") + 1] * 40, "row(s): duplicate", use_setting
    ),
    "weights": Broken(
        "chats.jsonl",
        GOOD.replace(b'days."}', b'days.", "weight": 0}'),
        "row(s): weight on a message",
        use_setting,
    ),
    "half a character": Broken("chats.jsonl", GOOD.replace(b"number 3 ", b"\\ud800 "), "half a character", use_setting),
    "Latin-1": Broken("chats.jsonl", GOOD.replace(b"number 3 ", b"\xe9 "), "not UTF-8", use_setting),
    "an unfit element": Broken("chats.json", ARRAY.replace(b"number 3 ", b"\\ud800 "), "half a character", use_setting),
    "an element of another kind": Broken("chats.json", b"[42, " + ARRAY[1:], "not a JSON object", use_setting),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_by_what_it_is_and_the_fix_helps(case: str, tmp_path: Path) -> None:
    """What was found and what to do; when that is done, the data is usable."""
    broken = BROKEN[case]
    path = tmp_path / "source" / broken.name
    path.parent.mkdir()
    path.write_bytes(broken.content)

    with pytest.raises(BadRequest) as caught:
        prepared(path, tmp_path / "refused")
    text = f"{caught.value} {caught.value.fix}"
    fixed, settings = broken.fix(path, text)

    assert broken.said in text
    assert "raise data.fraction" not in text.lower()
    assert prepared(fixed, tmp_path / "usable", **settings).splits["train"].rows >= 10


PRINTED = b"\n".join(json.dumps({"messages": chat(number)}, indent=2).encode() for number in range(ROWS))


def test_a_broken_object_over_several_lines_refuses_the_file(tmp_path: Path) -> None:
    """Where the next one begins cannot be told, so no row is left out without a word, and the object is named."""
    path = tmp_path / "chats.jsonl"
    path.write_bytes(PRINTED.replace(b"plant number 25", b'plant "number" 25', 1))

    with pytest.raises(BadRequest, match="object 26 is broken"):
        prepared(path, tmp_path / "out", on_bad_row="drop")


@pytest.mark.parametrize(("name", "content"), [("chats.jsonl", GOOD), ("chats.parquet", parquet())])
def test_a_mistake_of_ours_is_not_blamed_on_the_file(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an internal error with a traceback, not a file that is not readable."""
    path = tmp_path / name
    path.write_bytes(content)
    monkeypatch.setattr(Format, "is_plain", False)
    monkeypatch.setattr(Format, "conversation", lambda form, row: row["absent"])

    with pytest.raises(KeyError, match="absent"):
        prepared(path, tmp_path / "out")


def written_by_python(messages: object) -> bytes:
    return b'"' + str(messages).encode().replace(b"LONE", b"\\ud800") + b'"\n'


PYTHON = b"messages\n" + b"".join(written_by_python(chat(number)) for number in range(ROWS))
LONE = json.dumps({"messages": chat(99)}).replace("Water", "\\ud800").encode()
UNWRITABLE: dict[str, tuple[str, bytes, str]] = {
    "half a character beside NaN": ("chats.jsonl", GOOD + b'{"score": NaN, ' + LONE[1:], "half a character"),
    "a huge number beside NaN": (
        "chats.jsonl",
        GOOD + json.dumps({"messages": chat(99), "score": float("nan"), "size": 10**30}).encode(),
        "not valid JSON",
    ),
    "half a character in a wrapped row": (
        "chats.json",
        b'{"data": ' + ARRAY[:-1] + b", " + LONE + b"]}",
        "half a character",
    ),
    "half a character among printed objects": ("chats.jsonl", PRINTED + b"\n" + LONE, "half a character"),
    "half a character in Python text": (
        "chats.csv",
        PYTHON + written_by_python([message | {"name": "LONE"} for message in chat(99)]),
        "messages is not a list",
    ),
    "a number for a key in Python text": (
        "chats.csv",
        PYTHON + written_by_python([message | {1: 2} for message in chat(99)]),
        "messages is not a list",
    ),
    "a huge number in Python text": (
        "chats.csv",
        PYTHON + written_by_python([message | {"size": 10**30} for message in chat(99)]),
        "messages is not a list",
    ),
    "a broken line after a first line longer than what is sniffed": (
        "chats.jsonl",
        GOOD.replace(b"}]}", b'}], "notes": "' + b"," * 70_000 + b'"}\n{"messages": [', 1),
        "not valid JSON",
    ),
    "a first line that is cut off": ("chats.jsonl", b'{"messages": [{"role": "user",\n' + GOOD, "not valid JSON"),
    "Latin-1 in the first row": (
        "chats.csv",
        delimited(",").replace("\n", '\n"caf\xe9","yes"\n', 1).encode("latin-1"),
        "not UTF-8",
    ),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_no_file_can_hold_is_a_bad_row(case: str, tmp_path: Path) -> None:
    """One row, with its reason, and no other is lost."""
    name, content, kind = UNWRITABLE[case]
    path = tmp_path / name
    path.write_bytes(content)

    data = prepared(path, tmp_path / "out", on_bad_row="drop")

    assert sum(split.rows for split in data.splits.values()) == ROWS
    assert [split.dropped for split in data.splits.values() if split.dropped] == [{kind: 1}]
    assert data.model_dump_json()


READ: dict[str, tuple[str, bytes]] = {
    "pretty-printed objects": ("chats.jsonl", PRINTED),
    "NaN in a wrapped row": ("chats.json", b'{"data": ' + ARRAY.replace(b"}]}", b'}], "score": NaN}', 1) + b"}"),
    "wrapped": ("chats.json", b'{"data": ' + ARRAY + b"}"),
    "wrapped in one line, under any name": ("chats.json", b'{"version": 1, "chats": ' + ARRAY + b"}"),
    "as the hub's viewer answers": (
        "chats.json",
        json.dumps(
            {
                "features": [{"feature_idx": 0, "name": "messages"}],
                "rows": [{"row_idx": number, "row": row} for number, row in enumerate(json.loads(ARRAY))],
            }
        ).encode(),
    ),
    "by columns, as pandas writes it": (
        "chats.json",
        json.dumps({"messages": {str(number): chat(number) for number in range(ROWS)}}).encode(),
    ),
    "a single row that opens its list": (
        "chats.json",
        b'{"data": [\n' + b",\n".join(json.dumps({"messages": chat(n)}).encode() for n in range(ROWS)) + b"\n]}",
    ),
    "rows with a list of their own": (
        "chats.jsonl",
        b"".join(
            json.dumps({"question": f"What is {n}?", "answer": f"It is {n}.", "sources": [{"title": f"T{n}"}]}).encode()
            + b"\n"
            for n in range(ROWS)
        ),
    ),
    "numbers as answers": (
        "chats.jsonl",
        b"".join(json.dumps({"prompt": f"{n} + {n}?", "completion": 2 * n}).encode() + b"\n" for n in range(ROWS)),
    ),
    "wrapped over lines": ("chats.json", json.dumps({"v": 1, "rows": json.loads(ARRAY)}, indent=2).encode()),
    "semicolons": ("chats.csv", delimited(";").encode()),
    "bars": ("chats.csv", delimited("|").encode()),
    "a byte order mark": ("chats.csv", delimited(",").encode("utf-8-sig")),
    "Windows line ends": ("chats.jsonl", GOOD.replace(b"\n", b"\r\n")),
    "no line end at the end": ("chats.jsonl", GOOD[:-1]),
    "blank lines between": ("chats.jsonl", GOOD.replace(b"\n", b"\n\n")),
    "NaN beside": ("chats.jsonl", GOOD.replace(b"}]}", b'}], "score": NaN}')),
    "plain under a name of zstandard": ("chats.jsonl.zst", GOOD),
    "Python text": (
        "chats.csv",
        b"messages\n" + b"".join(b'"' + str(chat(number)).encode() + b'"\n' for number in range(ROWS)),
    ),
}


@pytest.mark.parametrize("case", READ)
def test_what_says_enough_is_read(case: str, tmp_path: Path) -> None:
    """No row is lost."""
    name, content = READ[case]
    path = tmp_path / "source" / name
    path.parent.mkdir()
    path.write_bytes(content)

    data = prepared(path, tmp_path / "out")

    assert sum(split.rows for split in data.splits.values()) == ROWS


def test_a_link_is_read_by_its_own_name(tmp_path: Path) -> None:
    """What it leads to may be named by a digest, as in a store of such files."""
    (tmp_path / "4d7a").write_bytes(GOOD)
    (tmp_path / "chats.jsonl").symlink_to("4d7a")

    assert sum(split.rows for split in prepared(tmp_path / "chats.jsonl", tmp_path / "out").splits.values()) == ROWS


def test_a_single_row_with_a_list_of_objects_is_a_row(tmp_path: Path) -> None:
    """Not what holds the rows."""
    row = {"question": "What is it?", "answer": "It is this.", "sources": [{"title": "T"}, {"title": "U"}]}
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")

    assert prepared(tmp_path, tmp_path / "out").splits["test"].rows == 1


def test_a_viewer_s_row_with_cut_texts_is_a_bad_row(tmp_path: Path) -> None:
    """The model would learn to stop there."""
    rows = [{"row_idx": n, "row": {"messages": chat(n)}, "truncated_cells": []} for n in range(ROWS)]
    rows[3]["truncated_cells"] = ["messages"]
    (tmp_path / "chats.json").write_text(json.dumps({"features": [], "rows": rows}))

    data = prepared(tmp_path / "chats.json", tmp_path / "out", on_bad_row="drop")

    assert sum(split.rows for split in data.splits.values()) == ROWS - 1
    assert {kind for split in data.splits.values() for kind in split.dropped} == {"texts that were cut off"}


def test_a_column_that_is_not_read_may_hold_anything(tmp_path: Path) -> None:
    """Such as a date that Python does not have."""
    rows = [{"messages": chat(number)} for number in range(ROWS)]
    table = pa.Table.from_pylist(rows).append_column("seen", pa.array([2**40] * ROWS, pa.timestamp("s")))
    pq.write_table(table, tmp_path / "chats.parquet")

    data = prepared(tmp_path / "chats.parquet", tmp_path / "out")

    assert sum(split.rows for split in data.splits.values()) == ROWS


def test_a_path_that_is_not_there_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its folder is here; the message names what comes near."""
    (tmp_path / "data" / "chats").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(BadRequest, match=r"no such folder or file .*There is data/chats"):
        pin(Data(source="data/chat"), Workspace())

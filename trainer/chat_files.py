"""Reads files of conversations: jsonl, json, csv, tsv and parquet with a column `messages`.

Reads only; which rows are fit to train on is decided in `trainer.preprocess`.
Source: the data contract of Azure's chat_completion_datapreprocess component.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

from trainer.step import StepError

REQUIRED_COLUMN = "messages"
OPTIONAL_COLUMN = "tools"

Row = dict[str, object]
Message = dict[str, str]


def find_file(path: Path) -> Path:
    """The data file at a path, or the only one in a folder or MLTable.

    Raises: StepError when there is none, or more than one; the user passes the file itself.
    """
    if path.is_file():
        check_format(path)
        return path
    files = sorted(file for file in path.rglob("*") if file.suffix in READERS) if path.is_dir() else []
    if len(files) == 1:
        return files[0]
    names = ", ".join(file.name for file in files) or "none"
    raise StepError(
        f"{str(path)!r} should be or hold one data file ({formats()}); found {names}. Pass the file itself."
    )


def check_format(path: Path) -> None:
    if path.suffix not in READERS:
        raise StepError(f"{path.name!r} has the format {path.suffix!r}. Convert it to one of {formats()}.")


def formats() -> str:
    return ", ".join(READERS)


def read_rows(path: Path) -> list[Row]:
    """Every row with its `messages` and, where present, `tools`; all other columns are left out.

    Raises: StepError with the line or row of the first one that cannot be read.
    """
    rows = READERS[path.suffix](path)
    for number, row in enumerate(rows, start=1):
        if REQUIRED_COLUMN not in row:
            columns = ", ".join(map(str, row)) or "none"
            raise StepError(
                f"Row {number} of {path.name!r} has no column {REQUIRED_COLUMN!r} (its columns: {columns}). "
                'Each row needs "messages": [{"role": "user", "content": "..."}, ...].'
            )
    return [{name: row.get(name) for name in (REQUIRED_COLUMN, OPTIONAL_COLUMN)} for row in rows]


def read_jsonl(path: Path) -> list[Row]:
    rows = []
    # A row ends at a line feed alone: texts may hold other characters that part lines.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            row = parse_json(line, f"Line {number} of {path.name!r}")
            if not isinstance(row, dict):
                raise StepError(
                    f"Line {number} of {path.name!r} is no JSON object. Write one object with 'messages' a line."
                )
            rows.append(row)
    return rows


def read_json(path: Path) -> list[Row]:
    rows = parse_json(path.read_text(encoding="utf-8-sig"), repr(path.name))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise StepError(
            f"{path.name!r} is no JSON list of objects. Write a list of rows, or one object a line as .jsonl."
        )
    return rows


def read_delimited(path: Path) -> list[Row]:
    csv.field_size_limit(2**31 - 1)
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows: list[Row] = [{**row} for row in csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")]
    for number, row in enumerate(rows, start=1):
        for name in (REQUIRED_COLUMN, OPTIONAL_COLUMN):
            if row.get(name):
                row[name] = parse_json(str(row[name]), f"Column {name!r} in row {number} of {path.name!r}")
    return rows


def read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


def parse_json(text: str, location: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise StepError(f"{location} is no JSON ({error}). Write text with json.dumps, not str.") from error


def messages_of(row: Row) -> list[Message]:
    """The messages of a row whose form is checked (preprocess.check_messages)."""
    return cast("list[Message]", row[REQUIRED_COLUMN])


def tools_of(row: Row) -> list[dict | Callable] | None:
    """The tools that come with a row, as its template takes them."""
    return cast("list[dict | Callable] | None", row[OPTIONAL_COLUMN])


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".parquet": read_parquet,
}

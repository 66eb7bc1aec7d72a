"""Rows of JSON lines, of a JSON array and of comma or tab separated values, each with its number."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, NamedTuple

import orjson

from chatdata import checks
from chatdata.conversations import COLUMNS, LEVELS, Conversation, from_row, is_deep
from retune.texts import SHOWN_CHARACTERS

TOO_DEEP = f"nested deeper than {LEVELS} levels"
NO_ROW = Conversation(None)


class BadFile(Exception):
    """A file that cannot be read; the text says which and why."""


class Row(NamedTuple):
    """One row, or kind and detail of why it could not be read."""

    number: int
    conversation: Conversation
    problem: tuple[str, str] | None = None


def json_rows(stream: IO[bytes]) -> Iterator[Row]:
    """Rows of JSON lines, or of one JSON array."""
    start = stream.tell()
    beginning = stream.read(64).lstrip()[:1]
    stream.seek(start)
    if beginning == b"[":
        yield from array_rows(stream.read())
        return
    for number, line in enumerate(stream, start=1):
        if line.isspace():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield Row(number, NO_ROW, unreadable(line, error))
            continue
        problem = ambiguous(line, value)
        yield Row(number, NO_ROW, (checks.NOT_JSON, problem)) if problem else from_object(number, value)


def array_rows(text: bytes) -> Iterator[Row]:
    """The elements of a JSON array."""
    values = orjson.loads(text)
    if may_repeat_keys(text, values) and (name := find_repeated_key(text)):
        raise ValueError(f"the key '{name}' stands twice in an object")
    for number, value in enumerate(values, start=1):
        yield Row(number, NO_ROW, (checks.NOT_JSON, TOO_DEEP)) if is_deep(value) else from_object(number, value)


def from_object(number: int, value: object) -> Row:
    if isinstance(value, dict):
        return Row(number, from_row(value))
    return Row(number, NO_ROW, (checks.NOT_OBJECT, f"it is {checks.kind_of(value)}"))


def ambiguous(line: bytes, value: object) -> str | None:
    """Why a line is ambiguous: a key that stands twice, of which the parser kept the last, or its depth.

    Only a line that has more of the usual keys, or more brackets, than its messages is looked at closely.
    """
    if may_repeat_keys(line, [value]) and (name := find_repeated_key(line)):
        return f"the key '{name}' stands twice"
    return TOO_DEEP if line.count(b"[") + line.count(b"{") > LEVELS and is_deep(value) else None


def may_repeat_keys(text: bytes, rows: list[object]) -> bool:
    """Whether a text has the keys of chats more often than its rows and their messages have them."""
    chats = [row.get("messages") for row in rows if isinstance(row, dict)]
    messages = sum(len(chat) for chat in chats if isinstance(chat, list))
    return text.count(b'"messages"') > len(chats) or max(text.count(b'"role"'), text.count(b'"content"')) > messages


def find_repeated_key(text: bytes) -> str | None:
    """The first key that stands twice in one object of a JSON text; None in one that is too deep to be looked at."""
    repeated: list[str] = []

    def look(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.extend(name for name in members if names.count(name) > 1)
        return members

    with suppress(RecursionError):
        json.loads(text, object_pairs_hook=look)
    return repeated[0] if repeated else None


def unreadable(line: bytes, error: orjson.JSONDecodeError) -> tuple[str, str]:
    """Why a line is no JSON."""
    try:
        line.decode()
    except UnicodeDecodeError as undecodable:
        return checks.NOT_UTF8, f"byte {undecodable.start}"
    if "surrogate" in str(error) or "hex escape" in str(error):
        return checks.LONE_SURROGATES, "an escape such as \\ud800"
    return checks.NOT_JSON, str(error)[:120]


def csv_rows(name: str, stream: IO[bytes]) -> Iterator[Row]:
    """Rows of comma or tab separated values, whose cells `messages` and `tools` hold JSON.

    Raises:
        BadFile: there is no column `messages`.
    """
    # Bytes that are not UTF-8 become lone surrogates, which are found row by row.
    with io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="") as text:
        lines = csv.reader(text, delimiter="\t" if ".tsv" in name else ",", strict=True)
        header = next(lines, [])
        if "messages" not in header:
            raise BadFile(f"{name}: no column 'messages'; its columns: {list_columns(header)}.")
        wanted = [header.index(column) if column in header else None for column in COLUMNS]
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                detail = f"{len(cells)}, the header has {len(header)}"
                yield Row(lines.line_num, NO_ROW, (checks.OTHER_COLUMNS, detail))
                continue
            messages, tools = ("" if number is None else cells[number] for number in wanted)
            try:
                f"{messages}{tools}".encode()
            except UnicodeEncodeError as error:
                detail = f"character {error.start} of the cell"
                yield Row(lines.line_num, NO_ROW, (checks.NOT_UTF8, detail))
                continue
            yield Row(lines.line_num, from_row({"messages": messages, "tools": tools or None}))


def list_columns(columns: list[str]) -> str:
    """Columns for a message; a file without a header has its first row in their place, which may be long."""
    text = ", ".join(columns) or "none"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."

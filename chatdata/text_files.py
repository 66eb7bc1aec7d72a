"""Rows of JSON lines, of a JSON array and of an object that holds one, each with its number."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO, NamedTuple

import orjson

from chatdata import checks
from chatdata.conversations import LEVELS, is_deep
from chatdata.formats import is_exchange

TOO_DEEP = f"nested deeper than {LEVELS} levels"
SNIFFED_BYTES = 1 << 16
# A first line that begins an object with a list of objects that are no messages.
ROW_LISTS = rb'"(data|rows|examples|train|items|records|instances|samples)"\s*:\s*\['
WRAPPED, OPENS_ROWS = re.compile(rb"\{\s*" + ROW_LISTS + rb"\s*(\{|$)"), re.compile(ROW_LISTS + rb"$")
# Lists of objects that a row may have of its own.
NO_TABLES = ("tools", "functions", "features")
# What a message has, and a row has not.
TURN_KEYS = {"role", "from"}
# Texts in quotes, which may hold the others, and what structures a JSON text.
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)
# What stands between two objects.
BETWEEN = re.compile(r"[\s,]*")


class BadFile(Exception):
    """A file that cannot be read; the text says which and why."""


class Row(NamedTuple):
    """One row, or kind and detail of why it could not be read."""

    number: int
    columns: dict[str, object]
    problem: tuple[str, str] | None = None


def json_rows(stream: IO[bytes]) -> Iterator[Row]:
    """Rows of JSON lines, of one JSON array, or of an object that holds one.

    Raises:
        ValueError: the text is none of these; what it is instead is named.
    """
    start = stream.tell()
    beginning = stream.read(SNIFFED_BYTES)
    stream.seek(start)
    if beginning.lstrip()[:1] == b"[":
        yield from array_rows(stream.read())
    elif is_one_document(beginning) or is_one_line_of_rows(stream, beginning):
        yield from wrapped_rows(stream.read())
    else:
        yield from line_rows(stream)


def is_one_document(beginning: bytes) -> bool:
    """Whether a text that begins so is one object over several lines, or one that holds the rows in a list."""
    first, line_end, rest = beginning.lstrip().partition(b"\n")
    first = first.strip()
    if not first.startswith(b"{"):
        return False
    # A line that is longer than what was read ends anywhere.
    over_lines = bool(line_end) and first.endswith((b"[", b"{", b","))
    # A line that breaks off before a row is a broken one, unless it opens the list of the rows.
    breaks_off = is_row(rest.lstrip().partition(b"\n")[0]) and not OPENS_ROWS.search(first)
    return (over_lines and not breaks_off) or (not rest.strip() and bool(WRAPPED.match(first)))


def is_row(line: bytes) -> bool:
    """Whether a line is a row of JSON lines by itself, so that a broken line before it is no more than that."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and not TURN_KEYS & value.keys()


def is_one_line_of_rows(stream: IO[bytes], beginning: bytes) -> bool:
    """Whether a text that begins so is one line, an object that holds rows rather than is one."""
    if not beginning.lstrip().startswith(b"{"):
        return False
    start = stream.tell()
    line, rest = stream.readline(), stream.read(SNIFFED_BYTES)
    stream.seek(start)
    try:
        value = None if rest.strip() else orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and (is_column_table(value) or bool(lists_of_rows(value)))


def line_rows(stream: IO[bytes]) -> Iterator[Row]:
    """Rows of JSON lines."""
    for number, line in enumerate(stream, start=1):
        if line.isspace():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            value = parse_constants(line)
            if value is None:
                yield Row(number, {}, unreadable(line, error))
                continue
            if problem := unwritable(value):
                yield Row(number, {}, problem)
                continue
        problem = ambiguous(line, value)
        yield Row(number, {}, (checks.NOT_JSON, problem)) if problem else from_object(number, value)


class Constant(float):
    """NaN or an infinity, which JSON does not have; harmless in a column that is not read."""


def parse_constants(text: bytes) -> object:
    """The value of a text that is JSON but for NaN and infinities; None for any other."""
    if b"NaN" not in text and b"Infinity" not in text:
        return None
    try:
        return json.loads(text, parse_constant=Constant)
    except (ValueError, RecursionError):
        return None


def holds_constant(value: object) -> bool:
    """Whether NaN or an infinity is somewhere in a value."""
    match value:
        case dict(members):
            return any(map(holds_constant, members.values()))
        case list(entries):
            return any(map(holds_constant, entries))
    return isinstance(value, Constant)


def unwritable(value: object) -> tuple[str, str] | None:
    """Why a value that Python's parser has read cannot be written again: half a character, or a number of more than
    64 bits. NaN and infinities are another matter (`holds_constant`)."""
    try:
        orjson.dumps(value, default=float.__repr__)
    except orjson.JSONEncodeError as error:
        if "surrogate" in str(error):
            return checks.LONE_SURROGATES, "an escape such as \\ud800"
        return checks.NOT_JSON, str(error)[:60]
    return None


def wrapped_rows(text: bytes) -> Iterator[Row]:
    """The rows of an object that holds them in a list, such as `{"data": [...]}`, or that is a row itself; or of
    objects over several lines each.

    Raises:
        ValueError: it holds none, or the text is no JSON.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        try:
            # NaN, or half a character, somewhere in it.
            document = json.loads(text, parse_constant=Constant)
        except (ValueError, RecursionError):
            yield from printed_rows(text, error)
            return
    if is_column_table(document):
        for number in document[next(iter(document))]:
            yield from_python(int(number) + 1, {name: column.get(number) for name, column in document.items()})
        return
    lists = lists_of_rows(document)
    if not lists:
        yield from_python(1, document)
        return
    name = next(iter(lists)) if len(lists) == 1 else None
    if name is None:
        keys = ", ".join(map(str, document))
        raise ValueError(
            f"it is one JSON object that holds several lists of rows; its keys: {keys[:200]}. Write each list to a "
            "file of its own, named for its split"
        )
    for number, value in enumerate(lists[name], start=1):
        # The hub's viewer answers with each row beside its number, and says which of its texts it has cut.
        if isinstance(value, dict) and {"row", "row_idx"} <= value.keys():
            cut = value.get("truncated_cells")
            yield Row(number, {}, (checks.CUT_OFF, f"{cut}"[:60])) if cut else from_python(number, value["row"])
        else:
            yield from_python(number, value)


def lists_of_rows(document: dict[str, object]) -> dict[str, list[object]]:
    """The lists of rows that an object holds; none of an object that is a row itself."""
    if any(map(is_chat, document.values())) or is_exchange(document):
        return {}
    return {
        name: value
        for name, value in document.items()
        if isinstance(value, list) and is_table(value) and name not in NO_TABLES
    }


def is_table(value: object) -> bool:
    """Whether a value is a list of objects that are rows rather than messages."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return not TURN_KEYS & value[0].keys()


def is_chat(value: object) -> bool:
    """Whether a value is a list of messages, so that what holds it is a row."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and bool(TURN_KEYS & value[0].keys())


def is_column_table(document: dict[str, object]) -> bool:
    """Whether an object is a table by columns, each an object of values by row number, as pandas writes it."""
    columns = list(document.values())
    return bool(columns) and all(
        isinstance(column, dict) and bool(column) and all(map(str.isdecimal, column)) for column in columns
    )


def printed_rows(text: bytes, error: orjson.JSONDecodeError) -> Iterator[Row]:
    """Objects one after the other, each over several lines.

    Raises:
        ValueError: the text is no JSON from the start, or an object is broken, so that the next one cannot be told.
    """
    decoder, document, number = json.JSONDecoder(parse_constant=Constant), text.decode(), 0
    position = skip_between(document, 0)
    while position < len(document):
        number += 1
        try:
            value, position = decoder.raw_decode(document, position)
        except (ValueError, RecursionError) as problem:
            if number == 1:
                raise error from problem
            raise ValueError(f"object {number} is broken: {problem}. Mend it, or write one object a line") from problem
        yield from_python(number, value)
        position = skip_between(document, position)


def skip_between(text: str, position: int) -> int:
    """Where the next object begins."""
    match = BETWEEN.match(text, position)
    return match.end() if match else position


def array_rows(text: bytes) -> Iterator[Row]:
    """The elements of a JSON array; where one is broken, the others are rows all the same.

    Raises:
        ValueError: the text is no array, or it ends too early.
    """
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        yield from broken_array_rows(text, error)
        return
    repeated = find_repeated_key(text) if may_repeat_keys(text, values) else None
    if repeated:
        raise ValueError(f"the key '{repeated}' stands twice in an object")
    for number, value in enumerate(values, start=1):
        yield from_element(number, value)


def broken_array_rows(text: bytes, error: orjson.JSONDecodeError) -> Iterator[Row]:
    """The elements of an array that is no JSON as a whole, each parsed by itself.

    Raises:
        ValueError: it has no end.
    """
    elements = split_array(text)
    if elements is None:
        raise error
    for number, element in enumerate(elements, start=1):
        try:
            yield from_element(number, orjson.loads(element))
        except orjson.JSONDecodeError as problem:
            value = parse_constants(element)
            yield from_python(number, value) if value is not None else Row(number, {}, unreadable(element, problem))


def split_array(text: bytes) -> list[bytes] | None:
    """The texts of an array's elements; None where its brackets do not match."""
    depth, start, elements = 0, 0, []
    for token in TOKEN.finditer(text):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
            start = token.end() if depth == 1 else start
        elif mark in (b"]", b"}"):
            depth -= 1
            if depth == 0:
                elements.append(text[start : token.start()])
                return elements if not text[token.end() :].strip() else None
        elif mark == b"," and depth == 1:
            elements.append(text[start : token.start()])
            start = token.end()
    return None


def from_element(number: int, value: object) -> Row:
    return Row(number, {}, (checks.NOT_JSON, TOO_DEEP)) if is_deep(value) else from_object(number, value)


def from_python(number: int, value: object) -> Row:
    """The row of an element that Python's parser may have read, which takes what cannot be written."""
    row = from_element(number, value)
    return row if row.problem or not (problem := unwritable(value)) else Row(number, {}, problem)


def from_object(number: int, value: object) -> Row:
    if isinstance(value, dict):
        return Row(number, value)
    return Row(number, {}, (checks.NOT_OBJECT, f"it is {checks.kind_of(value)}"))


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
    return checks.NOT_JSON, f"{str(error)[:60]}: {line[:40].decode(errors='replace').strip()!r}"


def unfit_text(values: Iterable[object]) -> tuple[str, str] | None:
    """What is wrong with the texts of a row that was parsed: half characters of CSV, or numbers that JSON does not
    have."""
    for value in values:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                return checks.NOT_UTF8, f"character {error.start} of the cell"
        elif holds_constant(value):
            return checks.NOT_JSON, "NaN or Infinity"
    return None

"""Rows of a source as conversations: the one place where a row's values become messages, whatever the file's format.

A conversation is a list of messages, objects with `role` and `content` and perhaps more. Most sources have no more than
these two in any row, both text: then a whole column is taken over as it is, a polars Series of type CONVERSATION.
"""

from typing import NamedTuple

import orjson
import polars as pl
import pyarrow as pa

from chatdata import checks

# The columns that are read; the component drops all others.
COLUMNS = ("messages", "tools")
CONVERSATION = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
# A conversation has few; beyond these a row is meant to exhaust the stack of what reads it.
LEVELS = 64
# Kinds and details of rows that could not be read, by position.
Broken = dict[int, tuple[str, str]]


class Conversation(NamedTuple):
    """One row; both values are as wrong as they were in the file, until they are checked."""

    messages: object
    tools: object = None


def from_row(row: dict[str, object]) -> Conversation:
    """The conversation of a row's columns, by name."""
    return Conversation(tidy(parse_text(row.get("messages"))), parse_text(row.get("tools")))


def from_columns(batch: pa.RecordBatch, broken: Broken) -> pl.Series | list[Conversation]:
    """The conversations of a batch of rows; values that are not UTF-8 are noted as broken."""
    if batch.schema.names == ["messages"] and is_plain(batch.column(0)):
        return from_plain(batch.column(0))
    columns = [values_of(column, broken) for column in batch.columns]
    return [from_row(dict(zip(batch.schema.names, row, strict=True))) for row in zip(*columns, strict=True)]


def is_plain(column: pa.Array) -> bool:
    """Whether a column holds nothing but lists of role and content, without a null, in valid UTF-8."""
    if not pa.types.is_list(column.type) or not pa.types.is_struct(column.type.value_type) or column.null_count:
        return False
    messages = column.flatten()
    if sorted(field.name for field in messages.type) != ["content", "role"] or messages.null_count:
        return False
    if any(text.null_count or not pa.types.is_string(text.type) for text in messages.flatten()):
        return False
    try:
        # Polars takes over invalid UTF-8 without an error.
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def from_plain(column: pa.ListArray) -> pl.Series:
    """A plain column, role first in each message; the texts are not copied."""
    fields = {field.name: column.values.field(number) for number, field in enumerate(column.values.type)}
    messages = pa.StructArray.from_arrays([fields["role"], fields["content"]], ["role", "content"])
    return pl.Series("messages", pl.from_arrow(pa.ListArray.from_arrays(column.offsets, messages)), CONVERSATION)


def to_series(conversations: list[list[dict[str, object]]]) -> pl.Series:
    """Roles and contents of well-formed conversations."""
    messages = [(row, message) for row, messages in enumerate(conversations) for message in messages]
    columns = {"row": [row for row, _ in messages]}
    columns |= {name: [message[name] for _, message in messages] for name in ("role", "content")}
    turns = pl.DataFrame(columns, {"row": pl.UInt32, "role": pl.String, "content": pl.String})
    return turns.group_by("row", maintain_order=True).agg(messages=pl.struct("role", "content"))["messages"]


def to_json(messages: pl.Expr) -> pl.Expr:
    """The line of each row that has nothing but its messages."""
    return pl.struct(messages=messages).struct.json_encode()


def encode_messages(conversations: pl.Series | list[Conversation]) -> list[bytes]:
    """The messages of each row as JSON, whether they are fit or not."""
    if isinstance(conversations, pl.Series):
        lines = pl.DataFrame({"messages": conversations}).select(to_json(pl.col("messages"))).to_series()
        return [line.removeprefix('{"messages":').removesuffix("}").encode() for line in lines]
    return [orjson.dumps(conversation.messages, default=str) for conversation in conversations]


def lines_of(conversation: Conversation) -> tuple[str | None, str | None]:
    """The messages of a row that has more than roles and contents as JSON, as `to_json` writes others; and its line."""
    messages, tools = conversation
    if tools is None and all(len(message) == 2 for message in messages):
        return None, None
    rows = [{"messages": messages}, {"messages": messages} if tools is None else {"messages": messages, "tools": tools}]
    coded, line = (orjson.dumps(row, default=str).decode() for row in rows)
    return coded, line


def values_of(column: pa.Array, broken: Broken) -> list[object]:
    """A column's values, null for one that is not UTF-8."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        values = []
        for position, value in enumerate(column):
            try:
                values.append(value.as_py())
            except UnicodeDecodeError as error:
                values.append(None)
                broken[position] = (checks.NOT_UTF8, f"byte {error.start}")
        return values


def parse_text(value: object) -> object:
    """A list or object that was written as JSON text; anything else, and what is nested too deep, as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    return value if is_deep(parsed) else parsed


def is_deep(value: object) -> bool:
    """Whether lists and objects are nested in more than `LEVELS` levels."""
    level = [value]
    for _ in range(LEVELS):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, dict | list) for item in level)


def tidy(messages: object) -> object:
    """Messages with role and content first and without null fields, so that a row is the same in any format."""
    if not isinstance(messages, list):
        return messages
    return [tidy_message(message) if isinstance(message, dict) else message for message in messages]


def tidy_message(message: dict[str, object]) -> dict[str, object]:
    known = {name: message[name] for name in ("role", "content") if name in message}
    if len(known) == len(message):
        return known
    return known | {name: value for name, value in message.items() if name not in known and value is not None}

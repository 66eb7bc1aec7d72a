"""Rows of a source as conversations: the one place where a row's values become messages, whatever the file's format.

A conversation is a list of messages, objects with `role` and `content` and perhaps more. Most sources have no more than
these two in any row, both text: then a whole column is taken over as it is, a polars Series of type CONVERSATION.
"""

import ast
import re
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import orjson
import polars as pl
import pyarrow as pa

from chatdata import checks
from chatdata.checks import ROLES

if TYPE_CHECKING:
    from chatdata.formats import Format

CONVERSATION = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
# A conversation has few; beyond these a row is meant to exhaust the stack of what reads it.
LEVELS = 64
# Names that OpenAI gives to two roles in later, and in earlier, versions of its chats.
OTHER_ROLES = {"developer": "system", "function": "tool"}
# What Python writes for a list of objects; more brackets than a long chat has are meant to exhaust its parser.
PYTHON_LIST = re.compile(r"\s*\[\s*\{\s*'")
PYTHON_BRACKETS = 2000
NUMPY_SEPARATOR = re.compile(r"\}\s*\n\s*\{")
# Kinds and details of rows that could not be read, by position.
Broken = dict[int, tuple[str, str]]


Messages = list[dict[str, Any]]


class Conversation(NamedTuple):
    """One row; both values are as wrong as they were in the file, until they are checked."""

    messages: object
    tools: object = None

    def checked(self) -> Messages:
        """The messages of a row whose form has been checked."""
        return cast("Messages", self.messages)


def from_columns(batch: pa.RecordBatch, form: "Format", broken: Broken) -> pl.Series | list[Conversation]:
    """The conversations of a batch of rows; values that are not UTF-8 are noted as broken."""
    if form.is_plain and batch.num_columns == 1 and is_plain(column := narrowed(batch.column(0))):
        return from_plain(column)
    columns = [values_of(column, broken) for column in batch.columns]
    rows = zip(*columns, strict=True) if columns else ()
    return [form.conversation(dict(zip(batch.schema.names, row, strict=True))) for row in rows]


def narrowed(column: pa.Array) -> pa.Array:
    """A column of lists of structs of texts with 32-bit offsets, as other writers have them; any other as it is."""
    kind = column.type
    if not pa.types.is_large_list(kind) and not pa.types.is_list(kind):
        return column
    if not pa.types.is_struct(kind.value_type) or kind.value_type.num_fields != 2:
        return column
    fields = [kind.value_type.field(number) for number in range(2)]
    if pa.types.is_list(kind) and all(pa.types.is_string(field.type) for field in fields):
        return column
    if not all(pa.types.is_large_string(field.type) or pa.types.is_string(field.type) for field in fields):
        return column
    wanted = pa.list_(pa.struct([pa.field(field.name, pa.string()) for field in fields]))
    try:
        return column.cast(wanted)
    except pa.ArrowInvalid:
        return column


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
    messages, tools = conversation.checked(), conversation.tools
    if tools is None and all(len(message) == 2 for message in messages):
        return None, None
    rows = [{"messages": messages}, {"messages": messages} if tools is None else {"messages": messages, "tools": tools}]
    coded, line = (orjson.dumps(row, default=str).decode() for row in rows)
    return coded, line


def values_of(column: pa.Array, broken: Broken) -> list[object]:
    """A column's values, null for one that is not UTF-8 or has no like in Python, such as a time in nanoseconds."""
    try:
        return [without_padding(value) for value in column.to_pylist()]
    except (ValueError, OverflowError):
        values = []
        for position, value in enumerate(column):
            try:
                values.append(without_padding(value.as_py()))
            except UnicodeDecodeError as error:
                values.append(None)
                broken[position] = (checks.NOT_UTF8, f"byte {error.start}")
            except (ValueError, OverflowError) as error:
                values.append(None)
                broken[position] = (checks.NOT_TEXT, str(error)[:60])
        return values


def without_padding(value: object) -> object:
    """A list of a column without the nulls by which Arrow fills up the objects in it; anything else as it is."""
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _without_nulls(value: object) -> object:
    """Messages keep `content`, because a null there means something."""
    match value:
        case dict(members):
            return {
                name: _without_nulls(member)
                for name, member in members.items()
                if member is not None or name in ("role", "content")
            }
        case list(entries):
            return [_without_nulls(entry) for entry in entries]
    return value


def parse_text(value: object) -> object:
    """A list or object that was written as JSON text, or by Python's `str`; anything else, and what is nested too deep,
    as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return parse_python(value)
    return value if is_deep(parsed) else parsed


def parse_python(text: str) -> object:
    """The list that Python, or numpy, has written as text; any other text, and a list that JSON cannot hold, as it
    is."""
    if PYTHON_LIST.match(text) is None or text.count("[") + text.count("{") > PYTHON_BRACKETS:
        return text
    try:
        # numpy writes line ends in the place of commas; inside a text Python writes none.
        value = ast.literal_eval(NUMPY_SEPARATOR.sub("},\\n{", text.strip()))
        # Python's texts may hold half characters, its keys may be numbers, and its numbers may have any length.
        orjson.dumps(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
    return value


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
    """A message in the one spelling that is written: text for its parts, `tool_calls` for the older `function_call`,
    and an empty text beside a bare tool call, because templates add to what they find there."""
    if len(message) == 2 and type(message.get("content")) is str and message.get("role") in ROLES:
        return {"role": message["role"], "content": message["content"]}
    extra = {name: value for name, value in message.items() if name not in ("role", "content") and value is not None}
    if isinstance(call := extra.get("function_call"), dict) and "tool_calls" not in extra:
        extra["tool_calls"] = [{"type": "function", "function": call}]
        del extra["function_call"]
    content = plain_text(message.get("content"))
    known: dict[str, object] = {}
    if "role" in message:
        role = message["role"]
        known["role"] = OTHER_ROLES.get(role, role) if isinstance(role, str) else role
    if content is None and extra.get("tool_calls"):
        content = ""
    if "content" in message or content is not None:
        known["content"] = content
    return known | extra


def plain_text(content: object) -> object:
    """The text of a list of parts, where all are text; anything else as it is."""
    if not isinstance(content, list) or not content:
        return content
    texts = [part if isinstance(part, str) else text_of_part(part) for part in content]
    return "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else content


def text_of_part(part: object) -> str | None:
    """The text of a part `{"type": "text", "text": ...}`; None for a picture or a sound."""
    if not isinstance(part, dict) or part.get("type", "text") not in ("text", "input_text", "output_text"):
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None

"""The shapes of chat data that are recognised, and how a row of each becomes a conversation.

A shape has parts, such as `prompt` and `completion`, and the column names by which each part is known. `recognise`
finds the shape of a file from its columns and first rows; `data.format` names one, `data.columns` maps other names.
"""

import difflib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import yaml

from chatdata import checks, turns
from chatdata.conversations import Conversation, parse_text, tidy
from retune.data_settings import FORMATS, Data

Row = Mapping[str, object]
Parts = dict[str, object]
SAMPLE_ROWS = 20
# No column has a longer name.
LONGEST_NAME = 60
# An address, or one word with a digit.
IDENTIFIER = re.compile(r"https?://\S*|[^\W\d]*[\d.:/+-][\w.:/+-]*")
PLAIN_YAML = re.compile(r"[^\W\d]\w*")
SYSTEM = ("system", "system_prompt", "system_message")
TOOLS = ("tools", "functions")


class UnknownFormat(Exception):
    """Columns that make no known shape; the text says what there is, what comes nearest and what to set."""


class Shape(NamedTuple):
    """A shape of rows."""

    # The column names of each part, the usual name first; the parts that a row must have.
    parts: dict[str, tuple[str, ...]]
    required: tuple[str, ...]
    # From the values of the parts to messages.
    convert: Callable[[Parts], object]


def from_openai(parts: Parts) -> object:
    return turns.with_system(parse_text(parts.get("messages")), parts.get("system"))


def from_turns(parts: Parts) -> object:
    return turns.with_system(turns.to_messages(turn_list(parts.get("messages"))), parts.get("system"))


def turn_list(value: object) -> object:
    """The list of turns that a value holds, also as JSON text or as an object of lists, as `datasets` writes it."""
    parsed = parse_text(value)
    if not isinstance(parsed, dict) or not all(isinstance(column, list) for column in parsed.values()):
        return parsed
    columns = list(parsed.values())
    if len({len(column) for column in columns}) != 1:
        return parsed
    return [dict(zip(parsed, turn, strict=True)) for turn in zip(*columns, strict=True)]


def from_alpaca(parts: Parts) -> object:
    history = parse_text(parts.get("history"))
    earlier = turns.to_messages(history) if isinstance(history, list) else []
    question = turns.joined(parts.get("instruction"), parts.get("input"))
    return turns.exchange(question, parts.get("output"), parts.get("system"), earlier)


def from_pair(question: str, answer: str) -> Callable[[Parts], object]:
    """The conversion of rows that are one question and one answer."""

    def convert(parts: Parts) -> object:
        asked = parts.get(question)
        if "context" in parts:
            asked = turns.joined(parts["context"], asked)
        return turns.exchange(asked, parts.get(answer), parts.get("system"))

    return convert


def from_preference(parts: Parts) -> object:
    """The chosen side: messages, a transcript, or the answer to the prompt."""
    chosen = parts.get("chosen")
    # An answer may be JSON for its own sake.
    if turns.are_turns(parsed := parse_text(chosen)):
        chosen = parsed
    messages = turns.from_transcript(chosen) if isinstance(chosen, str) else turns.to_messages(chosen)
    if turns.is_whole(messages):
        return turns.with_system(messages, parts.get("system"))
    prompt = parts.get("prompt")
    if isinstance(asked := parse_text(prompt), dict) and "messages" in asked:
        # OpenAI's preference rows, whose prompt is an object with the messages and the tools.
        parts["tools"], prompt = asked.get("tools"), asked["messages"]
    return turns.exchange(prompt, chosen, parts.get("system"))


SHAPES: dict[str, Shape] = {
    "openai": Shape({"messages": ("messages",), "tools": TOOLS, "system": SYSTEM}, ("messages",), from_openai),
    "sharegpt": Shape(
        {
            "messages": (
                *("conversations", "conversation", "messages", "dialog", "dialogue", "dialogs", "chat", "turns"),
                *("contents", "data"),
            ),
            "system": (*SYSTEM, "systemInstruction"),
            "tools": TOOLS,
        },
        ("messages",),
        from_turns,
    ),
    "preference": Shape(
        {
            "chosen": ("chosen", "chosen_response", "preferred_output"),
            "rejected": ("rejected", "rejected_response", "non_preferred_output"),
            "prompt": ("prompt", "question", "instruction", "input", "query"),
            "system": SYSTEM,
        },
        ("chosen", "rejected"),
        from_preference,
    ),
    "alpaca": Shape(
        {
            "instruction": ("instruction", "instructions"),
            "output": ("output", "response", "answer", "completion"),
            "input": ("input", "context"),
            "system": SYSTEM,
            "history": ("history",),
        },
        ("instruction", "output"),
        from_alpaca,
    ),
    "prompt-completion": Shape(
        {"prompt": ("prompt",), "completion": ("completion",), "system": SYSTEM},
        ("prompt", "completion"),
        from_pair("prompt", "completion"),
    ),
    "prompt-response": Shape(
        {
            "prompt": ("prompt", "query", "input", "user", "human", "inputs"),
            "response": ("response", "output", "assistant", "targets", "target"),
            "system": SYSTEM,
        },
        ("prompt", "response"),
        from_pair("prompt", "response"),
    ),
    "question-answer": Shape(
        {
            "question": ("question", "query", "problem"),
            "answer": ("answer", "response", "solution", "answers"),
            "context": ("context",),
            "system": SYSTEM,
        },
        ("question", "answer"),
        from_pair("question", "answer"),
    ),
}
assert tuple(SHAPES) == FORMATS
LABELS = {
    "openai": "OpenAI chat",
    "sharegpt": "ShareGPT",
    "preference": "preference pairs, of which the chosen side is used",
    "alpaca": "Alpaca",
    "prompt-completion": "prompt and completion",
    "prompt-response": "prompt and response",
    "question-answer": "question and answer",
}


class Format(NamedTuple):
    """How the rows of a file are read."""

    name: str
    # The column of each part that the file has.
    columns: dict[str, str]
    # Columns that are not read.
    unused: tuple[str, ...] = ()
    # The usual column of each part that the first rows do not have, but a later one may.
    absent: Mapping[str, str] = MappingProxyType({})

    def conversation(self, row: Row) -> Conversation:
        """The conversation of a row."""
        parts = {part: row.get(column) for part, column in self.columns.items()}
        parts |= {part: row[column] for part, column in self.absent.items() if column in row}
        return Conversation(tidy(SHAPES[self.name].convert(parts)), parse_text(parts.get("tools") or None))

    @property
    def is_plain(self) -> bool:
        """Whether a column `messages` holds each row's messages as they are written."""
        return self.name == "openai"

    def describe(self) -> str:
        """One sentence for the report."""
        columns = ", ".join(
            column if part == column else f"{column} as {part}" for part, column in self.columns.items()
        )
        unused = f"; not read: {', '.join(self.unused)}" if self.unused else ""
        return f"{self.name} ({LABELS[self.name]}): {columns}{unused}"


def recognise(columns: Sequence[str], rows: Sequence[Row], data: Data) -> Format:
    """The format of a file with these columns, whose first rows are `rows`.

    Raises:
        UnknownFormat: no shape fits.
    """
    if missing := [column for column in data.columns.values() if column not in columns]:
        raise UnknownFormat(
            f"data.columns names {', '.join(map(repr, missing))}, which is no column; its columns: {listed(columns)}."
        )
    # The parts that data.columns names, by their column; any other column under its own name, unless it is mapped.
    own_names = {column: part for part, column in data.columns.items()}
    known = {simplified(column): column for column in columns if column not in own_names}
    known |= {simplified(part): column for part, column in data.columns.items()}
    shaped = {
        name: chosen
        for name in ([data.format] if data.format != "auto" else SHAPES)
        if (chosen := columns_of(SHAPES[name], known, own_names)) is not None
    }
    fitting = {name: chosen for name, chosen in shaped.items() if data.columns.items() <= chosen.items()}
    if shaped and not fitting:
        readable = "; ".join(f"{name} reads {', '.join(SHAPES[name].parts)}" for name in shaped)
        raise UnknownFormat(
            f"no format that fits reads all the parts of data.columns ({', '.join(data.columns)}), each from a column "
            f"of its own: {readable}. Leave out the other parts."
        )
    if not fitting:
        raise UnknownFormat(explain_unknown(columns, rows, data))
    name = choose(fitting, rows)
    chosen = fitting[name]
    absent = {part: names[0] for part, names in SHAPES[name].parts.items() if part not in chosen}
    absent = {part: column for part, column in absent.items() if column not in columns}
    return Format(name, chosen, tuple(column for column in columns if column not in chosen.values()), absent)


def columns_of(shape: Shape, known: dict[str, str], own_names: dict[str, str]) -> dict[str, str] | None:
    """The column of each part; None where a part that is required has none."""
    chosen: dict[str, str] = {}
    for part, names in shape.parts.items():
        column = next((known[name] for name in map(simplified, (part, *names)) if name in known), None)
        # A column that was given a part by data.columns is no other part's.
        if column is not None and column not in chosen.values() and own_names.get(column, part) == part:
            chosen[part] = column
    return chosen if all(part in chosen for part in shape.required) else None


def is_exchange(columns: Iterable[str]) -> bool:
    """Whether the columns make a shape with a question and an answer."""
    known = {simplified(column): column for column in columns}
    return any(columns_of(shape, known, {}) for shape in SHAPES.values() if len(shape.required) > 1)


def choose(fitting: dict[str, dict[str, str]], rows: Sequence[Row]) -> str:
    """The first shape that fits; for a column `messages`, the one that its values have, and never a shape of lists for
    a column of text."""
    for name in [name for name in ("openai", "sharegpt") if name in fitting]:
        read = parse_text if name == "openai" else turn_list
        values = [read(row.get(fitting[name]["messages"])) for row in rows]
        lists = [value for value in values if isinstance(value, list) and value]
        if name == "openai" and (not lists or len(fitting) == 1 or any(map(turns.is_openai, lists))):
            return name
        if name == "sharegpt" and (lists or len(fitting) == 1):
            return name
    return next((name for name in fitting if name not in ("openai", "sharegpt")), next(iter(fitting)))


def simplified(name: str) -> str:
    """A column's name without case and separators."""
    return "".join(character for character in name.casefold() if character.isalnum())


def listed(columns: Iterable[str]) -> str:
    """Columns for a message; a file without a header has its first row in their place, which may be long."""
    text = ", ".join(columns) or "none"
    return text if len(text) <= 200 else f"{text[:200]}..."


def explain_unknown(columns: Sequence[str], rows: Sequence[Row], data: Data) -> str:
    """Why no shape fits: what the file has, the nearest shape, and the line to add."""
    if data.format != "auto":
        shape = SHAPES[data.format]
        known = "; ".join(" or ".join(shape.parts[part]) for part in shape.required)
        return (
            f"rows are not {data.format}, which needs {known}; its columns: {listed(columns)}. Set data.format=auto, "
            "or say which column is which with data.columns."
        )
    if any(len(column) > LONGEST_NAME or column.endswith(("?", ".")) for column in columns):
        return (
            f"no column 'messages'; its columns: {listed(columns)}. The first line looks like a row: put a line with "
            "the names of the columns before it, e.g. `prompt,completion`."
        )
    texts = [column for column in columns if holds_text(row.get(column) for row in rows)] if rows else list(columns)
    wanted = nearest(columns)
    required = SHAPES[wanted].required
    listed_values = any(isinstance(parse_text(row.get(column)), list) for row in rows for column in texts)
    if not columns or len(texts) < len(required) or (len(texts) == 1 and not listed_values):
        advice = "A row needs a question and an answer: `messages`, or columns such as `prompt` and `completion`."
        return f"no column 'messages'; its columns: {listed(columns)}. {advice}"
    guesses = dict(zip(required, (guess(part, wanted, texts, at) for at, part in enumerate(required)), strict=True))
    beginning = f"no column 'messages'; its columns: {listed(columns)}. The nearest known format is {wanted}"
    if not make_conversations(Format(wanted, guesses), rows):
        return (
            f"{beginning}, but its first rows hold no question with an answer in such columns. Write each row as "
            '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}.'
        )
    mapping = ", ".join(f"{part}: {yaml_text(column)}" for part, column in guesses.items())
    setting = shlex.quote(f"data.columns={{{mapping}}}")
    return f"{beginning} ({', '.join(required)}). Say which column is which, e.g. --set {setting}."


def holds_text(values: Iterable[object]) -> bool:
    """Whether a column has texts, and not only addresses, dates, numbers and keys."""
    return any(isinstance(value, str) and not IDENTIFIER.fullmatch(value) for value in values)


def make_conversations(form: Format, rows: Sequence[Row]) -> bool:
    """Whether at least half of the rows are conversations when they are read so."""
    fit = [row for row in rows if not checks.problems_of_form(form.conversation(row).messages)]
    return len(fit) * 2 >= len(rows)


def yaml_text(text: str) -> str:
    """A text as YAML reads it in an object between braces."""
    return text if PLAIN_YAML.fullmatch(text) and yaml.safe_load(text) == text else json.dumps(text, ensure_ascii=False)


def nearest(columns: Sequence[str]) -> str:
    """The shape whose required parts are most like the columns."""

    def likeness(name: str) -> float:
        shape = SHAPES[name]
        best = [
            max(
                difflib.SequenceMatcher(None, simplified(column), simplified(known)).ratio()
                for column in columns
                for known in shape.parts[part]
            )
            for part in shape.required
        ]
        return sum(best) / len(best)

    pairs = [name for name, shape in SHAPES.items() if len(shape.required) == 2 and name != "preference"]
    best = max(SHAPES, key=likeness) if columns else "openai"
    return best if len(columns) < 2 or likeness(best) > 0.7 else max(pairs, key=likeness)


def guess(part: str, shape: str, columns: Sequence[str], position: int) -> str:
    """The column that a part may be: the one whose name is like its names, else the one in its position."""
    for name in SHAPES[shape].parts[part]:
        if close := difflib.get_close_matches(name, columns, n=1, cutoff=0.6):
            return close[0]
    return columns[min(position, len(columns) - 1)]

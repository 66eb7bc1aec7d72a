"""The rules that a row must meet: its form, its roles and their order, its characters.

A row that breaks one would make the job fail on a GPU, or the component would leave it out silently, or it would teach
the model something unwanted. Each kind has one name, which counts, messages and docs/data.md use. The functions
say what is wrong with one row; the expressions find among many rows those that are worth asking about.
Source: the preprocessing step of `chat_completion_pipeline`, and the chat templates that refuse other orders.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import polars as pl

from chatdata.nested import texts_of, without_escapes

ROLES = ("system", "user", "assistant", "tool")
# Of a value that is no good, so many characters are shown.
SHOWN_CHARACTERS = 40

# Kinds that the reader finds, before there is a row.
NOT_JSON = "not valid JSON"
NOT_UTF8 = "not UTF-8"
NOT_OBJECT = "not a JSON object"
OTHER_COLUMNS = "other columns than the header"
CUT_OFF = "texts that were cut off"
# Kinds of a conversation's form.
NO_MESSAGES = "no messages"
NOT_A_LIST = "messages is not a list"
TOO_SHORT = "fewer than two messages"
NOT_A_MESSAGE = "a message without role and content"
NOT_TEXT = "content is not text"
UNKNOWN_ROLE = "unknown role"
EMPTY_TURN = "empty turn"
TOOLS_NOT_A_LIST = "tools is not a list"
BAD_TOOL_CALL = "a tool call without the name of its function"
# Kinds of the roles' order.
SYSTEM_NOT_FIRST = "system message not at the start"
SEVERAL_SYSTEM = "more than one system message"
USER_NOT_FIRST = "does not begin with a user turn"
SAME_ROLE_TWICE = "two turns of one role in a row"
TOOL_WITHOUT_CALL = "tool message that follows no assistant turn"
NO_ASSISTANT = "no assistant turn"
# Kinds of characters.
CONTROL_CHARACTERS = "control characters"
REPLACEMENT_CHARACTERS = "replacement characters"
WRONG_CHARACTER_SET = "text of another character set"
LONE_SURROGATES = "half a character"
# A kind of what the component does not know.
WEIGHT = "weight on a message"
# Kinds that need other rows, the tokenizer or a scanner.
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near duplicate"
IN_VALIDATION = "also in the validation split"
IN_TEST = "also in the test split"
NEAR_VALIDATION = "nearly in the validation split"
NEAR_TEST = "nearly in the test split"
TOO_LONG = "longer than max_seq_length"
PRIVATE = "personal data or secrets"

# What a row that nearly repeats another is called, by what one is called that repeats it exactly.
NEARLY = {DUPLICATE: NEAR_DUPLICATE, IN_VALIDATION: NEAR_VALIDATION, IN_TEST: NEAR_TEST}
# The setting that says what becomes of the rows of a kind; of other kinds data.on_bad_row says it.
SWITCHES = {
    WEIGHT: "weights",
    DUPLICATE: "duplicates",
    IN_VALIDATION: "evaluation_overlap",
    IN_TEST: "evaluation_overlap",
    **dict.fromkeys(NEARLY.values(), "near_duplicates"),
}

# Why a row of a kind matters.
COMMON_REASONS = {
    "fails": "the training would fail on it",
    "left out": "the component would leave it out without a word",
    "refused": "most chat templates refuse it, and the training would fail",
}
REASONS = {
    **dict.fromkeys(
        (NOT_JSON, NOT_UTF8, NOT_OBJECT, OTHER_COLUMNS, NOT_A_LIST, NOT_A_MESSAGE, NOT_TEXT), COMMON_REASONS["fails"]
    ),
    **dict.fromkeys((UNKNOWN_ROLE, TOOLS_NOT_A_LIST, BAD_TOOL_CALL, LONE_SURROGATES), COMMON_REASONS["fails"]),
    **dict.fromkeys((NO_MESSAGES, TOO_SHORT, NO_ASSISTANT), COMMON_REASONS["left out"]),
    **dict.fromkeys(
        (SYSTEM_NOT_FIRST, SEVERAL_SYSTEM, USER_NOT_FIRST, SAME_ROLE_TWICE, TOOL_WITHOUT_CALL),
        COMMON_REASONS["refused"],
    ),
    NO_MESSAGES: "the component would leave it out without a word; rows of another shape belong into a file of their "
    "own",
    CUT_OFF: "the model would learn to stop there; download the data set itself, not the answer of its viewer",
    NOT_UTF8: "the training would fail on it; if most rows are so, convert the file, e.g. from Windows-1252 with "
    "`iconv -f WINDOWS-1252 -t UTF-8 FILE > utf8-FILE`",
    EMPTY_TURN: "the model would learn to say nothing",
    CONTROL_CHARACTERS: "the model would learn to write them",
    REPLACEMENT_CHARACTERS: "the text was lost in a conversion, and the model would learn that",
    WRONG_CHARACTER_SET: "the model would learn to write such characters",
    WEIGHT: "the component does not know weights and would train on the answer in full",
    DUPLICATE: "the model would learn it twice",
    IN_VALIDATION: "the loss would be measured on what was trained on",
    IN_TEST: "the endpoint would be asked what was trained on",
    PRIVATE: "the model may repeat it to anybody",
}

BAD_CHARACTERS = {
    # C0 except tab, line and form feeds and carriage return; DEL; C1 except the next line: these are white space.
    CONTROL_CHARACTERS: r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]",
    REPLACEMENT_CHARACTERS: "\ufffd",
    # UTF-8 that was read as Latin-1 or Windows-1252 and written as UTF-8 again.
    WRONG_CHARACTER_SET: r"Ã[\x80-\xbf]|â€|Â[\xa0-\xbf]",
}
# The same in a line of JSON, or a part of it: alternated literals are found many times faster than character classes.
SUSPICIOUS_ESCAPES = (r"\\u00", r"\\b", r"\\f", "\x7f")
SUSPICIOUS_CHARACTERS = [*map(chr, range(0x80, 0xA0)), "\ufffd", "Ã", "Â", "â€"]
# A conversation's roles as one text are their first letters, such as `suaua`.
ROLE_OF_LETTER = {role[0]: role for role in ROLES}


def problems_of_conversation(messages: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Kind and detail of everything that is wrong with a conversation; empty for a usable one."""
    return problems_of_form(messages) or problems_of_texts(messages)


def problems_of_texts(messages: list[dict[str, str]]) -> list[tuple[str, str]]:
    """What is wrong with the characters of a conversation whose form is fit."""
    return problems_of_characters("\n".join(message["content"] for message in messages))


def problems_of_row(messages: object, tools: object) -> list[tuple[str, str]]:
    """What is wrong with the form of a row, or with the characters of what it has beside roles and contents."""
    problems = problems_of_form(messages)
    if tools is not None and not isinstance(tools, list):
        problems.append((TOOLS_NOT_A_LIST, f"it is {kind_of(tools)}"))
    if problems or not isinstance(messages, list):
        return problems
    extras = [{name: message[name] for name in message.keys() - {"role", "content"}} for message in messages]
    return problems_of_characters("\n".join(map(without_escapes, texts_of([extras, tools]))))


def problems_of_form(messages: object) -> list[tuple[str, str]]:
    """What is wrong with the form of a conversation."""
    if messages is None:
        return [(NO_MESSAGES, "")]
    if isinstance(messages, str) and not messages.strip():
        return [(TOO_SHORT, "")]
    if not isinstance(messages, list):
        return [(NOT_A_LIST, f"it is {show(messages)}")]
    roles, problems = [], {}
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            problems[NOT_A_MESSAGE] = f"message {number} {show_message(message)}"
            continue
        role, content = message["role"], message["content"]
        roles.append(role)
        if role not in ROLES:
            problems[UNKNOWN_ROLE] = f"{role!r}"[:60]
        calls = message.get("tool_calls")
        if calls is not None and not are_calls(calls):
            problems[BAD_TOOL_CALL] = f"message {number}"
        if calls and role == "assistant" and content == "":
            continue
        if type(content) is not str:
            problems[NOT_TEXT] = f"message {number} is {show(content)}"
        elif not content or content.isspace():
            problems[EMPTY_TURN] = f"message {number}"
    if len(messages) < 2:
        problems[TOO_SHORT] = f"{len(messages)}"
    elif not problems.keys() & {NOT_A_MESSAGE, UNKNOWN_ROLE}:
        problems |= dict.fromkeys(problems_of_order(roles), "-".join(roles)[:60])
    return list(problems.items())


def are_calls(calls: object) -> bool:
    """Whether these are tool calls, each with the name of its function."""
    if not isinstance(calls, list):
        return False
    functions = [call.get("function") if isinstance(call, dict) else None for call in calls]
    return all(isinstance(function, dict) and isinstance(function.get("name"), str) for function in functions)


def has_weight(messages: list[dict[str, object]]) -> bool:
    """Whether an answer is to count less than others, which the component does not know: it trains on all of them."""
    return any(message["role"] == "assistant" and message.get("weight", 1) != 1 for message in messages)


def uses_tools(messages: list[dict[str, object]], tools: object) -> bool:
    """Whether a row has tools, a tool call, or what a tool has answered."""
    return bool(tools) or any(message["role"] == "tool" or "tool_calls" in message for message in messages)


def problems_of_order(roles: Sequence[str]) -> list[str]:
    """What is wrong with the order of a conversation's roles."""
    problems = []
    if roles.count("system") > 1:
        problems.append(SEVERAL_SYSTEM)
    elif "system" in roles[1:]:
        problems.append(SYSTEM_NOT_FIRST)
    turns = [role for role in roles if role != "system"]
    if "assistant" not in turns:
        problems.append(NO_ASSISTANT)
    if turns[:1] != ["user"]:
        problems.append(USER_NOT_FIRST)
    pairs = list(pairwise(turns))
    if any(before == after != "tool" for before, after in pairs):
        problems.append(SAME_ROLE_TWICE)
    if any(after == "tool" and before not in ("assistant", "tool") for before, after in pairs):
        problems.append(TOOL_WITHOUT_CALL)
    return problems


def problems_of_characters(text: str) -> list[tuple[str, str]]:
    """What is wrong with the characters of a text."""
    matches = [(kind, re.search(pattern, text)) for kind, pattern in BAD_CHARACTERS.items()]
    return [(kind, name_characters(match[0])) for kind, match in matches if match]


def name_characters(characters: str) -> str:
    """Bad characters for a message."""
    return f"U+{ord(characters):04X}" if len(characters) == 1 else repr(characters)


def kind_of(value: object) -> str:
    """A value's type, for a sentence."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object")


def show(value: object) -> str:
    """A value's type and its first characters, for a sentence."""
    text = repr(value)
    shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
    return kind_of(value) if value is None or isinstance(value, bool) else f"{kind_of(value)}: {shown}"


def show_message(message: object) -> str:
    """What there is in the place of a message."""
    if isinstance(message, dict):
        return f"has the keys {', '.join(map(str, message)) or 'none'}"[:120]
    return f"is {show(message)}"


def letter_of_role(role: pl.Expr) -> pl.Expr:
    """The first letter of each role, or a question mark for an unknown one."""
    return pl.when(role.is_in(ROLES)).then(role.str.head(1)).otherwise(pl.lit("?"))


@lru_cache(4096)
def are_fit(letters: str) -> bool:
    """Whether a conversation with these roles, by their letters, has no problem of form but in its texts."""
    return not problems_of_form([{"role": ROLE_OF_LETTER.get(letter), "content": "."} for letter in letters])


def may_be_unfit(line: pl.Expr) -> pl.Expr:
    """Which lines of JSON may have bad characters: all that have some, and a few others."""
    return line.str.contains("|".join(SUSPICIOUS_ESCAPES)) | line.str.contains("|".join(SUSPICIOUS_CHARACTERS))


def is_blank(content: pl.Expr) -> pl.Expr:
    """Which texts have no character but white space."""
    return content.str.contains(r"^\s*$")

"""Whether a row is fit for the component: its form, its roles and their order, its characters.

A row that fails here would make the job fail on a GPU, or be left out by the component without a word, or teach the
model what nobody wants. Every kind has one name, which counts, messages and docs/data.md use.
Source: the preprocessing step of `chat_completion_pipeline`, and the chat templates that refuse other orders.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from chatdata.turns import ASSISTANT, CONTENT, ROLE, ROLES, SYSTEM, USER, Marks, Turns, rows_at

# Kinds of what a reader finds before there is a row.
NOT_JSON = "not valid JSON"
NOT_UTF8 = "not UTF-8"
NOT_OBJECT = "not a JSON object"
OTHER_COLUMNS = "other columns than the header"
# Kinds of a conversation's form.
NO_MESSAGES = "no messages"
NOT_A_LIST = "messages is not a list"
TOO_SHORT = "fewer than two messages"
NOT_A_MESSAGE = "a message without role and content"
NOT_TEXT = "content is not text"
UNKNOWN_ROLE = "unknown role"
EMPTY_TURN = "empty turn"
TOOLS_NOT_A_LIST = "tools is not a list"
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
# Kinds that need other rows, the tokenizer or a scanner.
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near duplicate"
IN_VALIDATION = "also in the validation split"
IN_TEST = "also in the test split"
TOO_LONG = "longer than max_seq_length"
PRIVATE = "personal data or secrets"

_KNOWN_ROLES = frozenset(ROLES)

# Cut by the component, so neither left out nor refused.
ONLY_COUNTED = frozenset({TOO_LONG})

# C0 but for tab, line feed and carriage return, and DEL; C1 as UTF-8. One pattern for both would be much slower.
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"), re.compile(rb"\xc2[\x80-\x9f]")
_REPLACEMENT = b"\xef\xbf\xbd"
# UTF-8 read as Windows-1252 and written as UTF-8 again: A with tilde or a with circumflex before what follows there.
_MOJIBAKE = re.compile(rb"\xc3(?:\x83\xc2[\x80-\xbf]|\xa2\xe2\x82\xac|\x82\xc2[\xa0-\xbf])")
# White space beyond ASCII, and its first bytes.
_SPACES = (*"\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000", *map(chr, range(0x2000, 0x200B)))
_SPACES_UTF8 = tuple(map(str.encode, _SPACES))
_SPACE_LEADS = np.isin(np.arange(256), [space[0] for space in _SPACES_UTF8])


def problems_of_form(messages: object) -> list[tuple[str, str]]:
    """Kind and detail of everything that is wrong with the form of a conversation; empty for a usable one."""
    return [] if is_well_formed(messages) else _problems_of_form(messages)


def is_well_formed(messages: object) -> bool:
    """Whether nothing at all is wrong with the form: the same question as below, answered quickly for most rows."""
    try:
        contents = list(map(CONTENT, messages))
        return (
            _are_fit(tuple(map(ROLE, messages)))
            and all(contents)
            # Of anything but text it raises TypeError.
            and not any(map(str.isspace, contents))
            and type(messages) is list
        )
    except (TypeError, KeyError, IndexError):
        return False


@lru_cache(4096)
def _are_fit(roles: tuple[object, ...]) -> bool:
    return len(roles) > 1 and _KNOWN_ROLES.issuperset(roles) and not problems_of_order(roles)


def surely_well_formed(turns: Turns) -> np.ndarray:
    """Which of many conversations without a null are well-formed, as far as their roles and the first character of
    each text tell; (conversations,) of bool. The others may be so too."""
    counts, roles, starts, text = turns
    system, user, assistant = (roles == role for role in (SYSTEM, USER, ASSISTANT))
    first = np.zeros(len(roles), bool)
    first[(np.cumsum(counts) - counts)[counts > 0]] = True
    follows = np.zeros(len(roles), bool)
    follows[1:] = (user[1:] & (assistant | system)[:-1]) | (assistant[1:] & user[:-1])
    # That of an empty text is another's, and of an empty column there is none.
    lead = text[np.minimum(starts[:-1], len(text) - 1)]
    visible = (starts[1:] > starts[:-1]) & (lead > ord(" "))
    for number in np.flatnonzero(visible & _SPACE_LEADS[lead]).tolist():
        start = int(starts[number])
        visible[number] = not text[start : start + 3].tobytes().startswith(_SPACES_UTF8)
    fine = visible & np.where(first, user | system, follows)
    rows = np.repeat(np.arange(len(counts)), counts)
    sure = counts - np.bincount(rows, system, len(counts)) >= 2
    sure[rows[~fine]] = False
    return sure


def suspicious(turns: Turns, marks: Marks) -> np.ndarray:
    """Which of many conversations may hold what `problems_of_characters` finds; (conversations,) of bool. The others
    surely do not."""
    values, following = marks.values[:-1], marks.values[1:]
    # The two bytes of a control of C1, of what mojibake begins with, and of U+FFFD and its neighbours.
    bad = (values == 0xC2) & (following < 0xA0)
    bad |= (values == 0xC3) & ((following | 1 == 0x83) | (following == 0xA2))
    bad |= (values == 0xEF) & (following == 0xBF)
    places = marks.beyond[:-1][bad]
    # Mojibake goes on with one of two bytes, and U+FFFD ends with its own.
    leads, third = turns.text[places], turns.text[np.minimum(places + 2, len(turns.text) - 1)]
    telling = (leads == 0xC2) | ((leads == 0xC3) & ((third == 0xC2) | (third == 0xE2))) | (third == 0xBD)
    found = np.zeros(len(turns.counts), bool)
    found[rows_at(turns, np.concatenate([marks.controls, places[telling]]))] = True
    return found


def _problems_of_form(messages: object) -> list[tuple[str, str]]:
    if messages is None:
        return [(NO_MESSAGES, "")]
    if isinstance(messages, str) and not messages.strip():
        return [(TOO_SHORT, "")]
    if not isinstance(messages, list):
        return [(NOT_A_LIST, f"it is {kind_of(messages)}")]
    roles, problems = [], {}
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            problems[NOT_A_MESSAGE] = f"message {number}"
            continue
        role, content = message["role"], message["content"]
        roles.append(role if isinstance(role, str) else None)
        if role not in ROLES:
            problems[UNKNOWN_ROLE] = f"{role!r}"[:60]
        if type(content) is not str:
            problems[NOT_TEXT] = f"message {number} is {kind_of(content)}"
        elif not content or content.isspace():
            problems[EMPTY_TURN] = f"message {number}"
    if len(messages) < 2:
        problems[TOO_SHORT] = f"{len(messages)}"
    elif not problems.keys() & {NOT_A_MESSAGE, UNKNOWN_ROLE}:
        problems |= dict.fromkeys(problems_of_order(tuple(roles)), "-".join(roles)[:60])
    return list(problems.items())


def problems_of_order(roles: Sequence[str]) -> tuple[str, ...]:
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
    return tuple(problems)


def problems_of_characters(text: bytes) -> list[tuple[str, str]]:
    """What is wrong with the characters of a text in UTF-8."""
    problems = []
    if found := next(filter(None, (pattern.search(text) for pattern in _CONTROLS)), None):
        problems.append((CONTROL_CHARACTERS, f"U+{ord(found[0].decode()):04X}"))
    if _REPLACEMENT in text:
        problems.append((REPLACEMENT_CHARACTERS, "U+FFFD"))
    if found := _MOJIBAKE.search(text):
        problems.append((WRONG_CHARACTER_SET, f"{found[0].decode()!r}"))
    return problems


def kind_of(value: object) -> str:
    """A value's type, for a sentence."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object")

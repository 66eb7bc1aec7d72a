"""Turns in the spellings that data sets use, as messages with `role` and `content`.

{"from": "human", "value": "Hi"}    {"role": "model", "parts": [{"text": "Hi"}]}    {"input": "Hi", "output": "Yes"}
"""

import re
from collections.abc import Mapping
from math import isfinite

import orjson

from chatdata.conversations import plain_text

Message = dict[str, object]

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "customer", "client", "question", "instruction", "input"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "bot", "chatbot", "model", "ai", "chatgpt", "claude", "bard", "bing", "answer", "agent"),
        "assistant",
    ),
    **dict.fromkeys(("system", "developer", "system_prompt"), "system"),
    **dict.fromkeys(
        ("tool", "function", "observation", "function_response", "tool_response", "ipython", "tool_result"), "tool"
    ),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls"), "assistant"),
}
CALLS = ("function_call", "tool_call", "tool_calls")
ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
CONTENT_KEYS = ("content", "value", "text", "parts", "message", "utterance")
# Keys of a turn that holds a question and its answer.
PAIRS = (
    ("input", "output"),
    ("human", "assistant"),
    ("user", "assistant"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("instruction", "response"),
    ("instruction", "output"),
    ("question", "answer"),
    ("user", "bot"),
    ("human", "gpt"),
)
KEPT_KEYS = ("name", "tool_calls", "function_call", "tool_call_id", "weight")
OPENAI_ROLES = ("system", "user", "assistant", "tool", "developer", "function")
SPEAKERS = {"human": "user", "user": "user", "assistant": "assistant"}
TRANSCRIPT = re.compile(r"(?:^|\n)\s*(?:#{2,3} ?)?(Human|User|Assistant):[ \t]*")


def is_openai(messages: list[object]) -> bool:
    """Whether messages have the keys and at least one of the roles of OpenAI's chats, but for mistakes in some."""
    plain = [message for message in messages if isinstance(message, dict) and "role" in message]
    return any(message["role"] in OPENAI_ROLES and ("content" in message or has_call(message)) for message in plain)


def has_call(message: Mapping[str, object]) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))


def to_messages(value: object) -> object:
    """The messages of a list of turns in any spelling; anything else as it is."""
    if not isinstance(value, list):
        return value
    messages: list[object] = []
    for number, turn in enumerate(value):
        if isinstance(turn, str):
            messages.append({"role": ("user", "assistant")[number % 2], "content": turn})
        elif isinstance(turn, dict):
            messages += from_turn(turn)
        elif isinstance(turn, list) and len(turn) == 2:
            messages += exchange(turn[0], turn[1])
        else:
            messages.append(turn)
    return messages


def from_turn(turn: dict[str, object]) -> list[object]:
    """The message of a turn, or the two of a question with its answer; the turn itself where it is neither."""
    role_key = next((key for key in ROLE_KEYS if key in turn), None)
    content_key = next((key for key in CONTENT_KEYS if turn.get(key) is not None), None)
    if role_key is not None and (content_key is not None or has_call(turn)):
        return [to_message(str(turn[role_key]), turn.get(content_key or ""), turn)]
    for question, answer in PAIRS:
        if question in turn and answer in turn:
            return exchange(turn[question], turn[answer], turn.get("system"))
    return [turn]


def to_message(spelling: str, content: object, turn: dict[str, object]) -> Message:
    """A message; a call that is the turn's text becomes one of `tool_calls`."""
    name = spelling.strip().casefold()
    message: Message = {"role": ROLES.get(name, spelling), "content": plain_text(content)}
    message |= {key: turn[key] for key in KEPT_KEYS if turn.get(key) is not None}
    if name in CALLS and (calls := parse_calls(content)):
        message |= {"content": "", "tool_calls": calls}
    return message


def parse_calls(content: object) -> list[dict[str, object]] | None:
    """The tool calls that a text or object names; None where it names none."""
    try:
        value = orjson.loads(content) if isinstance(content, str) else content
    except orjson.JSONDecodeError:
        return None
    calls = value if isinstance(value, list) else [value]
    named = [call for call in calls if isinstance(call, dict) and isinstance(call.get("name"), str)]
    return [to_call(call) for call in named] if len(named) == len(calls) else None


def to_call(call: dict[str, object]) -> dict[str, object]:
    """A call as OpenAI writes it."""
    arguments = call.get("arguments", {})
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return {"type": "function", "function": {"name": call["name"], "arguments": text}}


def exchange(question: object, answer: object, system: object = None, earlier: object = None) -> list[object]:
    """A question and its answer, either of which may be turns of its own; earlier messages come before."""
    messages = [*earlier] if isinstance(earlier, list) else []
    messages += as_messages("user", question) + as_messages("assistant", answer)
    complete = with_system(messages, system)
    return complete if isinstance(complete, list) else messages


def as_messages(role: str, value: object) -> list[object]:
    """The message of a role with this text, or the turns that the value is.

    A list with one text is that text. Of several answers, such as those of a test of reading, the first is used;
    several texts of a user are turns that alternate.
    """
    texts = value if isinstance(value, list) and all(isinstance(text, str) for text in value) else []
    if len(texts) == 1 or (texts and role == "assistant"):
        return [{"role": role, "content": texts[0]}]
    messages = to_messages(value)
    if isinstance(messages, list) and messages and isinstance(messages[0], dict):
        return messages
    return [{"role": role, "content": plain_text(as_text(value))}]


def as_text(value: object) -> object:
    """A number as text, as a file of separated values has it: a column of labels may hold numbers. Anything else as it
    is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    return repr(value) if is_number else value


def are_turns(value: object) -> bool:
    """Whether a value is a list of objects that each have a role."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and any(key in turn for key in ROLE_KEYS) for turn in value)
    )


def with_system(messages: object, system: object) -> object:
    """The messages with a system text before them, where there is one and they have none."""
    text = plain_text(system.get("parts", system) if isinstance(system, dict) else system)
    if not isinstance(messages, list) or not isinstance(text, str) or not text.strip():
        return messages
    if any(isinstance(message, dict) and message.get("role") == "system" for message in messages):
        return messages
    return [{"role": "system", "content": text}, *messages]


def joined(*texts: object) -> object:
    """Texts with an empty line between them, without those that are empty; the first as it is if it is no text."""
    for text in texts:
        if text is not None and not isinstance(text, str):
            return text
    return "\n\n".join(text for text in texts if isinstance(text, str) and text.strip()) or None


def from_transcript(text: str) -> list[object]:
    """The messages of a text such as `\\n\\nHuman: Hi\\n\\nAssistant: Yes?`; none without such marks."""
    pieces = TRANSCRIPT.split(text)
    if len(pieces) < 3 or pieces[0].strip():
        return []
    return [
        {"role": SPEAKERS[speaker.casefold()], "content": content.strip()}
        for speaker, content in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def is_whole(messages: object) -> bool:
    """Whether messages have a question as well as an answer."""
    if not isinstance(messages, list):
        return False
    roles = [message.get("role") for message in messages if isinstance(message, dict)]
    return "user" in roles and "assistant" in roles

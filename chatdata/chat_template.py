"""A model's chat template: what it makes of a conversation, and whether tools are in it.

Rendered as transformers does, in jinja2's sandbox, without loading transformers.
Source: https://huggingface.co/docs/transformers/chat_templating
"""

import json
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retune.errors import BadRequest
from retune.report import Part

if TYPE_CHECKING:
    from jinja2 import Template

FILES = ("chat_template.jinja", "tokenizer_config.json")
SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
# Marks that no template has of its own.
TOOL, CALL, RESULT = "PROBETOOL", "PROBECALL", "PROBERESULT"
PARTS = {TOOL: "`tools`", CALL: "`tool_calls`", RESULT: "`tool` messages"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": TOOL,
            "description": "Looks up a place.",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string", "description": "Its name."}},
                "required": ["place"],
            },
        },
    }
]


class ChatTemplate(Part):
    """The text of a template and the special tokens that it names."""

    text: str
    tokens: dict[str, str]

    def render(self, messages: list[dict[str, Any]], tools: object = None) -> str:
        """A conversation as the model sees it.

        Raises:
            jinja2.TemplateError: the template refuses it.
        """
        tokens = dict.fromkeys(SPECIAL_TOKENS, "") | self.tokens
        return compiled(self.text).render(messages=messages, tools=tools, add_generation_prompt=False, **tokens)


def read_template(files: Iterable[Path]) -> ChatTemplate | None:
    """The template in a tokenizer's files; None where they have none.

    Raises:
        BadRequest: a file is not readable.
    """
    text, settings = None, {}
    for file in files:
        try:
            content = file.read_text(encoding="utf-8")
            settings = settings if file.suffix == ".jinja" else dict(json.loads(content))
        except (ValueError, TypeError) as error:
            problem = f"data.tokenizer: {file} is not readable: {error}."
            raise BadRequest([problem], "Name a folder that save_pretrained wrote, or leave it out.") from error
        text = content if file.suffix == ".jinja" else text
    known = settings.get("chat_template")
    if isinstance(known, list):
        named = {entry.get("name"): entry.get("template") for entry in known if isinstance(entry, dict)}
        known = named.get("tool_use") or named.get("default")
    text = text or known
    if not isinstance(text, str):
        return None
    tokens = {name: value for name in SPECIAL_TOKENS if isinstance(value := token_text(settings.get(name)), str)}
    return ChatTemplate(text=text, tokens=tokens)


def token_text(token: object) -> object:
    """The text of a special token, which may be an object."""
    return token.get("content") if isinstance(token, dict) else token


@cache
def compiled(text: str) -> "Template":
    """The template in the environment that transformers gives it."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's words and leaves no text of its own."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: object, ensure_ascii: bool = False, indent: int | None = None, **settings: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **settings)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment.from_string(text)


def lost_tools(template: ChatTemplate) -> list[str]:
    """What a template leaves out of a conversation with a tool call.

    Raises:
        jinja2.TemplateError: it refuses such a conversation.
    """
    from jinja2 import TemplateError

    refusal: TemplateError | None = None
    # Some templates take the arguments as OpenAI writes them, as text, and others as an object.
    for arguments in ('{"place": "here"}', {"place": "here"}):
        try:
            text = template.render(probe(arguments), TOOLS)
        except TemplateError as error:
            refusal = refusal or error
        except TypeError:
            continue
        else:
            return [name for mark, name in PARTS.items() if mark not in text]
    if refusal is not None:
        raise refusal
    return list(PARTS.values())


def probe(arguments: object) -> list[dict[str, Any]]:
    """A conversation with one call, whose parts have names that are found again."""
    call = {"id": "abcdefghi", "type": "function", "function": {"name": CALL, "arguments": arguments}}
    return [
        {"role": "user", "content": "What is here?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "name": CALL, "content": RESULT},
        {"role": "assistant", "content": "A tree."},
    ]

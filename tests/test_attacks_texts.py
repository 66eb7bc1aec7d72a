"""Texts of others on pages and terminals: chats, answers, names and errors are shown as they are, and do nothing."""

import logging
import re
import types
import typing
from datetime import UTC, datetime

import pytest
from pydantic import BaseModel
from test_page import PICTURE, Seen, pictures_in

from retune.data_facts import data_sheet
from retune.page import to_html
from retune.printing import render, render_swept
from retune.report import Report, Swept
from retune.summary import sheet_to_markdown, to_markdown
from retune_cli.resources import RunResources, render_resources
from retune_cli.running import _StepFormatter

PAGE = [
    "![seen](http://evil.test/x.png)",
    "[click](http://evil.test)",
    "<img src=http://evil.test/x.png>",
    "<script>alert(1)</script>",
    "http://evil.test/bare",
    "www.evil.test",
    "WWW.evil.test",
    "somebody@evil.test",
    "<http://evil.test>",
    "a | b | c",
    "``` \n# heading\n![x](http://evil.test)",
    "&lt;img src=x&gt; &#60;b&#62;",
    "[x]: http://evil.test\n\n[x]",
    "line\n- item\n\n    code\n***",
    "\\![x](http://evil.test) \\\\[y](http://evil.test)",
    "`a` ``![x](http://evil.test)``",
    "~~struck~~ **bold** _it_ <b>b</b>",
]
TERMINAL = [
    "\x1b[2J\x1b[1;31mred",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil.test\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31m",
    "a\rb",
    "a\x08\x08b",
    "\u202eright to left",
    "\x1b]52;c;ZXZpbA==\x07",
    "[red]markup[/red] [link=http://evil.test]x[/link]",
]


def filled(kind: object, text: str) -> object:
    """A value of a type with the text wherever one may stand."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {name: filled(field.annotation, text) for name, field in kind.model_fields.items()}
        return kind.model_construct(**fields)
    if origin is typing.Literal:
        return inner[0]
    if origin in (typing.Union, types.UnionType):
        return filled(inner[0], text)
    if origin is typing.Annotated:
        return filled(inner[0], text)
    if origin is list:
        return [filled(inner[0], text)] * 2
    if origin is dict:
        return {filled(inner[0], text): filled(inner[1], text)}
    known = {str: text, int: 1, float: 1.5, bool: False, datetime: datetime(2026, 1, 1, tzinfo=UTC)}
    return known[kind]


@pytest.mark.parametrize("text", PAGE)
def test_a_page_is_changed_by_no_text(text: str) -> None:
    """Wherever it stands in a report: no picture, link, heading or script of others."""
    report, usual = filled(Report, text), filled(Report, "usual")
    page, before = (Seen(to_html(one)) for one in (report, usual))

    assert sorted(page.tags) == sorted(before.tags)
    assert page.addresses == []


@pytest.mark.parametrize("text", PAGE)
def test_prefect_s_page_makes_no_link_of_a_text(text: str) -> None:
    """It makes links of bare addresses too."""
    report = filled(Report, text)
    for page in (to_markdown(report), sheet_to_markdown(data_sheet(report.data))):
        # The commands stand in blocks of code, and our own pictures are part of the page.
        shown = PICTURE.sub("", page.partition("## Next")[0])
        assert re.findall(r"(?i)://|www\.|@\w", shown) == []
        assert shown.replace("\\!\\[", "").count("![") == 0


@pytest.mark.parametrize("text", [*PAGE, *TERMINAL])
def test_a_chart_is_changed_by_no_text(text: str) -> None:
    """Names of metrics and splits stand in it. It stays a picture that can be read, of its own elements."""
    pictures = pictures_in(to_markdown(filled(Report, text)))
    names = {element.tag.rpartition("}")[2] for picture in pictures for element in picture.iter()}

    assert len(pictures) == 2
    assert names <= {"svg", "style", "line", "text", "g", "polyline", "circle", "rect"}


@pytest.mark.parametrize("text", TERMINAL)
def test_a_terminal_is_sent_no_command(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By no command that prints what others have said."""
    render(filled(Report, text))
    render_swept(filled(Swept, text))
    render_resources(filled(RunResources, text))
    shown = capsys.readouterr().out

    assert not {char for char in shown if ord(char) < 32 or ord(char) in (0x7F, 0x9B, 0x202E)} - {"\n"}
    assert "[red]markup[/red]" in shown or "markup" not in text


@pytest.mark.parametrize("text", TERMINAL)
def test_a_log_line_is_sent_as_text(text: str) -> None:
    """Warnings quote the service."""
    record = logging.LogRecord("retune.model", logging.WARNING, "", 1, "the service says %s", (text,), None)
    shown = _StepFormatter().format(record)

    assert not {char for char in shown if ord(char) < 32 or ord(char) in (0x7F, 0x9B, 0x202E)}

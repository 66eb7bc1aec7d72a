"""`retune data SOURCE`: what a run would train on, without a run and without Azure."""

import json
import shlex
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import BaseModel, Field

from retune.data_facts import data_sheet
from retune.report import PreparedData
from retune.request import Request
from retune.sheet import Command, Fact, Section, Sheet, Table
from retune.texts import escape_json

if TYPE_CHECKING:
    from chatdata.chat_template import ChatTemplate

SHOWN_ROWS = 3
SHOWN_CHARACTERS = 2000


class DataCheck(BaseModel):
    """What `retune data --json` prints."""

    usable: bool = Field(description="Whether a run would take the data.")
    problems: list[str] = Field(description="Why it would not.")
    fix: str = Field(description="What to do about the problems.")
    data: PreparedData | None = Field(description="What was prepared; null where the data is not usable.")
    digest: str = Field(description="Digest of the prepared files; the same files have the same.")
    as_seen: list[str] = Field(description="The first training rows as the model will see them.")
    rendered: bool = Field(description="Whether these went through the model's chat template; else they are JSON.")
    preset: str = Field(description="The section `data` to copy into a preset.")
    next: str = Field(description="The command that trains on it.")

    def to_json(self) -> str:
        return escape_json(self.model_dump_json(indent=2))


def check(request: Request, arguments: str) -> DataCheck:
    """The data of a request, prepared and described; `arguments` is what of the command line a run needs too."""
    from chatdata.data_step import prepare
    from retune.errors import BadRequest
    from retune_cli.running import typed

    settings = request.data.model_dump(exclude_defaults=True)
    preset = yaml.safe_dump({"data": {"source": request.data.source} | settings}, sort_keys=False, allow_unicode=True)
    try:
        data = prepare(request)
        template = read_named_template(request.data.tokenizer)
    except BadRequest as error:
        return DataCheck(
            usable=False,
            problems=error.problems,
            fix=error.fix,
            data=None,
            digest="",
            as_seen=[],
            rendered=False,
            preset=preset,
            next=f"{typed()} data {arguments}",
        )
    return DataCheck(
        usable=True,
        problems=[],
        fix="",
        data=data,
        digest=" ".join(split.sha256[:16] for split in data.splits.values()),
        as_seen=first_rows(Path(data.splits["train"].path), template),
        rendered=template is not None,
        preset=preset,
        next=f"{typed()} run --data {arguments}",
    )


def read_named_template(tokenizer: str | None) -> "ChatTemplate | None":
    """The chat template of the tokenizer that a request names; None without one."""
    if tokenizer is None:
        return None
    from chatdata.chat_template import read_template
    from chatdata.tokens import template_files

    return read_template(template_files(tokenizer))


def first_rows(path: Path, template: "ChatTemplate | None") -> list[str]:
    """The first rows of a prepared file, through the template where there is one."""
    with path.open("rb") as file:
        lines = [line.decode().rstrip("\n") for line in islice(file, SHOWN_ROWS)]
    texts = [render_row(line, template) for line in lines] if template else lines
    return [text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..." for text in texts]


def render_row(line: str, template: "ChatTemplate") -> str:
    """A row of a prepared file as the model will see it, or why its chat template refuses it."""
    from jinja2 import TemplateError

    row = json.loads(line)
    try:
        return template.render(row["messages"], row.get("tools"))
    except (TemplateError, TypeError) as error:
        return f"The chat template refuses this row: {error}\n{line}"


def command_arguments(source: str, assignments: tuple[str, ...]) -> str:
    """The source and the settings as a shell reads them."""
    return shlex.join([source, *(part for assignment in assignments for part in ("--set", assignment))])


def sheet_of(check: DataCheck) -> Sheet:
    """All that is known, in the sections of a report."""
    arguments = [Command("train on it" if check.usable else "look again", check.next)]
    if check.data is None:
        problems = [Fact("problem", problem) for problem in check.problems]
        problem = Section("Problem", [*problems, Fact("what to do", check.fix)])
        return Sheet("Chat data: not usable", "A run would refuse this data.", "bad", [], arguments, problem)
    seen = [(str(number), row) for number, row in enumerate(check.as_seen, 1)]
    form = "as the model will see them" if check.rendered else "as JSON; data.tokenizer shows them as the model will"
    rows = Section(f"The first training rows, {form}", tables=[Table("", ("row", "text"), seen, texts=2)])
    about = data_sheet(check.data)
    sections = [*about.sections, rows, Section("Files", [Fact("digest", check.digest)])]
    return Sheet("Chat data: usable", about.verdict, "good", sections, arguments)


def render(check: DataCheck) -> None:
    """Print what is known for a person, on stdout."""
    from rich.text import Text

    from retune.printing import for_terminal, print_commands, print_sheet, screen

    console, check = screen(), for_terminal(check)
    sheet = sheet_of(check)
    print_sheet(console, sheet)
    if check.usable:
        # It is copied, so its lines are as they are.
        console.print(Text(f"\nAs a preset:\n\n{check.preset.rstrip()}"), soft_wrap=True)
    print_commands(console, sheet)


def write_page(check: DataCheck, page: Path) -> None:
    """Write what is known as one HTML file."""
    from retune.page import sheet_to_html

    sheet = sheet_of(check)
    preset = [Section("As a preset", [Fact("section of a YAML file", check.preset)])] if check.usable else []
    page.write_text(sheet_to_html(replace(sheet, sections=[*sheet.sections, *preset])), encoding="utf-8")

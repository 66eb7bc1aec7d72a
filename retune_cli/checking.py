"""`retune data SOURCE`: what a run would train on, without a run and without Azure."""

import json
import shlex
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import BaseModel, Field

from retune.report import PreparedData
from retune.request import Request

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


def check(request: Request, arguments: str) -> DataCheck:
    """The data of a request, prepared and described; `arguments` is what of the command line a run needs too."""
    from chatdata.data_step import prepare
    from retune.errors import BadRequest

    settings = request.data.model_dump(exclude_defaults=True)
    preset = yaml.safe_dump({"data": {"source": request.data.source} | settings}, sort_keys=False, allow_unicode=True)
    following = f"retune run --data {arguments}"
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
            next=f"retune data {arguments}",
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
        next=following,
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
    rows = [json.loads(line) for line in lines]
    texts = [template.render(row["messages"], row.get("tools")) for row in rows] if template else lines
    return [text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..." for text in texts]


def command_arguments(source: str, assignments: tuple[str, ...]) -> str:
    """The source and the settings as a shell reads them."""
    return shlex.join([source, *(part for assignment in assignments for part in ("--set", assignment))])


def render(found: DataCheck, source: str) -> None:
    """Print what was found for a person, on stdout."""
    from rich.text import Text

    from retune.printing import for_terminal, screen
    from retune.printing import render_data as render_rows

    console = screen()
    found = for_terminal(found)
    console.print(Text(f"Chat data of {source}: {'usable' if found.usable else 'not usable'}", style="bold"))
    for problem in found.problems:
        console.print(Text(problem, style="red"), soft_wrap=True)
    if not found.usable or found.data is None:
        console.print(Text(f"Next: {found.fix} Then: {found.next}"), soft_wrap=True)
        return
    render_rows(console, found.data)
    seen = (
        "as the model will see them" if found.rendered else "as JSON; data.tokenizer shows them as the model sees them"
    )
    console.print(f"\nThe first training rows, {seen}", style="bold")
    for row in found.as_seen:
        console.print(Text(row))
        console.print("-" * 20)
    # A command is copied, so it stays on one line.
    ending = f"digest  {found.digest}\n\nAs a preset:\n\n{found.preset}\nNext: {found.next}"
    console.print(Text(ending), soft_wrap=True)


def write_page(found: DataCheck, page: Path) -> None:
    """Write what was found as one HTML file."""
    from chatdata.describe import to_page
    from retune.summary import page_of
    from retune.texts import markdown

    about = to_page(found.data) if found.data else "\n".join(f"- {markdown(problem)}" for problem in found.problems)
    state = "usable" if found.usable else f"not usable\n\nNext: {markdown(found.fix)}"
    page.write_text(page_of("Retune: chat data", f"# Chat data: {state}\n\n{about}"), encoding="utf-8")

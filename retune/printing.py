"""Reports for a terminal, on stdout. The most important stands last, where a person looks when a run has ended."""

from typing import TypeVar

from pydantic import BaseModel
from rich.columns import Columns
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from retune import sheet
from retune.facts import facts_of
from retune.report import Report, Swept
from retune.texts import visible

FILE_WIDTH = 120
# What fits side by side: rows of few and short cells.
DENSE_COLUMNS, DENSE_CELL = 3, 40
STYLES: dict[sheet.Tone, str] = {"good": "green", "bad": "red", "neutral": ""}
T = TypeVar("T", bound=BaseModel)


def screen() -> Console:
    """stdout, with a width of its own where it is a file or a pipe."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console


def for_terminal(model: T) -> T:
    """The same with every text as a terminal may get it: much of it was said by a service, a model or a data set."""
    return type(model).model_validate(_visible(model.model_dump()))


def _visible(value: object) -> object:
    match value:
        case str(text):
            return visible(text)
        case dict(members):
            return {_visible(name): _visible(member) for name, member in members.items()}
        case list(entries) | tuple(entries):
            return [_visible(entry) for entry in entries]
    return value


def render(report: Report, program: str = "retune") -> None:
    """Print the report for a person, on stdout; `program` is how `retune` is typed here."""
    facts, console = facts_of(for_terminal(report), program=program), screen()
    for section in reversed(facts.sections):
        _print_section(console, section)
    console.print()
    _print_head(console, facts)
    if facts.problem:
        _print_section(console, facts.problem)
    print_commands(console, facts)


def print_sheet(console: Console, facts: sheet.Sheet) -> None:
    """Print a sheet whose texts are fit for a terminal, in its own order, without its commands."""
    _print_head(console, facts)
    for section in facts.all_sections:
        _print_section(console, section)


def _print_head(console: Console, facts: sheet.Sheet) -> None:
    """Print the title and the verdict."""
    console.print(Text(facts.title, style=f"bold {STYLES[facts.tone]}"))
    console.print(Text(facts.verdict))


def print_commands(console: Console, facts: sheet.Sheet) -> None:
    """Print what can be typed next. A command that is broken into lines does not work when it is pasted."""
    if facts.commands:
        console.print()
    for command in facts.commands:
        console.print(
            Text(f"next: {command.line}"), Text(f"  # {command.purpose}", style="dim"), soft_wrap=True, sep=""
        )


def render_swept(swept: Swept) -> None:
    """Print what a sweep did for a person, on stdout."""
    swept = for_terminal(swept)
    console = screen()
    rows = [("endpoint", leftover) for leftover in swept.endpoints] + [("job", leftover) for leftover in swept.jobs]
    if rows:
        table = Table(box=None, pad_edge=False)
        for heading in ("", "name", "run", "why", "what was done"):
            table.add_column(heading, overflow="fold")
        for kind, leftover in rows:
            done = (
                "nothing: a dry run"
                if swept.dry_run
                else f"{leftover.action}{f': {leftover.error}' if leftover.error else ''}"
            )
            table.add_row(kind, leftover.name, leftover.key, leftover.reason, done)
        console.print(table)
    console.print(swept.summary)


def _print_section(console: Console, section: sheet.Section) -> None:
    console.print(Text(f"\n{section.title}", style="bold"))
    if section.facts:
        console.print(_two_columns([(fact.label, Text(fact.value)) for fact in section.facts]))
    for fact in section.facts:
        if fact.link:
            # Broken into lines it would lead nowhere.
            console.print(Text(f"  {fact.label}: {fact.link}"), soft_wrap=True)
    for chart in section.charts:
        console.print(Padding(Text(chart.summary), (0, 2)))
    for table in section.tables:
        if table.title:
            console.print(Padding(Text(table.title, style="dim"), (0, 2)))
        is_dense = len(table.columns) <= DENSE_COLUMNS and all(
            len(cell) <= DENSE_CELL for row in table.rows for cell in row
        )
        console.print(Padding(_dense(table) if is_dense else _columns(table), (0, 2)))
    for exchange in section.exchanges:
        console.print(_two_columns(_exchange_rows(exchange)))
    for warning in section.warnings:
        console.print(Text(f"  warning: {warning}", style="yellow"))


def _exchange_rows(exchange: sheet.Exchange) -> list[tuple[str, Text]]:
    expected = _marked(exchange.expected) if exchange.expected else Text("-")
    answered = _marked(exchange.answered).append(f"  ({exchange.judgement}, {exchange.time})", STYLES[exchange.tone])
    return [("asked", Text(exchange.asked)), ("expected", expected), ("answered", answered), ("", Text(""))]


def _marked(pieces: list[sheet.Words]) -> Text:
    """The text with what differs underlined."""
    return Text.assemble(*((piece.text, "underline" if piece.differs else "") for piece in pieces))


def _dense(table: sheet.Table) -> Columns:
    """The rows side by side, for those who look something up."""
    return Columns([Text(" ".join(row)) for row in table.rows], padding=(0, 3))


def _columns(table: sheet.Table) -> Table:
    columns = Table(box=None, pad_edge=False, header_style="dim")
    for index, heading in enumerate(table.columns):
        is_text = index < table.texts
        columns.add_column(Text(heading), overflow="fold", no_wrap=not is_text, justify="left" if is_text else "right")
    for row in table.rows:
        columns.add_row(*map(Text, row))
    return columns


def _two_columns(rows: list[tuple[str, Text]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=11, style="dim")
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(Text(f"  {label}"), text)
    return table

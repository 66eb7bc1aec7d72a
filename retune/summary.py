"""Facts in Markdown, for Prefect's page. Pictures are part of it; their colours suit its light and its dark theme."""

import base64
from collections.abc import Iterator

from retune.charts import draw_svg
from retune.facts import facts_of
from retune.report import Report
from retune.sheet import Chart, Command, Exchange, Section, Sheet, Table, Words
from retune.texts import markdown, visible


def to_markdown(report: Report, status: str | None = None) -> str:
    """All facts of a report on one page; `status` is that of a run that goes on."""
    return sheet_to_markdown(facts_of(report, status))


def sheet_to_markdown(sheet: Sheet) -> str:
    """A sheet on one page, each section under a heading."""
    return "\n".join(_lines(sheet)) + "\n"


def exchange_cells(exchange: Exchange) -> dict[str, str]:
    """A question as a row of a table, by heading; not escaped."""
    texts = {"expected": _joined(exchange.expected), "answered": _joined(exchange.answered)}
    return {"asked": exchange.asked} | texts | {"compared": exchange.judgement, "time": exchange.time}


def table_cells(table: Table) -> list[dict[str, str]]:
    """A table's rows by heading; not escaped."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def _lines(sheet: Sheet) -> Iterator[str]:
    yield f"# {markdown(sheet.title)}\n\n{markdown(sheet.verdict)}"
    for section in sheet.all_sections:
        yield f"\n## {markdown(section.title)}"
        yield from _section_lines(section)
    if sheet.commands:
        yield f"\n## Next\n\n{''.join(map(_command, sheet.commands))}"


def _section_lines(section: Section) -> Iterator[str]:
    if section.warnings:
        yield ""
        yield from (f"- **Warning:** {markdown(warning)}" for warning in section.warnings)
    if section.facts:
        yield "\n| | |\n|---|---|"
        yield from (f"| {markdown(fact.label)} | {_link(fact.value, fact.link)} |" for fact in section.facts)
    yield from (f"\n{_picture(chart)}\n\n{markdown(chart.summary)}" for chart in section.charts)
    for table in section.tables:
        yield from _table_lines(table)
    if section.exchanges:
        cells = [exchange_cells(exchange) for exchange in section.exchanges]
        rows = [tuple(row.values()) for row in cells]
        yield from _table_lines(Table("", tuple(cells[0]), rows, texts=len(cells[0])))


def _table_lines(table: Table) -> Iterator[str]:
    yield f"\n**{markdown(table.title)}**\n" if table.title else ""
    yield f"| {' | '.join(map(markdown, table.columns))} |"
    numbers = len(table.columns) - table.texts
    yield f"|{'---|' * table.texts}{'---:|' * numbers}"
    yield from (f"| {' | '.join(map(markdown, row))} |" for row in table.rows)


def _picture(chart: Chart) -> str:
    address = base64.b64encode(draw_svg(chart).encode()).decode()
    return f"![{markdown(chart.title)}](data:image/svg+xml;base64,{address})"


def _command(command: Command) -> str:
    # In an indented block of code nothing is markup.
    return f"- {markdown(command.purpose)}:\n\n      {visible(' '.join(command.line.split()))}\n"


def _joined(pieces: list[Words]) -> str:
    return "".join(piece.text for piece in pieces)


def _link(text: str, address: str | None) -> str:
    return f"[{markdown(text)}](<{address}>)" if address else markdown(text)

"""A report as one HTML file: no script, nothing from elsewhere, light and dark, from a telephone's width to print."""

from markupsafe import Markup

from retune.charts import draw_svg
from retune.facts import facts_of
from retune.report import Report
from retune.sheet import Chart, Sheet
from retune.templating import render_template


def to_html(report: Report, program: str = "retune") -> str:
    """The page of a report; `program` is how `retune` is typed."""
    return sheet_to_html(facts_of(report, program=program))


def sheet_to_html(sheet: Sheet) -> str:
    """The page of any sheet."""
    return render_template("page.html", sheet=sheet, draw=_draw)


def _draw(chart: Chart) -> Markup:
    """A chart as a part of the page; its own template has escaped its texts."""
    return Markup(draw_svg(chart, inline=True))

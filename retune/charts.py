"""Charts as SVG: inside our page with its colours, or as a picture on its own for Prefect's page."""

import math
from typing import NamedTuple

from retune.sheet import Chart, Series
from retune.templating import render_template
from retune.units import number

SIZES = {"lines": (360, 210), "bars": (300, 180)}
LEFT, RIGHT, TOP, BOTTOM = 46, 22, 26, 42
# More points than that are a line without dots.
MOST_DOTS = 60
MOST_TICKS = 5
LABEL_LENGTH, LABEL_WIDTH, SAMPLE_WIDTH = 24, 7.2, 34


class Tick(NamedTuple):
    """A mark on an axis."""

    position: float
    text: str


class Bar(NamedTuple):
    """A bar of a histogram."""

    x: float
    y: float
    width: float
    height: float


class Line(NamedTuple):
    """The points of a series, and where its label stands in the legend."""

    points: list[tuple[float, float]]
    has_dots: bool
    label: str
    label_x: float


class Scale(NamedTuple):
    """From a value to a position in the picture."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, *, whole: bool) -> list[Tick]:
        """A few round values with their positions."""
        step = _round_step((self.high - self.low) / MOST_TICKS, whole=whole)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [Tick(self(index * step), number(round(index * step, 9))) for index in range(first, last + 1)]


def draw_svg(chart: Chart, *, inline: bool = False) -> str:
    """The chart; `inline` for our page, whose style sheet colours it."""
    width, height = SIZES[chart.kind]
    values = [value for series in chart.series for value in series.values]
    edges = [edge for series in chart.series for edge in series.edges]
    x = Scale(min([0, *edges]), max(edges, default=1), LEFT, width - RIGHT)
    y = Scale(min([0, *values]), max(values, default=1) or 1, height - BOTTOM, TOP)
    return render_template(
        "chart.svg",
        chart=chart,
        inline=inline,
        width=width,
        height=height,
        left=LEFT,
        right=width - RIGHT,
        bottom=height - BOTTOM,
        x_ticks=x.ticks(whole=True),
        y_ticks=y.ticks(whole=False),
        lines=_lines(chart.series, x, y) if chart.kind == "lines" else [],
        bars=[bar for series in chart.series for bar in _bars(series, x, y)] if chart.kind == "bars" else [],
    )


def _lines(every_series: list[Series], x: Scale, y: Scale) -> list[Line]:
    lines, label_x = [], float(LEFT)
    for series in every_series:
        points = [(x(edge), y(value)) for edge, value in zip(series.edges, series.values, strict=True)]
        label = series.label if len(series.label) <= LABEL_LENGTH else f"{series.label[:LABEL_LENGTH]}…"
        lines.append(Line(points, len(points) <= MOST_DOTS, label, label_x))
        label_x += SAMPLE_WIDTH + LABEL_WIDTH * len(label)
    return lines


def _bars(series: Series, x: Scale, y: Scale) -> list[Bar]:
    """A bar for each value, from its edge to the next."""
    sides = zip(series.edges, series.edges[1:], series.values, strict=False)
    return [
        Bar(x(left), y(value), round(max(x(right) - x(left) - 1, 0.5), 1), round(y(0) - y(value), 1))
        for left, right, value in sides
    ]


def _round_step(least: float, *, whole: bool) -> float:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is at least `least`."""
    if least <= 0 or not math.isfinite(least):
        return 1
    power = 10 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
    return max(step, 1) if whole else step

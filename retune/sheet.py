"""A report as facts in sections: what every rendering of it shows, and nothing else. Texts are as they came, unescaped.

`retune/facts.py` makes a sheet of a report; `printing` (terminal), `summary` (Markdown) and `page` (HTML) show one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Tone = Literal["good", "bad", "neutral"]


class Fact(NamedTuple):
    """One thing that a report says. A fact without a value is not shown."""

    label: str
    value: str
    link: str | None = None


class Table(NamedTuple):
    """Facts of one kind, a row each. The first `texts` columns are texts, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    texts: int = 1


class Series(NamedTuple):
    """Points of a chart; `edges` has one more entry than `values` where these are bars."""

    label: str
    edges: list[float]
    values: list[float]


class Chart(NamedTuple):
    """A picture of numbers. `summary` says in words what it shows: the terminal prints it, a screen reader reads it."""

    title: str
    summary: str
    kind: Literal["lines", "bars"]
    x_label: str
    y_label: str
    series: list[Series]


class Words(NamedTuple):
    """A piece of a text, and whether another text lacks it."""

    text: str
    differs: bool


class Exchange(NamedTuple):
    """A question to the endpoint, the answer of the row and the answer of the endpoint, in pieces."""

    asked: str
    expected: list[Words]
    answered: list[Words]
    judgement: str
    tone: Tone
    time: str


class Command(NamedTuple):
    """A command line that works when it is pasted, and what it does."""

    purpose: str
    line: str


@dataclass(frozen=True)
class Section:
    """Facts under one heading: `folded` ones for those who look something up, `prominent` ones for everybody."""

    title: str
    facts: list[Fact] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    folded: bool = False
    prominent: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show under the heading."""
        return not (self.facts or self.warnings or self.charts or self.tables or self.exchanges)


@dataclass(frozen=True)
class Sheet:
    """The whole report, the most important first; `problem` is why a run did not complete."""

    title: str
    verdict: str
    tone: Tone
    sections: list[Section]
    commands: list[Command] = field(default_factory=list)
    problem: Section | None = None

    @property
    def all_sections(self) -> list[Section]:
        """The problem, if any, and the others."""
        return [self.problem, *self.sections] if self.problem else self.sections


def section_of(
    title: str,
    facts: Sequence[Fact],
    *,
    warnings: Sequence[str] = (),
    charts: Sequence[Chart] = (),
    tables: Sequence[Table] = (),
    folded: bool = False,
    prominent: bool = False,
) -> Section:
    """The section with those facts and tables that say something."""
    return Section(
        title=title,
        facts=[fact for fact in facts if fact.value],
        warnings=list(warnings),
        charts=list(charts),
        tables=[table for table in tables if table.rows],
        folded=folded,
        prominent=prominent,
    )

"""What was prepared, for a person: a page in Markdown, and a picture of the rows' lengths."""

import io
import re
from collections.abc import Iterator

from chatdata.cache import folder
from retune.report import PreparedData, Split, Spread
from retune.summary import embedded
from retune.texts import markdown, visible

PICTURE = "lengths.png"
# Wong's colours, which people with any colour vision tell apart.
COLOURS = {"train": "#0072B2", "validation": "#E69F00", "test": "#009E73"}


def to_markdown(prepared: PreparedData) -> str:
    """Rows, lengths, roles, what was found with examples, and the first rows."""
    return "\n".join(_lines(prepared))


def to_page(prepared: PreparedData) -> str:
    """The same as a section of a page, with the picture in it."""
    picture = embedded("lengths of the rows", draw_lengths(prepared))
    return f"#{to_markdown(prepared)}\n\n{picture}"


def _lines(prepared: PreparedData) -> Iterator[str]:
    yield f"# Chat data: {markdown(prepared.source)}"
    how = "found and verified" if prepared.cached else f"prepared in {prepared.seconds:g} s"
    chosen = "leading rows" if prepared.selection == "head" else "rows by digest"
    yield f"Revision {markdown(prepared.revision)}, {chosen}; {how}. Key {markdown(prepared.key)}.\n"
    yield "| | chosen | left out | written | turns | characters | tokens | size |"
    yield "|---|---:|---:|---:|---|---|---|---:|"
    for role, split in prepared.splits.items():
        yield f"| **{markdown(role)}** | {' | '.join(_cells(split))} |"
    yield "\nTurns, characters and tokens: median, 90th percentile, largest of a row.\n"
    yield from (f"- {markdown(warning)}" for warning in prepared.warnings)
    yield from _read(prepared)
    yield from _found(prepared)
    yield from _roles(prepared)
    for role, split in prepared.splits.items():
        if split.statistics:
            yield f"\n## First rows: {markdown(role)}\n"
            yield from (_block(row) for row in split.statistics.preview)


def _block(row: str) -> str:
    """A row as it is, between fences that are longer than any in it."""
    fence = "`" * max(3, 1 + max((len(ticks) for ticks in re.findall("`+", row)), default=0))
    return f"{fence}json\n{visible(row.strip()).replace(chr(10), ' ')}\n{fence}"


def _cells(split: Split) -> Iterator[str]:
    yield f"{split.selected:,}"
    yield f"{sum(split.dropped.values()):,}"
    yield f"{split.rows:,}"
    about = split.statistics
    yield _spread(about.turns) if about else ""
    yield _spread(about.characters) if about else ""
    yield f"{_spread(about.tokens)} (of {about.token_rows:,} rows)" if about and about.tokens else "not counted"
    yield f"{split.bytes / 1e6:,.1f} MB"


def _spread(spread: Spread) -> str:
    return f"{spread.p50:,.0f}, {spread.p90:,.0f}, {spread.maximum:,.0f}"


def _read(prepared: PreparedData) -> Iterator[str]:
    """What the rows were recognised as, where they come from, and the first one before it was converted."""
    yield "\n## How the rows were read\n\n| | split | format | held out |\n|---|---|---|---|"
    for role, split in prepared.splits.items():
        yield f"| {role} | {' | '.join(map(markdown, (split.source_split, split.format, split.held_out)))} |"
    if row := next((split.source_row for split in prepared.splits.values() if split.source_row), ""):
        yield "\nThe first row as it is in the source:\n"
        yield _block(row)


def _found(prepared: PreparedData) -> Iterator[str]:
    rows = [(role, bad) for role, split in prepared.splits.items() for bad in split.bad_rows]
    redacted = [
        (role, kind, count) for role, split in prepared.splits.items() for kind, count in split.redacted.items()
    ]
    if not rows and not redacted:
        yield "Nothing is wrong with any row.\n"
        return
    yield "## What was found\n\n| | kind | rows | for example |\n|---|---|---:|---|"
    for role, bad in rows:
        yield f"| {markdown(role)} | {markdown(bad.kind)} | {bad.rows:,} | {markdown('; '.join(bad.examples))} |"
    for role, kind, count in redacted:
        yield f"| {markdown(role)} | {markdown(kind)}, replaced | {count:,} | |"
    yield ""


def _roles(prepared: PreparedData) -> Iterator[str]:
    yield "| messages | " + " | ".join(map(markdown, prepared.splits)) + " |"
    yield "|---|" + "---:|" * len(prepared.splits)
    counts = [split.statistics.roles if split.statistics else {} for split in prepared.splits.values()]
    for role in sorted({role for count in counts for role in count}):
        yield f"| {markdown(role)} | " + " | ".join(f"{count.get(role, 0):,}" for count in counts) + " |"


def picture_of(prepared: PreparedData) -> bytes:
    """The picture beside the prepared files, drawn when it is not there yet."""
    path = folder() / prepared.key / PICTURE
    if not path.is_file():
        drawn = path.with_suffix(".drawn")
        drawn.write_bytes(draw_lengths(prepared))
        drawn.replace(path)
    return path.read_bytes()


def draw_lengths(prepared: PreparedData) -> bytes:
    """A histogram of the rows' characters for each file, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    shown = {role: split.statistics for role, split in prepared.splits.items() if split.statistics}
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for panel, (role, about) in zip(axes, shown.items(), strict=True):
        panel.stairs(about.histogram_rows, about.histogram_edges, fill=True, color=COLOURS[role])
        panel.axvline(about.characters.p50, color="black", linewidth=1, linestyle="--")
        panel.set_title(f"{role}: {prepared.splits[role].rows:,} rows, median {about.characters.p50:,.0f}", fontsize=10)
        panel.set_xlabel("characters of a row; the last bin holds all longer ones", fontsize=7)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[0].set_ylabel("rows", fontsize=8)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()

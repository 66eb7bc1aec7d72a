"""The facts of prepared data: what the rows are, how long they are, and what was wrong with them."""

from retune import names
from retune.report import PreparedData, SplitStatistics, Spread
from retune.sheet import Chart, Fact, Section, Series, Sheet, Table, section_of
from retune.units import count, duration, megabytes, number

SELECTIONS = {"head": "leading rows", "hash": "rows by digest"}


def data_sheet(data: PreparedData) -> Sheet:
    """The facts of prepared data alone."""
    rows = ", ".join(f"{split.rows:,} {role}" for role, split in data.splits.items())
    title = f"Chat data: {names.data_name(data.source)}"
    return Sheet(title, f"Rows: {rows}.", "neutral", [data_section(data), data_details(data)])


def data_section(data: PreparedData) -> Section:
    """Where the rows are from, how many and how long they are, and what was wrong with them."""
    facts = [
        Fact("source", data.source),
        Fact("revision", data.revision[:12]),
        *_origin_facts(data),
        Fact("not read", ", ".join(data.unused)),
        Fact("choice of rows", SELECTIONS.get(data.selection, data.selection)),
        Fact("files", "from the cache, digests verified" if data.cached else f"prepared in {duration(data.seconds)}"),
        Fact("fetched", megabytes(data.fetched_bytes) if data.fetched_bytes else ""),
    ]
    charts = [_lengths_chart(role, split.statistics) for role, split in data.splits.items() if split.statistics]
    tables = [_rows_table(data), _findings_table(data)]
    return section_of("Data", facts, warnings=data.warnings, charts=charts, tables=tables)


def data_details(data: PreparedData) -> Section:
    """Lengths and roles by file, and the first rows."""
    facts = [
        Fact("rows with tools", _counted({role: split.tool_rows for role, split in data.splits.items()})),
    ]
    tables = [_lengths_table(data), _roles_table(data), _first_rows_table(data)]
    return section_of("Data in detail", facts, tables=tables, folded=True)


def _rows_table(data: PreparedData) -> Table:
    columns = ("file", "chosen", "left out", "written", "median turns", "median characters", "tokens", "size")
    rows = []
    for role, split in data.splits.items():
        about = split.statistics
        turns, characters = (number(about.turns.p50), number(about.characters.p50)) if about else ("", "")
        tokens = number(about.tokens.p50) if about and about.tokens else "not counted"
        counts = (f"{split.selected:,}", f"{sum(split.dropped.values()):,}", f"{split.rows:,}")
        rows.append((role, *counts, turns, characters, tokens, megabytes(split.bytes)))
    return Table("Files", columns, rows)


def _origin_facts(data: PreparedData) -> list[Fact]:
    """What the rows were recognised as, and where those of each file come from."""
    formats = dict.fromkeys(split.format for split in data.splits.values() if split.format)
    facts = [Fact("format", recognised) for recognised in formats]
    for role, split in data.splits.items():
        held_out = f", held out: {split.held_out}" if split.held_out else ""
        facts.append(Fact(f"{role} rows from", f"{split.source_split}{held_out}" if split.source_split else ""))
    return facts


def _counted(rows: dict[str, int]) -> str:
    """Numbers by file, without those that are 0."""
    return ", ".join(f"{number:,} {role}" for role, number in rows.items() if number)


def _first_rows_table(data: PreparedData) -> Table:
    """The first rows as they were written, and the very first as it is in the source."""
    rows = []
    for role, split in data.splits.items():
        if split.source_row:
            rows.append((role, "in the source", split.source_row.strip()))
        if split.statistics:
            rows += [(role, "written", row.strip()) for row in split.statistics.preview]
    return Table("First rows", ("file", "as", "row"), rows, texts=3)


def _findings_table(data: PreparedData) -> Table:
    """What was left out, kept though notable, or replaced."""
    rows = []
    for role, split in data.splits.items():
        fates = (("left out", split.dropped), ("kept", split.noted), ("replaced", split.redacted))
        explained = {bad.kind for bad in split.bad_rows}
        for bad in split.bad_rows:
            fate = next((fate for fate, kinds in fates if bad.kind in kinds), "found")
            rows.append((role, bad.kind, fate, "; ".join(bad.examples), f"{bad.rows:,}"))
        others = [(fate, kind, total) for fate, kinds in fates for kind, total in kinds.items()]
        rows += [(role, kind, fate, "", f"{total:,}") for fate, kind, total in others if kind not in explained]
    return Table("What was found in the rows", ("file", "kind", "fate", "for example", "rows"), rows, texts=4)


def _roles_table(data: PreparedData) -> Table:
    counts = {role: split.statistics.roles for role, split in data.splits.items() if split.statistics}
    speakers = sorted({speaker for speakers in counts.values() for speaker in speakers})
    rows = [(speaker, *(f"{counted.get(speaker, 0):,}" for counted in counts.values())) for speaker in speakers]
    return Table("Messages by role", ("role", *counts), rows)


def _lengths_table(data: PreparedData) -> Table:
    rows = []
    for role, split in data.splits.items():
        about = split.statistics
        if about is None:
            continue
        tokens = f"tokens of {count(about.token_rows, 'row')}"
        spreads = (("turns", about.turns), ("characters", about.characters), (tokens, about.tokens))
        rows += [(role, what, *_spread_cells(spread)) for what, spread in spreads if spread]
    return Table("Lengths of a row", ("file", "of", "mean", "median", "90 %", "99 %", "largest"), rows, texts=2)


def _spread_cells(spread: Spread) -> tuple[str, ...]:
    return tuple(map(number, (spread.mean, spread.p50, spread.p90, spread.p99, spread.maximum)))


def _lengths_chart(role: str, about: SplitStatistics) -> Chart:
    """How long the rows of a file are."""
    lengths = about.characters
    summary = (
        f"Half of the {role} rows have at most {number(lengths.p50)} characters, 90 % at most {number(lengths.p90)}; "
        "the last bar counts all longer rows."
    )
    series = [Series(role, about.histogram_edges, [float(rows) for rows in about.histogram_rows])]
    return Chart(f"Length of the {role} rows", summary, "bars", "characters", "rows", series)

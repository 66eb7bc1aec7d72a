"""What the rows of a prepared file look like: lengths, roles, a histogram, the first rows."""

from pathlib import Path

import polars as pl

from chatdata.checks import ROLES
from retune.report import SplitStatistics, Spread

PREVIEW_ROWS = 3
PREVIEW_CHARACTERS = 400
BINS = 24


def summarize(path: Path, rows: pl.DataFrame, tokens: pl.Series) -> SplitStatistics | None:
    """The statistics of a file with these rows, which have `letters` (of roles) and `characters`; `tokens` of some of
    them. None without a row."""
    if rows.is_empty():
        return None
    edges, counts = histogram(rows["characters"])
    counted = {role: int(rows["letters"].str.count_matches(role[0], literal=True).sum()) for role in ROLES}
    return SplitStatistics(
        turns=spread(rows["letters"].str.len_bytes()),
        characters=spread(rows["characters"]),
        tokens=spread(tokens) if len(tokens) else None,
        token_rows=len(tokens),
        roles={
            role: counted[role] for role in sorted(ROLES, key=lambda role: counted[role], reverse=True) if counted[role]
        },
        histogram_edges=edges,
        histogram_rows=counts,
        preview=preview(path),
    )


def spread(values: pl.Series) -> Spread:
    """Mean, percentiles and maximum."""
    p50, p90, p99 = (round(percentile(values, share), 1) for share in (0.5, 0.9, 0.99))
    numbers = values.to_numpy()
    return Spread(mean=round(float(numbers.mean()), 1), p50=p50, p90=p90, p99=p99, maximum=numbers.max().item())


def percentile(values: pl.Series, share: float) -> float:
    """The value that a share of all values is below; of none 0."""
    return values.quantile(share, "linear") or 0.0


def histogram(values: pl.Series) -> tuple[list[float], list[int]]:
    """Bounds of the bins, and how many values are in each.

    Long conversations are few; the last bin holds them, so that the others can be told apart.
    """
    width = max(percentile(values, 0.99), 1) / BINS
    edges = [width * number for number in range(BINS + 1)]
    bins = (pl.Series(edges).search_sorted(values, side="right") - 1).clip(0, BINS - 1)
    counts = dict(bins.value_counts().iter_rows())
    return [round(edge, 1) for edge in edges], [counts.get(number, 0) for number in range(BINS)]


def preview(path: Path) -> list[str]:
    """The first rows, cut where they are long."""
    with path.open(encoding="utf-8", newline="\n") as file:
        lines = [line for line, _ in zip(file, range(PREVIEW_ROWS), strict=False)]
    return [line if len(line) <= PREVIEW_CHARACTERS else f"{line[:PREVIEW_CHARACTERS]} ..." for line in lines]

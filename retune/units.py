"""Numbers, times and ids as a person reads them: rounded, with their unit, short."""

import re
from datetime import UTC, datetime

UUID = re.compile(r"\b([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b")


def money(usd: float) -> str:
    """US dollars and cents."""
    return "under US$0.01" if 0 < usd < 0.005 else f"US${usd:,.2f}"


def count(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in the two units that matter."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def number(value: float) -> str:
    """Three significant digits, and whole numbers whole."""
    if abs(value) >= 1e15:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def moment(time: datetime) -> str:
    """Date and time to the minute, UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def megabytes(size: int) -> str:
    """A size in MB, or in kB where it is small."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def shortened(text: str) -> str:
    """The text with the first digits of each UUID and each digest in it."""
    return DIGEST.sub(r"\1", UUID.sub(r"\1", text))

"""What the rows of a split look like, collected while they are written: 6 bytes a row."""

from array import array
from collections.abc import Sequence

import numpy as np

from chatdata.turns import ROLES, Turns
from retune.report import SplitStatistics, Spread

PREVIEW_ROWS = 3
PREVIEW_CHARACTERS = 400
BINS = 24


class Collected:
    """The figures of the rows so far."""

    def __init__(self) -> None:
        self._turns, self._characters, self._tokens = array("H"), array("I"), array("I")
        self._roles = np.zeros(len(ROLES), np.int64)
        self._preview: list[str] = []

    def add(self, turns: Turns, rows: np.ndarray, characters: np.ndarray, lines: list[bytes]) -> None:
        """Takes the rows that are written, their numbers among all conversations of `turns`; with the characters in
        their texts and the lines that they are written as."""
        self._turns.frombytes(np.minimum(turns.counts[rows], 65_535).astype(np.uint16).tobytes())
        self._characters.frombytes(characters.astype(np.uint32).tobytes())
        written = np.zeros(len(turns.counts), bool)
        written[rows] = True
        self._roles += np.bincount(turns.roles[np.repeat(written, turns.counts)], minlength=len(ROLES))
        for line in lines[: PREVIEW_ROWS - len(self._preview)]:
            text = line.decode()
            self._preview.append(text if len(text) <= PREVIEW_CHARACTERS else f"{text[:PREVIEW_CHARACTERS]} ...")

    def add_tokens(self, counts: Sequence[int]) -> None:
        """Takes the tokens of some rows."""
        self._tokens.extend(counts)

    def summary(self) -> SplitStatistics | None:
        """The statistics; None without a row."""
        if not self._turns:
            return None
        characters = np.frombuffer(self._characters, np.uint32)
        # Long conversations are few; the last bin holds them, so that the others can be told apart.
        edges = np.linspace(0, max(float(np.percentile(characters, 99)), 1), BINS + 1)
        order = np.argsort(-self._roles, kind="stable").tolist()
        rows, _ = np.histogram(np.minimum(characters, edges[-1]), edges)
        return SplitStatistics(
            turns=spread(np.frombuffer(self._turns, np.uint16)),
            characters=spread(characters),
            tokens=spread(np.frombuffer(self._tokens, np.uint32)) if self._tokens else None,
            token_rows=len(self._tokens),
            roles={ROLES[role]: int(self._roles[role]) for role in order if self._roles[role]},
            histogram_edges=[round(float(edge), 1) for edge in edges],
            histogram_rows=rows.tolist(),
            preview=self._preview,
        )


def spread(values: np.ndarray) -> Spread:
    """Mean, percentiles and maximum."""
    p50, p90, p99 = (round(float(value), 1) for value in np.percentile(values, [50, 90, 99]))
    return Spread(mean=round(float(values.mean()), 1), p50=p50, p90=p90, p99=p99, maximum=float(values.max()))

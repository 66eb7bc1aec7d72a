"""What the rows of a split look like, collected while they are written: 6 bytes a row."""

from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np

from chatdata.turns import ROLE
from retune.report import SplitStatistics, Spread

PREVIEW_ROWS = 3
PREVIEW_CHARACTERS = 400
BINS = 24


class Collected:
    """The figures of the rows so far."""

    def __init__(self) -> None:
        self._turns, self._characters, self._tokens = array("H"), array("I"), array("I")
        self._roles: Counter[str] = Counter()
        self._preview: list[str] = []

    def add(self, rows: list[list[dict[str, object]]], characters: list[int], lines: list[bytes]) -> None:
        """Takes rows that are written, with the characters in their texts and the lines that they are written as."""
        self._turns.extend([min(len(messages), 65_535) for messages in rows])
        self._characters.extend(characters)
        self._roles.update(map(ROLE, chain.from_iterable(rows)))
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
        rows, _ = np.histogram(np.minimum(characters, edges[-1]), edges)
        return SplitStatistics(
            turns=spread(np.frombuffer(self._turns, np.uint16)),
            characters=spread(characters),
            tokens=spread(np.frombuffer(self._tokens, np.uint32)) if self._tokens else None,
            token_rows=len(self._tokens),
            roles=dict(self._roles.most_common()),
            histogram_edges=[round(float(edge), 1) for edge in edges],
            histogram_rows=rows.tolist(),
            preview=self._preview,
        )


def spread(values: np.ndarray) -> Spread:
    """Mean, percentiles and maximum."""
    p50, p90, p99 = (round(float(value), 1) for value in np.percentile(values, [50, 90, 99]))
    return Spread(mean=round(float(values.mean()), 1), p50=p50, p90=p90, p99=p99, maximum=float(values.max()))

"""The rows of a prepared file, which can be read again one by one."""

from pathlib import Path
from typing import IO, NamedTuple

import orjson
import polars as pl

from chatdata.conversations import Messages


class RowLocation(NamedTuple):
    """Where a row stands in the source."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


class WrittenRows:
    """The rows of a prepared file. `rows` has, in the file's order: file, number, size, exact, ends, and more."""

    def __init__(self, path: Path, rows: pl.DataFrame) -> None:
        self.path, self.rows = path, rows
        self._offsets = rows["size"].cum_sum() - rows["size"]
        self._file: IO[bytes] | None = None

    def close(self) -> None:
        """The rows are not read any more."""
        if self._file is not None:
            self._file.close()

    def location(self, row: int) -> RowLocation:
        """Where a row stands in the source."""
        return RowLocation(self.rows["file"][row], self.rows["number"][row])

    def messages(self, row: int) -> Messages:
        """The conversation of a row."""
        if self._file is None:
            self._file = self.path.open("rb")
        self._file.seek(self._offsets[row])
        return orjson.loads(self._file.readline())["messages"]

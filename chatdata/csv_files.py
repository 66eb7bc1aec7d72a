"""Rows of values that commas, semicolons, tabs or bars separate, each with the number of its line."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from typing import IO

from chatdata import checks
from chatdata.text_files import SNIFFED_BYTES, Row

# What parts the values of a row, most usual first.
DELIMITERS = (b",", b";", b"\t", b"|")


def csv_rows(name: str, stream: IO[bytes]) -> Iterator[Row]:
    """The rows below a line with the names of the columns.

    Raises:
        ValueError: two columns have one name, or quotes do not match; the text says where, and what to do.
    """
    start = stream.tell()
    header = stream.read(SNIFFED_BYTES).partition(b"\n")[0]
    stream.seek(start)
    delimiter = b"\t" if ".tsv" in name else max(DELIMITERS, key=header.count)
    # Bytes that are not UTF-8 become lone surrogates, which are found row by row.
    with io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="") as text:
        lines = csv.reader(text, delimiter=delimiter.decode(), strict=True)
        try:
            names = next(lines, [])
            if repeated := [column for column, times in Counter(names).items() if column and times > 1]:
                raise ValueError(f"two columns are named '{repeated[0]}'. Give each a name of its own")
            for cells in lines:
                if not cells:
                    continue
                if len(cells) != len(names):
                    detail = f"{len(cells)}, the header has {len(names)}"
                    yield Row(lines.line_num, {}, (checks.OTHER_COLUMNS, detail))
                    continue
                yield Row(lines.line_num, dict(zip(names, cells, strict=True)))
        except csv.Error as error:
            raise ValueError(
                f"line {lines.line_num}: {error}. A cell with a quote, a separator or a line end stands in quotes, and "
                'a quote in it is written twice: "He said ""yes"""'
            ) from error

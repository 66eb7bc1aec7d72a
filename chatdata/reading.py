"""Rows of chat files, a batch at a time, each with the place where it stands.

Parquet is read by row groups, the columns `messages` and `tools` only, and no row group beyond the wanted rows; a file
that is not here is read by ranges. Text is read line by line; a text file that is not here is fetched whole first.
Memory holds a few batches, whatever the size of the files.
"""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from chatdata.conversations import COLUMNS, Broken, Conversation, from_columns
from chatdata.sources import SourceFile, unreachable
from chatdata.text_files import BadFile, Row, csv_rows, json_rows, list_columns
from retune.errors import RetuneError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")
BATCH_ROWS = 1000
# Row groups are fetched together, because a request costs as much time as a few megabytes; the first ones of a file
# up to the first size, so that work begins soon, then twice as much each time, up to the second.
FIRST_FETCH_BYTES, FETCH_BYTES = 2 << 20, 8 << 20
# For the same reason what lies between two wanted columns is fetched with them up to this size.
GAP_BYTES = 1 << 19
# Of a column that an early parquet-cpp wrote, so many bytes more are read than it says it has.
PADDING_BYTES = 100
FOOTERS_AT_ONCE = 8
# A row of chat has kilobytes, and text is compressed by a factor of ten: beyond these a file is meant to fill memory.
ROW_BYTES = 64 << 20
EXPANSION, FREE_BYTES, PART_BYTES = 100, 64 << 20, 1 << 20
BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Batch:
    """Rows that follow each other in one file."""

    file: str
    # Row numbers in parquet, line numbers in text, from 1.
    numbers: Sequence[int]
    conversations: pl.Series | list[Conversation]
    broken: Broken

    def __len__(self) -> int:
        return len(self.conversations)

    def only(self, positions: Sequence[int]) -> "Batch":
        """Some of the rows, in their order."""
        broken = {new: self.broken[old] for new, old in enumerate(positions) if old in self.broken}
        numbers = [self.numbers[position] for position in positions]
        if isinstance(self.conversations, pl.Series):
            return Batch(self.file, numbers, self.conversations.gather(positions), broken)
        return Batch(self.file, numbers, [self.conversations[position] for position in positions], broken)


class Reader:
    """Reads files of one file system; those that must be whole to be read are fetched into `scratch`."""

    def __init__(self, system: "AbstractFileSystem", scratch: Path) -> None:
        self._system, self._scratch = system, scratch
        self._local = "file" in system.protocol
        self._fetched: dict[str, Path] = {}
        self._footers: dict[str, pq.FileMetaData] = {}

    def fetch_footers(self, files: Iterable[SourceFile]) -> None:
        """Fetch, side by side, what says where the rows are; a file that is broken tells so when it is read.

        Raises:
            CloudError: `DataUnreachable`.
        """
        files = [file for file in files if file.kind == "parquet"]
        with ThreadPoolExecutor(FOOTERS_AT_ONCE, thread_name_prefix="footers") as pool:
            for fetching in [pool.submit(self._footer, file) for file in files]:
                with suppress(BadFile):
                    fetching.result()

    def count_rows(self, file: SourceFile) -> int:
        """Rows of a file, from its footer where it has one.

        Raises:
            BadFile: the file cannot be read.
        """
        if file.kind == "parquet":
            return self._footer(file).num_rows
        return sum(len(batch) for batch in self.batches(file, None))

    def batches(self, file: SourceFile, rows: int | None) -> Iterator[Batch]:
        """The first `rows` rows of a file, or all; the last batch may hold more.

        Raises:
            BadFile: the file cannot be read.
        """
        with guarded(file):
            yield from self._parquet(file, rows) if file.kind == "parquet" else self._text(file)

    def _parquet(self, file: SourceFile, rows: int | None) -> Iterator[Batch]:
        footer = self._footer(file)
        names = footer.schema.to_arrow_schema().names
        if "messages" not in names:
            raise BadFile(f"{file.name}: no column 'messages'; its columns: {list_columns(names)}.")
        columns = [name for name in COLUMNS if name in names]
        check_expansion(file, footer)
        number = 1
        for groups, stream in read_ahead(map(partial(self._fetch_groups, file), groups_to_fetch(footer, rows))):
            with stream:
                opened = pq.ParquetFile(stream, metadata=footer)
                for batch in opened.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns):
                    yield from_arrow(file.name, number, batch)
                    number += len(batch)

    def _fetch_groups(self, file: SourceFile, groups: list[int]) -> tuple[list[int], IO[bytes]]:
        """Row groups, and the file with their columns fetched."""
        if self._local:
            return groups, self._open(file)
        with self._open(file) as stream:
            parts = {}
            for start, end in ranges_to_fetch(self._footer(file), groups):
                stream.seek(start)
                content = stream.read(end - start)
                # Near the end of a file there may be less.
                parts[start, start + len(content)] = content
        # What lies elsewhere must not be taken for zeros.
        known = {"data": parts, "strict": True}
        return groups, self._system.open(file.path, "rb", cache_type="parts", cache_options=known)

    def _footer(self, file: SourceFile) -> pq.FileMetaData:
        """Fetched once, though counting and reading both need it."""
        if file.path not in self._footers:
            with guarded(file), self._open(file) as stream:
                self._footers[file.path] = pq.ParquetFile(stream).metadata
        return self._footers[file.path]

    def _text(self, file: SourceFile) -> Iterator[Batch]:
        here = self._here(file)
        with fsspec.open(str(here), "rb", compression="infer") as opened:
            stream = Expanding(opened, here.stat().st_size)
            start = stream.read(len(BOM))
            if not start:
                raise BadFile(f"{file.name}: the file is empty.")
            if start.startswith(UTF16):
                raise BadFile(f"{file.name}: the file is UTF-16. Convert it to UTF-8.")
            stream.seek(len(BOM) if start == BOM else 0)
            csv.field_size_limit(ROW_BYTES)
            rows = csv_rows(file.name, stream) if file.kind == "csv" else json_rows(stream)
            for chunk in iter(lambda: list(itertools.islice(rows, BATCH_ROWS)), []):
                yield from_text(file.name, chunk)

    def _open(self, file: SourceFile) -> IO[bytes]:
        """The file, for reading by ranges; the store must not be asked for more than is wanted."""
        return self._system.open(file.path, "rb", **{} if self._local else {"cache_type": "none"})

    def _here(self, file: SourceFile) -> Path:
        """The file on this machine."""
        if self._local:
            return Path(file.path)
        if file.path not in self._fetched:
            target = self._scratch / f"{len(self._fetched)}-{Path(file.path).name}"
            self._system.get_file(file.path, str(target))
            self._fetched[file.path] = target
        return self._fetched[file.path]

    @property
    def fetched_bytes(self) -> int:
        """Bytes of content that came from elsewhere."""
        whole = sum(path.stat().st_size for path in self._fetched.values())
        return getattr(self._system, "fetched_bytes", 0) + whole


class Expanding(io.BufferedIOBase):
    """A file that may be compressed, of which only so much is read as its size allows.

    Raises:
        ValueError: from its methods, when it expands to far more than its size.
    """

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._most, self._size = stream, max(FREE_BYTES, EXPANSION * size), size
        self._read = 0

    def _count(self, content: bytes) -> bytes:
        self._read += len(content)
        if self._read > self._most:
            raise ValueError(f"its {self._size} bytes expand to over {self._most}, more than {EXPANSION} times as many")
        return content

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            # In parts: the file says only at its end how much it expands to.
            return b"".join(iter(lambda: self.read(PART_BYTES), b""))
        return self._count(self._stream.read(size))

    def read1(self, size: int = -1) -> bytes:
        return self.read(size if size >= 0 else io.DEFAULT_BUFFER_SIZE)

    def readline(self, size: int | None = -1) -> bytes:
        """The next line. Raises: ValueError also when it is longer than a row may be."""
        line = self._count(self._stream.readline(ROW_BYTES + 1))
        if len(line) > ROW_BYTES:
            raise ValueError(f"a row is larger than {ROW_BYTES} bytes")
        return line

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        self._read = self._stream.seek(place, whence)
        return self._read

    def tell(self) -> int:
        return self._stream.tell()


@contextmanager
def guarded(file: SourceFile) -> Iterator[None]:
    """Turns what libraries raise for an unreadable file into BadFile, and for an absent store into a CloudError."""
    try:
        yield
    # The second is how a reader ends that has enough rows.
    except (RetuneError, GeneratorExit):
        raise
    except network_errors() as error:
        raise unreachable(file.name, error) from error
    except (pa.ArrowException, OSError, EOFError, csv.Error, ValueError, LookupError, TypeError) as error:
        raise BadFile(f"{file.name}: not readable as {file.kind}: {' '.join(str(error).split())[:200]}.") from error


def network_errors() -> tuple[type[Exception], ...]:
    """What the file systems raise when a store does not answer; imported when something was raised, because it takes
    a tenth of a second."""
    from aiohttp import ClientError
    from azure.core.exceptions import AzureError
    from huggingface_hub.errors import HTTPError

    return AzureError, ClientError, ConnectionError, HTTPError, TimeoutError


def read_ahead(batches: Iterator[T]) -> Iterator[T]:
    """The same batches, the next one being fetched and decoded while one is worked on."""
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def check_expansion(file: SourceFile, metadata: pq.FileMetaData) -> None:
    """Raise BadFile when a wanted column expands to far more than its size."""
    for group in range(metadata.num_row_groups):
        about = metadata.row_group(group)
        for column in map(about.column, range(about.num_columns)):
            most = max(FREE_BYTES, EXPANSION * column.total_compressed_size)
            if column.path_in_schema.partition(".")[0] in COLUMNS and column.total_uncompressed_size > most:
                sizes = f"{column.total_compressed_size} bytes expand to {column.total_uncompressed_size}"
                place = f"row group {group + 1}, {column.path_in_schema}"
                raise BadFile(f"{file.name}: {place}: its {sizes}, more than {EXPANSION} times as many.")


def groups_to_fetch(metadata: pq.FileMetaData, rows: int | None) -> Iterator[list[int]]:
    """Numbers of the row groups that hold the leading rows, as many together as should be fetched at once."""
    together, size, left = [], 0, metadata.num_rows if rows is None else rows
    most = FIRST_FETCH_BYTES
    for number in range(metadata.num_row_groups):
        if left <= 0:
            break
        bytes_ = sum(end - start for start, end in column_ranges(metadata, number))
        if together and size + bytes_ > most:
            yield together
            together, size, most = [], 0, min(2 * most, FETCH_BYTES)
        together, size, left = [*together, number], size + bytes_, left - metadata.row_group(number).num_rows
    if together:
        yield together


def ranges_to_fetch(metadata: pq.FileMetaData, groups: list[int]) -> list[tuple[int, int]]:
    """First byte and end of what holds the wanted columns of row groups, in as few ranges as is worth it."""
    ranges: list[tuple[int, int]] = []
    for start, end in sorted(itertools.chain.from_iterable(column_ranges(metadata, number) for number in groups)):
        if ranges and start - ranges[-1][1] <= GAP_BYTES:
            start, before = ranges.pop()
            end = max(before, end)
        ranges.append((start, end))
    return ranges


def column_ranges(metadata: pq.FileMetaData, group: int) -> Iterator[tuple[int, int]]:
    """First byte and end of each wanted column of a row group."""
    about = metadata.row_group(group)
    for number in range(about.num_columns):
        column = about.column(number)
        if column.path_in_schema.partition(".")[0] in COLUMNS:
            start = column.data_page_offset
            # A dictionary comes before the pages that refer to it.
            if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
                start = column.dictionary_page_offset
            yield start, start + column.total_compressed_size + PADDING_BYTES


def from_arrow(file: str, number: int, columns: pa.RecordBatch) -> Batch:
    """A batch of parquet rows."""
    broken: Broken = {}
    conversations = from_columns(columns, broken)
    return Batch(file, range(number, number + len(conversations)), conversations, broken)


def from_text(file: str, rows: list[Row]) -> Batch:
    """A batch of rows of a text file."""
    numbers, conversations, problems = zip(*rows, strict=True)
    broken = {position: problem for position, problem in enumerate(problems) if problem}
    return Batch(file, numbers, list(conversations), broken)

"""Rows of chat files, a batch at a time, each with the place where it stands.

Parquet is read by row groups, only the columns that the file's format reads, and no row group beyond the wanted rows; a
file that is not here is read by ranges, after some whole rows where its columns alone do not say the format. Text is
read line by line; a text file that is not here is fetched whole first.
Memory holds a few batches, whatever the size of the files.
"""

import csv
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from chatdata import checks, expanding
from chatdata.arrow_batches import BATCH_ROWS, DECODED_ROWS, joined, rows_at_once
from chatdata.conversations import Broken, Conversation, from_columns, values_of
from chatdata.csv_files import csv_rows
from chatdata.expanding import Expanding, as_bytes, open_text
from chatdata.formats import SAMPLE_ROWS, Format, UnknownFormat, recognise
from chatdata.parquet_ranges import groups_to_fetch, has_messages, ranges_to_fetch
from chatdata.sniffing import check_beginning
from chatdata.source_files import SourceFile, unreachable
from chatdata.text_files import SNIFFED_BYTES, BadFile, Row, json_rows, unfit_text
from retune.data_settings import Data
from retune.errors import RetuneError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")
NO_CONVERSATION = Conversation(None)
ARROW_FILE = b"ARROW1"
FOOTERS_AT_ONCE = 8
BOM = b"\xef\xbb\xbf"
EXAMPLE_CHARACTERS = 400


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
            return Batch(self.file, numbers, self.conversations.gather([*positions]), broken)
        return Batch(self.file, numbers, [self.conversations[position] for position in positions], broken)


class Recognised(NamedTuple):
    """How a file is read, and its first row as it stands there, as JSON text."""

    format: Format
    first_row: str


class Reader:
    """Reads files of one file system; those that must be whole to be read are fetched into `scratch`."""

    def __init__(self, system: "AbstractFileSystem", scratch: Path, data: Data) -> None:
        self._system, self._scratch, self._data = system, scratch, data
        self._formats: dict[str, Recognised] = {}
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
        form = self.recognise(file).format
        if file.kind == "json" or file.kind == "csv":
            for chunk in guard_each(file, self._text(file, BATCH_ROWS)):
                yield from_text(file.name, chunk, form)
            return
        number = 1
        read = self._parquet(file, rows, form) if file.kind == "parquet" else self._arrow(file, form)
        for batch in guard_each(file, read):
            yield from_arrow(file.name, number, batch, form)
            number += len(batch)

    def recognise(self, file: SourceFile) -> Recognised:
        """How a file is read, from its columns and first rows.

        Raises:
            BadFile: the file cannot be read, or its columns make no known shape.
        """
        if file.path not in self._formats:
            with guarded(file):
                columns, rows = self._first_rows(file)
            try:
                form = recognise(columns, rows, self._data)
            except UnknownFormat as error:
                raise BadFile(f"{file.name}: {error}") from error
            self._formats[file.path] = Recognised(form, show_row(rows[0] if rows else {}))
        return self._formats[file.path]

    def _first_rows(self, file: SourceFile) -> tuple[list[str], list[dict[str, object]]]:
        """The columns of a file, and some of its first rows; none of a parquet file whose columns say enough."""
        if file.kind == "parquet":
            schema = self._footer(file).schema.to_arrow_schema()
            plain = self._data.format in ("auto", "openai") and not self._data.columns
            if not self._local and has_messages(schema) and plain:
                return schema.names, []
            batches = self._parquet(file, SAMPLE_ROWS, None)
            return schema.names, sample_of(batches)
        if file.kind == "arrow":
            batches = list(itertools.islice(self._arrow(file, None), 1))
            return (batches[0].schema.names if batches else []), sample_of(iter(batches))
        unread: list[Row] = []
        for rows in self._text(file, SAMPLE_ROWS):
            values = [row.columns for row in rows if row.problem is None]
            if values:
                break
            unread = unread or rows
        else:
            raise BadFile(f"{file.name}: {no_row(unread)}")
        return list(dict.fromkeys(name for row in values for name in row)), values

    def _parquet(self, file: SourceFile, rows: int | None, form: Format | None) -> Iterator[pa.RecordBatch]:
        """Batches of the columns that a format reads, or of all."""
        footer = self._footer(file)
        names = footer.schema.to_arrow_schema().names
        columns = [name for name in names if form is None or name in form.columns.values()]
        check_expansion(file, footer, columns)
        fetch = partial(self._fetch_groups, file, columns)
        for groups, stream in read_ahead(map(fetch, groups_to_fetch(footer, rows, columns))):
            with stream:
                opened = pq.ParquetFile(stream, metadata=footer)
                rows_each = rows_at_once(largest_column(footer, groups, columns))
                yield from joined(file.name, opened.iter_batches(rows_each, row_groups=groups, columns=columns))

    def _arrow(self, file: SourceFile, form: Format | None) -> Iterator[pa.RecordBatch]:
        """Batches of the columns that a format reads, or of all, of a file that `datasets` has saved: Arrow's stream
        format, or its file format."""
        here = self._here(file)
        most = max(expanding.FREE_BYTES, expanding.EXPANSION * here.stat().st_size)
        with pa.memory_map(str(here)) as source:
            check_beginning(file.name, source.read(SNIFFED_BYTES), file.kind)
            source.seek(0)
            if source.read(len(ARROW_FILE)) == ARROW_FILE:
                opened = pa.ipc.open_file(source)
                batches = map(opened.get_batch, range(opened.num_record_batches))
            else:
                source.seek(0)
                batches = iter(pa.ipc.open_stream(source))
            for batch in batches:
                if batch.nbytes > most:
                    raise BadFile(f"{file.name}: expands to more than {expanding.EXPANSION} times its size.")
                if form is not None:
                    batch = batch.select([name for name in batch.schema.names if name in form.columns.values()])
                parts = (batch.slice(start, DECODED_ROWS) for start in range(0, len(batch), DECODED_ROWS))
                yield from joined(file.name, parts)

    def _fetch_groups(self, file: SourceFile, columns: list[str], groups: list[int]) -> tuple[list[int], IO[bytes]]:
        """Row groups, and the file with their columns fetched."""
        if self._local or file.path in self._fetched:
            return groups, self._here(file).open("rb")
        with self._open(file) as stream:
            parts = {}
            for start, end in ranges_to_fetch(self._footer(file), groups, columns):
                stream.seek(start)
                content = stream.read(end - start)
                # Near the end of a file there may be less.
                parts[start, start + len(content)] = content
        # What lies elsewhere must not be taken for zeros.
        known = {"data": parts, "strict": True}
        return groups, as_bytes(self._system.open(file.path, "rb", cache_type="parts", cache_options=known))

    def _footer(self, file: SourceFile) -> pq.FileMetaData:
        """Fetched once, though counting and reading both need it."""
        if file.path not in self._footers:
            with guarded(file), self._open(file) as stream:
                try:
                    self._footers[file.path] = pq.ParquetFile(stream).metadata
                except pa.ArrowInvalid:
                    stream.seek(0)
                    check_beginning(file.name, stream.read(expanding.MAGIC_BYTES), file.kind)
                    raise
        return self._footers[file.path]

    def _text(self, file: SourceFile, rows: int) -> Iterator[list[Row]]:
        """The rows of a text file, so many at a time."""
        here = self._here(file)
        with open_text(here, self._scratch) as opened:
            stream = as_bytes(Expanding(opened, here.stat().st_size))
            start = stream.read(SNIFFED_BYTES)
            check_beginning(file.name, start, file.kind)
            stream.seek(len(BOM) if start.startswith(BOM) else 0)
            csv.field_size_limit(expanding.ROW_BYTES)
            parsed = csv_rows(file.name, stream) if file.kind == "csv" else json_rows(stream)
            yield from iter(lambda: list(itertools.islice(parsed, rows)), [])

    def _open(self, file: SourceFile) -> IO[bytes]:
        """The file, for reading by ranges; the store must not be asked for more than is wanted."""
        return as_bytes(self._system.open(file.path, "rb", **{} if self._local else {"cache_type": "none"}))

    def _here(self, file: SourceFile) -> Path:
        """The file on this machine."""
        if self._local:
            return Path(file.path)
        if file.path not in self._fetched:
            target = self._scratch / f"{len(self._fetched)}-{Path(file.path).name}"
            self._system.get_file(file.path, str(target))
            self._fetched[file.path] = target
        return self._fetched[file.path]

    def fetch_whole(self, files: Iterable[SourceFile]) -> None:
        """Fetch files that are to be read more than once, so that they are read here."""
        for file in files:
            with guarded(file):
                self._here(file)

    @property
    def fetched_bytes(self) -> int:
        """Bytes of content that came from elsewhere."""
        whole = sum(path.stat().st_size for path in self._fetched.values())
        return getattr(self._system, "fetched_bytes", 0) + whole


@contextmanager
def guarded(file: SourceFile) -> Iterator[None]:
    """Turns what libraries raise for an unreadable file into BadFile, and for an absent store into a CloudError."""
    try:
        yield
    except RetuneError:
        raise
    except network_errors() as error:
        raise unreachable(file.name, error) from error
    except (pa.ArrowException, OSError, EOFError, csv.Error, ValueError, LookupError, TypeError) as error:
        raise BadFile(f"{file.name}: not readable as {file.kind}: {' '.join(str(error).split())[:200]}.") from error


def guard_each(file: SourceFile, items: Iterator[T]) -> Iterator[T]:
    """The same items; only reading them is guarded, so that a mistake of ours in their use is not the file's."""
    while True:
        with guarded(file):
            item = next(items, None)
        if item is None:
            return
        yield item


def network_errors() -> tuple[type[Exception], ...]:
    """What the file systems raise when a store does not answer; imported when something was raised, because it takes
    a tenth of a second."""
    from aiohttp import ClientError
    from azure.core.exceptions import AzureError

    from chatdata.hub import TransportError

    return AzureError, ClientError, ConnectionError, TransportError, TimeoutError


def read_ahead(batches: Iterator[T]) -> Iterator[T]:
    """The same batches, the next one being fetched and decoded while one is worked on."""
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def largest_column(metadata: pq.FileMetaData, groups: Collection[int], columns: Collection[str]) -> int:
    """Bytes of the largest of the wanted columns in a row group; no value in it is longer."""
    return max(
        (
            column.total_uncompressed_size
            for group in map(metadata.row_group, groups)
            for column in map(group.column, range(group.num_columns))
            if column.path_in_schema.partition(".")[0] in columns
        ),
        default=0,
    )


def check_expansion(file: SourceFile, metadata: pq.FileMetaData, columns: Collection[str]) -> None:
    """Raise BadFile when a wanted column expands to far more than its size."""
    for group in range(metadata.num_row_groups):
        about = metadata.row_group(group)
        for column in map(about.column, range(about.num_columns)):
            most = max(expanding.FREE_BYTES, expanding.EXPANSION * column.total_compressed_size)
            if column.path_in_schema.partition(".")[0] in columns and column.total_uncompressed_size > most:
                sizes = f"{column.total_compressed_size} bytes expand to {column.total_uncompressed_size}"
                column_chunk = f"row group {group + 1}, {column.path_in_schema}"
                raise BadFile(
                    f"{file.name}: {column_chunk}: its {sizes}, more than {expanding.EXPANSION} times as many."
                )


def no_row(unread: list[Row]) -> str:
    """Why a text file has no row that can be read."""
    if not unread:
        return "the file has no row."
    kind, detail = unread[0].problem or ("", "")
    return f"no row can be read; the first one, at {unread[0].number}, is {kind} ({detail})."


def sample_of(batches: Iterator[pa.RecordBatch]) -> list[dict[str, object]]:
    """The first rows of batches, null for a value that cannot be read."""
    for batch in batches:
        columns = [values_of(column, {}) for column in batch.slice(0, SAMPLE_ROWS).columns]
        return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]
    return []


def show_row(row: dict[str, object]) -> str:
    """A row as JSON text, cut where it is long; half characters, which no file can hold, as question marks."""
    text = json.dumps(row, ensure_ascii=False, default=str).encode(errors="replace").decode()
    return text if len(text) <= EXAMPLE_CHARACTERS else f"{text[:EXAMPLE_CHARACTERS]} ..."


def from_arrow(file: str, number: int, columns: pa.RecordBatch, form: Format) -> Batch:
    """A batch of rows of columns."""
    broken: Broken = {}
    wanted = columns.select([name for name in columns.schema.names if name in form.columns.values()])
    conversations = from_columns(wanted, form, broken)
    return Batch(file, range(number, number + len(conversations)), conversations, broken)


def from_text(file: str, rows: list[Row], form: Format) -> Batch:
    """A batch of rows of a text file."""
    broken: Broken = {}
    conversations = []
    for position, row in enumerate(rows):
        read = [row.columns[column] for column in form.columns.values() if column in row.columns]
        if problem := row.problem or unfit_text(read):
            broken[position] = problem
        conversation = NO_CONVERSATION if problem else form.conversation(row.columns)
        if conversation.messages is None and not problem:
            broken[position] = (checks.NO_MESSAGES, f"its keys: {', '.join(row.columns) or 'none'}"[:120])
        conversations.append(conversation)
    return Batch(file, [row.number for row in rows], conversations, broken)

"""Rows of chat files, a batch at a time, each with the place where it stands.

Parquet is read by row groups, the columns `messages` and `tools` only, and no row group beyond the wanted rows; a file
that is not here is read by ranges. Text is read line by line; a text file that is not here is fetched whole first.
Memory holds a few batches, whatever the size of the files.
"""

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TypeVar

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from chatdata import checks
from chatdata.sources import SourceFile, unreachable
from chatdata.turns import Conversations, columns_of, elements
from retune.errors import RetuneError
from retune.texts import SHOWN_CHARACTERS

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")
BATCH_ROWS = 1000
COLUMNS = ("messages", "tools")
# Row groups are fetched together, because a request costs as much time as a few megabytes; the first ones of a file
# up to the first size, so that work begins soon, then twice as much each time, up to the second.
FIRST_FETCH_BYTES, FETCH_BYTES = 2 << 20, 8 << 20
# For the same reason what lies between two wanted columns is fetched with them up to this size.
GAP_BYTES = 1 << 19
# Of a column that an early parquet-cpp wrote, so many bytes more are read than it says it has.
PADDING_BYTES = 100
FOOTERS_AT_ONCE = 8
# A row of chat has kilobytes, and text is compressed by a factor of ten: beyond these a file is meant to fill memory.
ROW_BYTES, LEVELS = 64 << 20, 64
EXPANSION, FREE_BYTES, PART_BYTES = 100, 64 << 20, 1 << 20
TOO_DEEP = f"nested deeper than {LEVELS} levels"
BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
# A row as it was read, or kind and detail of why it could not be.
Row = tuple[int, object, object, tuple[str, str] | None]


class Batch(NamedTuple):
    """Rows that follow each other in one file."""

    file: str
    # Row numbers in parquet, line numbers in text, from 1.
    numbers: Sequence[int]
    messages: Sequence[object]
    # None where the file has no such column.
    tools: list[object] | None
    # Kind and detail of what could not be read, by position in the batch.
    broken: dict[int, tuple[str, str]]

    def first(self, rows: int) -> "Batch":
        """The leading rows."""
        if rows >= len(self.messages):
            return self
        broken = {place: problem for place, problem in self.broken.items() if place < rows}
        tools = None if self.tools is None else self.tools[:rows]
        return Batch(self.file, self.numbers[:rows], self.messages[:rows], tools, broken)


class BadFile(Exception):
    """A file that cannot be read; the text says which and why."""


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
        return sum(len(batch.messages) for batch in self.batches(file, None))

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
            raise BadFile(f"{file.name}: no column 'messages'; its columns: {named(names)}.")
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
            rows = csv_rows(file, stream) if file.kind == "csv" else json_rows(stream)
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


def named(columns: list[str]) -> str:
    """Columns for a message; a file without a header has its first row in their place, which may be long."""
    text = ", ".join(columns) or "none"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


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


def from_arrow(file: str, number: int, batch: pa.RecordBatch) -> Batch:
    """A batch of parquet rows."""
    broken: dict[int, tuple[str, str]] = {}
    column = batch.column("messages")
    if is_plain(column):
        messages = Conversations(column)
    else:
        messages = [tidy(parse_text(value)) for value in values_of(column, broken)]
    tools = None
    if "tools" in batch.schema.names:
        tools = [parse_text(value) for value in values_of(batch.column("tools"), broken)]
    return Batch(file, range(number, number + len(messages)), messages, tools, broken)


def is_plain(column: pa.Array) -> bool:
    """Whether a column has the usual rows only: lists of role and content without a null, in UTF-8."""
    if not pa.types.is_list(column.type) or not pa.types.is_struct(column.type.value_type) or column.null_count:
        return False
    messages = elements(column)
    texts = columns_of(messages)
    if sorted(texts) != ["content", "role"] or messages.null_count:
        return False
    if any(text.null_count or not pa.types.is_string(text.type) for text in texts.values()):
        return False
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def values_of(column: pa.Array, broken: dict[int, tuple[str, str]]) -> list[object]:
    """A column's values; those that are not UTF-8 are noted as broken."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        values = []
        for place, value in enumerate(column):
            try:
                values.append(value.as_py())
            except UnicodeDecodeError as error:
                values.append(None)
                broken[place] = (checks.NOT_UTF8, f"byte {error.start}")
        return values


def from_text(file: str, rows: list[Row]) -> Batch:
    """A batch of rows of a text file."""
    numbers, messages, tools, problems = zip(*rows, strict=True)
    broken = {place: problem for place, problem in enumerate(problems) if problem}
    return Batch(file, numbers, [tidy(value) for value in messages], list(tools) if any(tools) else None, broken)


def json_rows(stream: IO[bytes]) -> Iterator[Row]:
    """Rows of JSON lines, or of one JSON array."""
    start = stream.tell()
    beginning = stream.read(64).lstrip()[:1]
    stream.seek(start)
    if beginning == b"[":
        text = stream.read()
        values = orjson.loads(text)
        if may_repeat_keys(text, values) and (twice := key_that_stands_twice(text)):
            raise ValueError(f"the key '{twice}' stands twice in an object")
        for number, value in enumerate(values, start=1):
            yield (number, None, None, (checks.NOT_JSON, TOO_DEEP)) if is_deep(value) else from_object(number, value)
        return
    for number, line in enumerate(stream, start=1):
        if line.isspace():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield number, None, None, unreadable(line, error)
            continue
        if problem := ambiguous(line, value):
            yield number, None, None, (checks.NOT_JSON, problem)
            continue
        yield from_object(number, value)


def ambiguous(line: bytes, value: object) -> str | None:
    """Why a line is ambiguous: a key that stands twice, of which the parser kept the last, or its depth.

    Only a line that has more of the usual keys, or more brackets, than its messages is looked at closely.
    """
    if may_repeat_keys(line, [value]) and (twice := key_that_stands_twice(line)):
        return f"the key '{twice}' stands twice"
    return TOO_DEEP if line.count(b"[") + line.count(b"{") > LEVELS and is_deep(value) else None


def may_repeat_keys(text: bytes, rows: list[object]) -> bool:
    """Whether a text has the keys of chats more often than its rows and their messages have them."""
    chats = [row.get("messages") for row in rows if isinstance(row, dict)]
    messages = sum(len(chat) for chat in chats if isinstance(chat, list))
    return text.count(b'"messages"') > len(chats) or max(text.count(b'"role"'), text.count(b'"content"')) > messages


def key_that_stands_twice(text: bytes) -> str | None:
    """The first such key of a JSON text; None in one that is too deep to be looked at."""
    twice: list[str] = []

    def look(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) < len(pairs):
            names = [name for name, _ in pairs]
            twice.extend(name for name in members if names.count(name) > 1)
        return members

    with suppress(RecursionError):
        json.loads(text, object_pairs_hook=look)
    return twice[0] if twice else None


def is_deep(value: object) -> bool:
    """Whether lists and objects are nested in more than `LEVELS` levels."""
    level = [value]
    for _ in range(LEVELS):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, dict | list) for item in level)


def unreadable(line: bytes, error: orjson.JSONDecodeError) -> tuple[str, str]:
    """Why a line is no JSON."""
    try:
        line.decode()
    except UnicodeDecodeError as undecodable:
        return checks.NOT_UTF8, f"byte {undecodable.start}"
    if "surrogate" in str(error) or "hex escape" in str(error):
        return checks.LONE_SURROGATES, "an escape such as \\ud800"
    return checks.NOT_JSON, str(error)[:120]


def from_object(number: int, value: object) -> Row:
    if not isinstance(value, dict):
        return number, None, None, (checks.NOT_OBJECT, f"it is {checks.kind_of(value)}")
    return number, parse_text(value.get("messages")), value.get("tools"), None


def csv_rows(file: SourceFile, stream: IO[bytes]) -> Iterator[Row]:
    """Rows of comma or tab separated values, whose cells `messages` and `tools` hold JSON."""
    csv.field_size_limit(ROW_BYTES)
    # Bytes that are not UTF-8 become lone surrogates, which are found row by row.
    with io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="") as text:
        lines = csv.reader(text, delimiter="\t" if ".tsv" in file.name else ",", strict=True)
        header = next(lines, [])
        if "messages" not in header:
            raise BadFile(f"{file.name}: no column 'messages'; its columns: {named(header)}.")
        places = [header.index(name) if name in header else None for name in COLUMNS]
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                yield lines.line_num, None, None, (checks.OTHER_COLUMNS, f"{len(cells)}, the header has {len(header)}")
                continue
            messages, tools = (None if place is None else cells[place] for place in places)
            try:
                messages.encode()
            except UnicodeEncodeError as error:
                yield lines.line_num, None, None, (checks.NOT_UTF8, f"character {error.start} of the cell")
                continue
            yield lines.line_num, parse_text(messages), parse_text(tools) if tools else None, None


def parse_text(value: object) -> object:
    """A list or object that was written as JSON text; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def tidy(messages: object) -> object:
    """Messages with role and content first and without null fields, so that a row is the same in any format."""
    if not isinstance(messages, list):
        return messages
    return [tidy_message(message) if isinstance(message, dict) else message for message in messages]


def tidy_message(message: dict[str, object]) -> dict[str, object]:
    known = {name: message[name] for name in ("role", "content") if name in message}
    if len(known) == len(message):
        return known
    return known | {name: value for name, value in message.items() if name not in known and value is not None}

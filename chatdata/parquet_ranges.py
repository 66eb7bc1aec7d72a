"""Which bytes of a parquet file hold the wanted columns of its leading rows."""

import itertools
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

MESSAGES = ("messages", "tools")
# Row groups are fetched together, because a request costs as much time as a few megabytes; the first ones of a file
# up to the first size, so that work begins soon, then twice as much each time, up to the second.
FIRST_FETCH_BYTES, FETCH_BYTES = 2 << 20, 8 << 20
# For the same reason what lies between two wanted columns is fetched with them up to this size.
GAP_BYTES = 1 << 19
# Of a column that an early parquet-cpp wrote, so many bytes more are read than it says it has.
PADDING_BYTES = 100


def groups_to_fetch(
    metadata: pq.FileMetaData, rows: int | None, columns: Collection[str] = MESSAGES
) -> Iterator[list[int]]:
    """Numbers of the row groups that hold the leading rows, as many together as should be fetched at once."""
    together, size, left = [], 0, metadata.num_rows if rows is None else rows
    most = FIRST_FETCH_BYTES
    for number in range(metadata.num_row_groups):
        if left <= 0:
            break
        bytes_ = sum(end - start for start, end in column_ranges(metadata, number, columns))
        if together and size + bytes_ > most:
            yield together
            together, size, most = [], 0, min(2 * most, FETCH_BYTES)
        together, size, left = [*together, number], size + bytes_, left - metadata.row_group(number).num_rows
    if together:
        yield together


def ranges_to_fetch(
    metadata: pq.FileMetaData, groups: list[int], columns: Collection[str] = MESSAGES
) -> list[tuple[int, int]]:
    """First byte and end of what holds the wanted columns of row groups, in as few ranges as is worth it."""
    ranges: list[tuple[int, int]] = []
    wanted = (column_ranges(metadata, number, columns) for number in groups)
    for start, end in sorted(itertools.chain.from_iterable(wanted)):
        if ranges and start - ranges[-1][1] <= GAP_BYTES:
            start, before = ranges.pop()
            end = max(before, end)
        ranges.append((start, end))
    return ranges


def column_ranges(metadata: pq.FileMetaData, group: int, columns: Collection[str]) -> Iterator[tuple[int, int]]:
    """First byte and end of each wanted column of a row group."""
    about = metadata.row_group(group)
    for number in range(about.num_columns):
        column = about.column(number)
        if column.path_in_schema.partition(".")[0] in columns:
            start = column.data_page_offset
            # A dictionary comes before the pages that refer to it.
            if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
                start = column.dictionary_page_offset
            yield start, start + column.total_compressed_size + PADDING_BYTES


def has_messages(schema: pa.Schema) -> bool:
    """Whether the columns alone say that rows are OpenAI chats."""
    if "messages" not in schema.names:
        return False
    kind = schema.field("messages").type
    if not pa.types.is_list(kind) and not pa.types.is_large_list(kind):
        return False
    return pa.types.is_struct(kind.value_type) and {"role", "content"} <= {field.name for field in kind.value_type}

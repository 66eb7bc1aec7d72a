"""Batches of the rows of Arrow and Parquet files, of a size that fits into memory.

Both formats may store a value that many rows repeat once, so a file does not tell by its size how large its rows are.
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from chatdata import expanding
from chatdata.text_files import BadFile

BATCH_ROWS = 1000
# So many rows are decoded at once, fewer if so many bytes may come of them; a batch of large rows is a small one.
DECODED_ROWS, DECODED_BYTES, BATCH_BYTES = 32, 1 << 30, 64 << 20


def rows_at_once(largest: int) -> int:
    """How many rows are decoded at once where a value may have so many bytes."""
    return max(1, min(DECODED_ROWS, DECODED_BYTES // max(largest, 1)))


def joined(file: str, parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows of parts of a few rows each in batches of about `BATCH_ROWS` rows, or `BATCH_BYTES` bytes.

    Raises:
        BadFile: a row is larger than a row may be.
    """
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for part in (spelled_out(file, part) for part in parts):
        if part.nbytes > expanding.ROW_BYTES * max(len(part), 1):
            raise BadFile(f"{file}: a row is larger than {expanding.ROW_BYTES} bytes.")
        waiting.append(part)
        rows, size = rows + len(part), size + part.nbytes
        if rows >= BATCH_ROWS or size >= BATCH_BYTES:
            yield from together(waiting)
            waiting, rows, size = [], 0, 0
    yield from together(waiting)


def together(parts: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """One batch of the rows of several."""
    return pa.Table.from_batches(parts).combine_chunks().to_batches() if len(parts) > 1 else parts


def spelled_out(file: str, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with each value in its own row, where the file keeps the values of a column apart."""
    wanted = pa.schema([field.with_type(spelled_type(field.type)) for field in batch.schema])
    if wanted.equals(batch.schema):
        return batch
    if any(longest_value(column) > expanding.ROW_BYTES for column in batch.columns):
        raise BadFile(f"{file}: a row is larger than {expanding.ROW_BYTES} bytes.")
    return batch.cast(wanted)


def longest_value(column: pa.Array) -> int:
    """Bytes of the longest text among the values that a file keeps apart."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        is_text = pa.types.is_large_string(kind.value_type) or pa.types.is_string(kind.value_type)
        if not is_text:
            return 0
        lengths = pc.call_function("binary_length", [column.dictionary])
        return pc.call_function("min_max", [lengths])["max"].as_py() or 0
    if pa.types.is_struct(kind):
        return max(map(longest_value, column.flatten()), default=0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return longest_value(column.values)
    return 0


def spelled_type(kind: pa.DataType) -> pa.DataType:
    """A type with the type of a dictionary's values in the place of the dictionary."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(spelled_type(field.type)) for field in kind.fields])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(spelled_type(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(spelled_type(kind.value_type)))
    return kind

"""Files that may be compressed, read only as far as their size allows."""

import io
from pathlib import Path
from typing import IO, cast

import fsspec
import pyarrow as pa
import xxhash

from chatdata.sniffing import MAGIC_BYTES, compression_of
from chatdata.source_files import COMPRESSED

# A row of chat has kilobytes, and text is compressed by a factor of ten: beyond these a file is meant to fill memory.
ROW_BYTES = 64 << 20
EXPANSION, FREE_BYTES, PART_BYTES = 100, 64 << 20, 1 << 20


def as_bytes(stream: object) -> IO[bytes]:
    """The same, which a library calls something wider."""
    return cast("IO[bytes]", stream)


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

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._read = self._stream.seek(offset, whence)
        return self._read

    def tell(self) -> int:
        return self._stream.tell()


def open_text(path: Path, scratch: Path) -> IO[bytes]:
    """A text file as it reads when it is not compressed; what only its name says is compressed is read as it is."""
    with path.open("rb") as file:
        compression = compression_of(file.read(MAGIC_BYTES)) if path.suffix.lower() in COMPRESSED else None
    if compression != "zstd":
        opened = fsspec.open(str(path), "rb", compression=compression)
        return cast("fsspec.core.OpenFile", opened).open()
    # Arrow reads it, but does not seek in it.
    plain = scratch / f"{xxhash.xxh3_64_hexdigest(str(path).encode())}.plain"
    if not plain.exists():
        with pa.CompressedInputStream(str(path), "zstd") as stream, plain.open("wb") as target:
            expanding = Expanding(stream, path.stat().st_size)
            target.writelines(iter(lambda: expanding.read(PART_BYTES), b""))
    return plain.open("rb")

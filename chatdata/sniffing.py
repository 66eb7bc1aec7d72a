"""What a file really is, from its first bytes, where it is not what its name says; and what to do about it."""

from chatdata.source_files import Kind
from chatdata.text_files import BadFile

# So many first bytes say what a file is.
MAGIC_BYTES = 64
LFS = b"version https://git-lfs.github.com/spec/"
MAGIC = {
    b"\x1f\x8b": ("gzip", "Rename it to end in .gz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "Rename it to end in .zst"),
    b"BZh": ("bzip2", "Rename it to end in .bz2"),
    b"\xfd7zXZ\x00": ("xz", "Rename it to end in .xz"),
    b"PK\x03\x04": ("a zip archive, or a spreadsheet", "Unpack it, or export the sheet as CSV, and name the new file"),
    b"PAR1": ("parquet", "Rename it to end in .parquet"),
    b"ARROW1": ("Arrow", "Rename it to end in .arrow"),
    b"%PDF": ("a PDF document", "Name a file of chats"),
    b"SQLite format 3": ("an SQLite database", "Export its rows as JSON lines, and name the new file"),
}
OWN_MAGIC: dict[Kind, bytes] = {"parquet": b"PAR1", "arrow": b"ARROW1"}
UTF16, UTF32 = (b"\xff\xfe", b"\xfe\xff"), (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")


def check_beginning(name: str, start: bytes, kind: Kind) -> None:
    """Refuse a file that is something else than its name says.

    Raises:
        BadFile: what it is, and what to do.
    """
    if not start:
        raise BadFile(f"{name}: the file is empty.")
    if start.startswith(LFS):
        raise BadFile(
            f"{name}: the file is a Git LFS pointer, not the data itself. Fetch the data with `git lfs pull` in its "
            "repository."
        )
    for magic, (content, advice) in MAGIC.items():
        if start.startswith(magic) and magic != OWN_MAGIC.get(kind):
            raise BadFile(f"{name}: the file is {content}, in spite of its name. {advice}.")
    if kind not in ("json", "csv"):
        return
    if encoding := encoding_of(start):
        command = f"`iconv -f {encoding} -t UTF-8 {name} > utf8-{name.rpartition('/')[2]}`"
        raise BadFile(f"{name}: the file is {encoding}. Convert it to UTF-8, e.g. {command}, and name the new file.")
    if start.lstrip()[:9].lower() in (b"<!doctype", b"<html>") or start.lstrip()[:5].lower() == b"<html":
        raise BadFile(f"{name}: the file is a web page. Download the data itself, not the page that shows it.")
    if kind == "json" and b"\r" in start and b"\n" not in start and start.lstrip()[:1] == b"{":
        command = f"`tr '\\r' '\\n' < {name} > lines-{name.rpartition('/')[2]}`"
        raise BadFile(
            f"{name}: its lines end in a carriage return alone, so it is one line. Convert it, e.g. {command}, and "
            "name the new file."
        )


def compression_of(start: bytes) -> str | None:
    """How a file that begins so is compressed, by the name that fsspec has for it."""
    names = {"gzip": "gzip", "zstd": "zstd", "bzip2": "bz2", "xz": "xz"}
    return next(
        (names[content] for magic, (content, _) in MAGIC.items() if start.startswith(magic) and content in names), None
    )


def encoding_of(start: bytes) -> str | None:
    """The encoding of a text whose characters have two or four bytes; None for any other."""
    if start.startswith(UTF32):
        return "UTF-32"
    if start.startswith(UTF16):
        return "UTF-16"
    beginning = start[:64]
    if len(beginning) >= 8 and beginning.count(0) >= len(beginning) * 3 // 8:
        return "UTF-16LE" if beginning[1::2].count(0) > beginning[::2].count(0) else "UTF-16BE"
    return None

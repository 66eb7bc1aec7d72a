"""The data step: the prepared data of a request, found from an earlier run and verified, or made now.

The key of what is prepared is its content: the commit or digest of the source, the digest of the tokenizer, the
settings, and the source of this package. What is found under a key is believed only after its files' digests were
checked.
"""

import gc
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatdata import cache
from chatdata.source_files import PinnedData
from chatdata.sources import pin
from retune.report import PreparedData
from retune.request import Request


def prepare(request: Request) -> PreparedData:
    """The three files that the job takes, and what is known about them.

    Raises:
        BadRequest: the source, a split or rows are unusable; every kind of bad row is named with examples.
        CloudError: `DataUnreachable`, the hub or the store did not answer.
        WaitExpired: another process has been preparing the same data for hours.
    """
    pinned = pin(request.data, request.workspace)
    limit = max_seq_length(request)

    def make(folder: Path) -> PreparedData:
        with gc_disabled():
            # Only here: what reads and checks rows takes a second to import.
            from chatdata.prepare import prepare
            from chatdata.progress import shown

            with shown() as progress:
                return prepare(pinned, folder, max_seq_length=limit, progress=progress)

    return cache.find_or_make(content_key(pinned, limit), make)


@contextmanager
def gc_disabled() -> Iterator[None]:
    """No reference cycles are made here, and looking for them among millions of turns takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def content_key(pinned: PinnedData, limit: int | None) -> str:
    """Digest of everything that decides the prepared files and what is said about them."""
    settings = pinned.model_dump_json(exclude={"place": True, "tokenizer_file": True, "data": {"revision"}})
    return hashlib.sha256(f"{settings}\n{limit}\n{code_digest()}".encode()).hexdigest()[:24]


def code_digest() -> str:
    """Digest of the source code that prepares."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\n".join(path.read_bytes() for path in files)).hexdigest()


def max_seq_length(request: Request) -> int | None:
    """The length in tokens at which the component cuts a row, where the request gives one."""
    value = request.training.get("max_seq_length")
    return int(value) if isinstance(value, int | float) and value > 0 else None

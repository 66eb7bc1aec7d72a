"""The hub's file system, which counts what it fetches.

huggingface_hub repeats a request that was refused for its rate or cut off; nothing here does so again.
"""

import threading

from huggingface_hub import HfFileSystem
from huggingface_hub.hf_file_system import HfFileSystemFile


class CountingFile(HfFileSystemFile):
    """A file of the hub that reads exactly the ranges that it is asked for."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        content = super()._fetch_range(start, end)
        self.fs.count(len(content))
        # What a proxy cut short would else pass for a file that is damaged at its origin.
        if len(content) != end - start:
            raise ConnectionError(f"{len(content)} bytes came of the {end - start} that were asked for.")
        return content


class CountingHub(HfFileSystem):
    """The hub, with the number of bytes of content that were fetched from it."""

    # Instances of fsspec's file systems are shared; the count belongs to one preparation.
    cachable = False

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, **settings)
        self.fetched_bytes = 0
        self._lock = threading.Lock()

    def count(self, size: int) -> None:
        with self._lock:
            self.fetched_bytes += size

    def _open(self, path: str, mode: str = "rb", **settings: object) -> CountingFile:
        return CountingFile(self, path, mode=mode, **{"revision": None} | settings)


def hub_system() -> CountingHub:
    """The hub that HF_ENDPOINT names, with the token that its own rules find."""
    return CountingHub()

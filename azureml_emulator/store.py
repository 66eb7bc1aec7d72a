"""JSON documents on disk, one file each, written atomically, kept in memory for reading.

A document survives SIGKILL of the process: it is written to a draft file, synced, then renamed.
"""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from azureml_emulator.json_types import Json
from azureml_emulator.names import path_below

log = logging.getLogger(__name__)

# Longer file names are refused by most file systems (255 bytes with the suffix).
LONGEST_NAME = 200


class Store:
    """Documents by kind and key. Thread-safe; callers get their own copies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._texts: dict[str, dict[str, str]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.glob("*/*.json")):
            try:
                record = json.loads(file.read_text(encoding="utf-8"))
                key, document = str(record["key"]), record["document"]
            except (ValueError, LookupError, TypeError) as error:
                set_aside(file, error)
            else:
                self._texts.setdefault(file.parent.name, {})[key] = json.dumps(document)

    def get(self, kind: str, key: str) -> Json | None:
        with self._lock:
            text = self._texts.get(kind, {}).get(key)
        return None if text is None else json.loads(text)

    def put(self, kind: str, key: str, document: Json) -> None:
        with self._lock:
            write_atomically(self._file(kind, key), json.dumps({"key": key, "document": document}))
            self._texts.setdefault(kind, {})[key] = json.dumps(document)

    def change(self, kind: str, key: str, edit: Callable[[Json], None]) -> Json | None:
        """The document after `edit` changed it in place, with no other writer between; None when it is gone."""
        with self._lock:
            document = self.get(kind, key)
            if document is not None:
                edit(document)
                self.put(kind, key, document)
            return document

    def delete(self, kind: str, key: str) -> bool:
        with self._lock:
            self._file(kind, key).unlink(missing_ok=True)
            return self._texts.get(kind, {}).pop(key, None) is not None

    def list(self, kind: str, prefix: str = "") -> list[tuple[str, Json]]:
        """Every (key, document) of a kind whose key begins with `prefix`, by key."""
        with self._lock:
            chosen = [(key, text) for key, text in self._texts.get(kind, {}).items() if key.startswith(prefix)]
        return [(key, json.loads(text)) for key, text in sorted(chosen)]

    def _file(self, kind: str, key: str) -> Path:
        name = quote(key, safe="")
        if len(name) > LONGEST_NAME:
            name = hashlib.sha256(key.encode()).hexdigest()
        return path_below(self._folder, kind, f"{name}.json")


def set_aside(file: Path, error: Exception) -> None:
    """Rename a file that cannot be read, so that it stays and the rest can start."""
    aside = file.with_name(f"{file.name}.broken")
    file.replace(aside)
    log.error("%s cannot be read (%s); it is set aside as %s", file, error, aside.name)


def write_atomically(file: Path, text: str) -> None:
    """Replaces a file's text so that a reader, or a crash, sees the old text or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with draft.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)

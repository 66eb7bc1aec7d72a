"""The machine's processes, looked at while they come and go.

A process may end between two looks, and one that ended stays listed until its parent asks for it: neither is an error.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil


def command_line(process: psutil.Process) -> str:
    """Its words, joined with spaces; empty when it has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def running(parent: int, words: str) -> list[psutil.Process]:
    """The processes below `parent`, children of children too, whose command line has the words."""
    return [child for child in psutil.Process(parent).children(recursive=True) if words in command_line(child)]


def processes_of(folder: Path) -> list[psutil.Process]:
    """Living processes, this one left out, that were started with a RETUNE_HOME in the folder."""
    return list(_processes_of(folder))


def _processes_of(folder: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            home = process.environ().get("RETUNE_HOME", "")
            if home.startswith(f"{folder}/") and process.pid != os.getpid() and process.status() != "zombie":
                yield process

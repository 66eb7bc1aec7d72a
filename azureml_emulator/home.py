"""The folder of one emulator: who holds it, and which port it had."""

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from azureml_emulator.store import set_aside


class HomeInUse(RuntimeError):
    """Another emulator runs on this home."""


class PortInUse(RuntimeError):
    """Another program listens on the port."""


class NotPrivate(RuntimeError):
    """A home that somebody else may have prepared; the text says what to do."""


def make_private(folder: Path) -> None:
    """Make a folder that only its owner can enter, and keep all files private that this process makes from now on.

    Raises: NotPrivate: it is another user's, or one of its entries is a link, which could lead anywhere.
    """
    os.umask(0o077)
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise NotPrivate(f"The folder '{folder}' belongs to another user (id {owner}). Name one of your own.")
    folder.chmod(0o700)
    for entry in folder.iterdir():
        if entry.is_symlink():
            raise NotPrivate(f"'{entry}' is a link to '{entry.readlink()}'. Remove it, or name another folder.")


def lock_home(home: Path) -> TextIO:
    """The lock of a home, held while the file is open; the system frees it when the process dies.

    Raises: HomeInUse, NotPrivate.
    """
    make_private(home)
    file = (home / "lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read(20).strip()
        file.close()
        text = f"An emulator already runs on '{home}'. Stop it, or choose another --home."
        # The message is copied into a shell, so only a number may appear in it.
        if owner.isascii() and owner.isdigit():
            text = f"An emulator already runs on '{home}' (process {owner}). Stop it with 'kill {owner}', "
            text += "or choose another --home."
        raise HomeInUse(text) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def is_locked(home: Path) -> bool:
    """Whether an emulator runs on a home."""
    if not (home / "lock").exists():
        return False
    with (home / "lock").open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def last_port(memory: Path) -> int:
    """The port in a file; 0 where there is none."""
    try:
        port = int(memory.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return 0
    except ValueError as error:
        set_aside(memory, error)
        return 0
    return port if 0 < port < 1 << 16 else 0


def bind(home: Path, port: int | None) -> socket.socket:
    """A listening socket on 127.0.0.1: the given port, else the one of the last start, else any. Raises: PortInUse."""
    memory = home / "port"
    last = last_port(memory)
    for candidate in [port] if port else [last, 0]:
        # asyncio sets TCP_NODELAY only if the protocol is given; without it each request waits 40 ms.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
        except OSError as error:
            listener.close()
            if port:
                text = (
                    f"Port {port} on 127.0.0.1 cannot be used: {error.strerror}. Choose another --port or leave it out."
                )
                raise PortInUse(text) from error
            continue
        listener.listen(128)
        memory.write_text(str(listener.getsockname()[1]))
        return listener
    raise PortInUse("No port on 127.0.0.1 is free.")

"""A disk of a trial's own that can be filled to its last byte. Only root may make one; without that nothing is done."""

import contextlib
import os
import subprocess
from pathlib import Path

MIB, PAGE = 1 << 20, 1 << 12
SIZE_MIB = 64
FILLING = "filling"


def give_small_disk(folder: Path) -> bool:
    """Whether the folder, which is made, is now a disk of its own, in memory."""
    folder.mkdir(parents=True)
    if os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=700", "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def fill(folder: Path) -> None:
    """Leave no page."""
    with (folder / FILLING).open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for piece in (bytes(MIB), bytes(PAGE)):
            with contextlib.suppress(OSError):
                while file.write(piece):
                    pass


def make_room(folder: Path) -> None:
    """Take away what `fill` has written."""
    (folder / FILLING).unlink(missing_ok=True)


def take_disk_away(trial: Path) -> None:
    """Unmount the disk of a trial's folder, if it has one."""
    folder = trial / "retune"
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)

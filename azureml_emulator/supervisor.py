"""Runs one command and ends it when the process that asked for it has gone: `supervisor.py GRACE_SECONDS COMMAND...`.

Standard input is a pipe that the asking process holds open: its end, for whatever reason, ends the command's
process group (SIGTERM, then SIGKILL after the grace). Standard output gets two lines of JSON: {"pid": N} or
{"error": "..."}, and at the end {"status": N} as `subprocess` counts it (negative: the signal). The command's own
output is this process's stderr. While the command or a child of it runs, the log file is locked (shared). The group
does not outlive this process, even one that is killed together with its own parent: a shell outside the group waits
for the end of a pipe that this process holds, and ends the group then. Standard library only, so that it starts fast.
See processes.py, which starts it.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

# Reads the number of a process group, waits for the end of its input, and kills the group.
WATCHDOG = 'read -r group && { read -r end; kill -s KILL -- "-$group"; }'


def main(grace_seconds: float, command: list[str]) -> int:
    """The exit status of the supervisor; the command's status goes to standard output."""
    # The lock belongs to the open file, which the command inherits: it ends with the last process that has it.
    fcntl.flock(2, fcntl.LOCK_SH)
    watchdog = start_watchdog()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True)
    except OSError as error:
        watchdog.kill()
        report(error=f"'{command[0]}' did not start: {error}")
        return 127
    watch(watchdog, child.pid)
    report(pid=child.pid)
    threading.Thread(target=end_with_input, args=(child, grace_seconds), daemon=True).start()
    status = child.wait()
    signal_group(child.pid, signal.SIGKILL)  # what the command left running in its group
    watchdog.kill()  # the number may soon be another group's
    report(status=status)
    return 0


def start_watchdog() -> subprocess.Popen[bytes]:
    """The shell that outlives this process by a moment. It does not hold the log file, whose lock is the command's."""
    return subprocess.Popen(
        ["/bin/sh", "-c", WATCHDOG],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def watch(watchdog: subprocess.Popen[bytes], group: int) -> None:
    """Tells the shell which group to end. Its input stays open for as long as this process lives."""
    assert watchdog.stdin
    with suppress(BrokenPipeError):
        os.write(watchdog.stdin.fileno(), f"{group}\n".encode())


def end_with_input(child: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """Waits for the end of standard input, then ends the group."""
    while os.read(0, 64):
        pass
    signal_group(child.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(grace_seconds)
    signal_group(child.pid, signal.SIGKILL)


def signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def report(**fields: object) -> None:
    # The asking process may be gone.
    with suppress(BrokenPipeError):
        os.write(1, json.dumps(fields).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))

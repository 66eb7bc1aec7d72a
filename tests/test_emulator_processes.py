"""Child processes end when they should, and never outlive what started them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from azureml_emulator.processes import Child, start_child, wait_for_end

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)


def start(folder: Path, program: str, *, grace_seconds: float = 3.0) -> Child:
    command = [sys.executable, "-c", program]
    return start_child(
        command, folder=folder, env=dict(os.environ), log_file=folder / "log.txt", grace_seconds=grace_seconds
    )


def wait_until(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie waits for a parent that may not collect it: it runs no more.
    return "Z" not in subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout


@pytest.mark.parametrize("status", [0, 3])
def test_status_is_the_command_s_own(tmp_path: Path, status: int) -> None:
    """The exit status of the command is what `wait` returns."""
    child = start(tmp_path, f"raise SystemExit({status})")

    assert child.wait(10) == status


def test_signal_is_a_negative_status(tmp_path: Path) -> None:
    """A command that is killed by a signal has the negative signal number as its status."""
    child = start(tmp_path, "import time; time.sleep(60)")
    os.kill(child.pid, signal.SIGKILL)

    assert child.wait(10) == -signal.SIGKILL


def test_output_is_appended_to_the_log(tmp_path: Path) -> None:
    """Standard output and standard error of two runs follow each other in the log file."""
    for word in ["one", "two"]:
        start(tmp_path, f"import sys; print('{word}', flush=True); print('error {word}', file=sys.stderr)").wait(10)

    assert (tmp_path / "log.txt").read_text() == "one\nerror one\ntwo\nerror two\n"


def test_environment_is_exactly_the_given_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the emulator do not leak into a command."""
    monkeypatch.setenv("EMULATOR_SECRET", "x")
    program = "import os; raise SystemExit('EMULATOR_SECRET' in os.environ)"
    child = start_child([sys.executable, "-c", program], folder=tmp_path, env={"A": "1"}, log_file=tmp_path / "log.txt")

    assert child.wait(10) == 0


def test_missing_program_is_an_error(tmp_path: Path) -> None:
    """A program that does not exist is reported with its name at the start, not as an exit status."""
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        start_child(["no-such-program"], folder=tmp_path, env={}, log_file=tmp_path / "log.txt")


def test_running_command_has_no_status(tmp_path: Path) -> None:
    """`poll` and a `wait` that runs out return None while the command runs; `stop` then ends it with SIGTERM."""
    child = start(tmp_path, "import time; time.sleep(60)")
    observed = [child.poll(), child.wait(0.05), child.stop()]

    assert observed == [None, None, -signal.SIGTERM]


def test_deaf_command_is_killed_after_the_grace(tmp_path: Path) -> None:
    """A command that ignores SIGTERM is ended by SIGKILL when the grace is over."""
    child = start(tmp_path, STUBBORN, grace_seconds=0.3)
    wait_until(lambda: "deaf" in (tmp_path / "log.txt").read_text())

    assert child.stop() == -signal.SIGKILL


def test_grandchildren_end_with_the_command(tmp_path: Path) -> None:
    """What a command started and left behind is ended when the command ends."""
    program = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    )
    assert start(tmp_path, program).wait(10) == 0
    grandchild = int((tmp_path / "log.txt").read_text())

    wait_until(lambda: not is_alive(grandchild))


@pytest.mark.parametrize("supervisor_too", [False, True], ids=["parent", "parent and supervisor"])
def test_command_ends_when_its_parent_is_killed(tmp_path: Path, supervisor_too: bool) -> None:
    """SIGKILL of the process that started a command ends it and its children, even those that ignore SIGTERM."""
    parent_of_deaf = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUBBORN!r}])"
    program = (
        "import os, sys, time\nfrom pathlib import Path\nfrom azureml_emulator.processes import start_child\n"
        f"child = start_child([sys.executable, '-c', {parent_of_deaf!r}], folder=Path('.'), env=dict(os.environ),"
        " log_file=Path('inner.txt'), grace_seconds=0.3)\nprint(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    root = Path(__file__).parents[1]
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
    )
    assert parent.stdout
    pid = int(parent.stdout.readline())
    wait_until(lambda: "deaf" in (tmp_path / "inner.txt").read_text())
    (deaf,) = psutil.Process(pid).children()
    killed = [psutil.Process(parent.pid), *([psutil.Process(pid).parent()] if supervisor_too else [])]
    # At once: neither sees the other die.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in killed:
            process.send_signal(number)
    parent.wait()
    parent.stdout.close()

    wait_until(lambda: not is_alive(pid) and not is_alive(deaf.pid))


def test_command_ends_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    """SIGKILL of the supervisor is seen by the emulator, which ends the command itself."""
    child = start(tmp_path, "import os; print(os.getppid(), flush=True); import time; time.sleep(60)")
    wait_until(lambda: (tmp_path / "log.txt").read_text().endswith("\n"))
    os.kill(int((tmp_path / "log.txt").read_text()), signal.SIGKILL)

    assert child.wait(10) == -signal.SIGKILL
    wait_until(lambda: not is_alive(child.pid))


def test_end_of_a_command_and_its_children_is_seen_in_the_log_file(tmp_path: Path) -> None:
    """The log file tells whether a command still runs, also to a process that did not start it."""
    child = start(tmp_path, "import time; time.sleep(60)")
    ended = wait_for_end(tmp_path / "log.txt", 0.2)
    child.stop()

    assert not ended
    assert wait_for_end(tmp_path / "log.txt", 5)

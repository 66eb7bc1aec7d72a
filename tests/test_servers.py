"""The servers that the command line starts end with it, however it ends."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from commands import ROOT


@pytest.mark.parametrize("reads_stdin", [True, False])
def test_a_server_ends_when_its_parent_is_killed(tmp_path: Path, reads_stdin: bool) -> None:
    """One that reads its standard input sees it close; another one is sent a signal."""
    inner = "import sys; sys.stdin.read()" if reads_stdin else "import time; time.sleep(600)"
    program = (
        "import os, subprocess, time\nfrom retune_cli.servers import server\n"
        f"with server('inner', ['-c', {inner!r}], dict(os.environ), subprocess.DEVNULL, reads_stdin={reads_stdin})"
        " as process:\n    print(process.pid, flush=True)\n    time.sleep(600)\n"
    )
    environment = {**os.environ, "RETUNE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        inner_process = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait(10)
    gone, alive = psutil.wait_procs([inner_process], timeout=20)

    assert (len(gone), alive) == (1, [])

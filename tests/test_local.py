"""`retune local`: the deployments on this machine, with everything that they need, and nothing left when it stops."""

import socket
from pathlib import Path

from local_stack import Local


def test_a_port_that_is_taken_is_named(empty_database: Path, tmp_path: Path) -> None:
    """With what to do about it; nothing is started."""
    local = Local(tmp_path, empty_database)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = local("start", "--port", str(port))

    assert refused.returncode == 2
    assert f"Port {port} is taken." in refused.stderr and "PORT=" in refused.stderr
    assert local.processes() == []

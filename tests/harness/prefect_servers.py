"""A Prefect server of the tests' own."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

IDLE_SERVICES = ("SCHEDULER", "LATE_RUNS", "PAUSE_EXPIRATIONS", "FOREMAN", "REPOSSESSOR", "DB_VACUUM")


class PrefectServer(NamedTuple):
    """The file that opens a Prefect server, and a copy of its database before the first run."""

    profile: Path
    empty_database: Path


@contextlib.contextmanager
def prefect_server() -> Iterator[PrefectServer]:
    """A Prefect server, and its database before the first run."""
    from retune import sign_in
    from retune.environment import changed_environment
    from retune_cli import servers

    port, home = servers.free_port(), Path(os.environ["PREFECT_HOME"])
    # No test has schedules or late runs on this server, and looking for them takes half of what it takes when idle.
    idle = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in IDLE_SERVICES}
    with changed_environment(idle), servers.prefect_server(port):
        empty = home / "empty.db"
        with (
            contextlib.closing(sqlite3.connect(home / "prefect.db")) as made,
            contextlib.closing(sqlite3.connect(empty)) as copy,
        ):
            made.backup(copy)
        yield PrefectServer(sign_in.profile_file(port), empty)

"""A run with Prefect's server on PostgreSQL, as docs/operate.md says for several workers or a long history."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import REHEARSAL, finetune, wait_for, without_prefect
from conftest import Emulator

from retune_cli.servers import free_port

PROGRAMS = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
START_SECONDS, STOP_SECONDS = 60, 30


class Database:
    """A PostgreSQL server on loopback with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        # It refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        shutil.chown(folder, self._user)
        files = str(folder / "files")
        self._run("initdb", "--pgdata", files, "--username", "retune", "--auth", "trust")
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": str(self.port)}
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(PROGRAMS / "postgres"), "-D", files, *arguments]
        self.process = subprocess.Popen(command, user=self._user, cwd="/", stderr=subprocess.DEVNULL)
        wait_for(lambda: self._run("pg_isready", *self._here, check=False) == 0, "PostgreSQL", START_SECONDS)

    @property
    def _here(self) -> list[str]:
        return ["--host", "127.0.0.1", "--port", str(self.port)]

    @property
    def address(self) -> str:
        """As Prefect takes it."""
        return f"postgresql+asyncpg://retune@127.0.0.1:{self.port}/postgres"

    def rows(self, query: str) -> list[str]:
        """The lines that a query gives."""
        command = [str(PROGRAMS / "psql"), *self._here, "--username", "retune", "--tuples-only", "--no-align"]
        done = subprocess.run(
            [*command, "--command", query, "postgres"], capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.splitlines()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(STOP_SECONDS)

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        command = [str(PROGRAMS / program), *arguments]
        done = subprocess.run(
            command, user=self._user, cwd="/", stdout=subprocess.DEVNULL, check=check, timeout=START_SECONDS
        )
        return done.returncode


@pytest.fixture
def database() -> Iterator[Database]:
    """A server for one test."""
    if PROGRAMS is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="retune-postgres-") as folder:
        database = Database(Path(folder))
        yield database
        database.stop()


@pytest.mark.exhaustive
def test_a_run_completes_with_its_history_in_postgresql(database: Database, emulator: Emulator, tmp_path: Path) -> None:
    """Its states, its artifacts and its log are there."""
    environment = (
        without_prefect()
        | emulator.env
        | {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.address,
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "RETUNE_HOME": str(tmp_path / "retune"),
        }
    )
    ended = finetune(environment, *REHEARSAL, fresh=True).end()

    assert (ended.code, ended.report["status"]) == (0, "completed"), ended.errors
    assert database.rows("select state_type from flow_run") == ["COMPLETED"]
    assert {"summary", "loss", "questions"} <= set(database.rows("select distinct key from artifact"))
    assert int(database.rows("select count(*) from log")[0]) > 10
    assert not (tmp_path / "prefect/prefect.db").exists()

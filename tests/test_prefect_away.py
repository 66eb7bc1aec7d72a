"""A run whose own Prefect server dies goes on without it: job, model and endpoint do not need it."""

import time
from pathlib import Path

from commands import REHEARSAL, endpoints_left, finetune, own_homes, wait_for, without_prefect
from conftest import Emulator
from processes import running

REPORT_SECONDS, LIMIT_SECONDS = 300, 60


def test_a_run_outlives_its_prefect_server(emulator: Emulator, empty_database: Path, tmp_path: Path) -> None:
    """It completes, its report is printed and says what the page lacks, and nothing is left up."""
    environment = without_prefect() | emulator.env | own_homes(tmp_path, empty_database)
    run = finetune(environment, *REHEARSAL, "training.training_seconds=8", fresh=True).read_until("job  .*Running")
    servers = [*running(run.process.pid, "prefect server start"), *running(run.process.pid, "retune_cli.servers")]
    assert len(servers) == 2
    for server in servers:
        server.kill()
    wait_for(run.printed_report, "the report", REPORT_SECONDS)
    printed = time.monotonic()
    ended = run.end()
    report = ended.report

    # Prefect's own threads would go on trying for minutes.
    assert time.monotonic() - printed < LIMIT_SECONDS
    assert (ended.code, report["status"]) == (0, "completed")
    assert report["endpoint"]["deleted"] is True and endpoints_left(emulator) == []
    assert any("Prefect's server" in warning for warning in report["warnings"])

"""The logs of the job's steps in the run's own log: every line, once, also when the run is started again."""

import logging
from collections.abc import Callable
from datetime import datetime
from logging.handlers import MemoryHandler

from commands import REHEARSAL
from conftest import Emulator, Run

from tasks.steplogs import StepLogs, StepRun, count_logged

SLOW = (*REHEARSAL, "training.training_seconds=6")


def logged_lines(flow_run_id: str) -> list[str]:
    """The lines of the steps in the flow run's log, in order."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
    found = []
    with get_client(sync_client=True) as client:
        while page := client.read_logs(wanted, limit=200, offset=len(found), sort=LogSort.TIMESTAMP_ASC):
            found += page
    return [line.message for line in found if line.name == "retune.steps" and line.level == 10]


def lines_of(emulator: Emulator, job: str) -> list[str]:
    """What the steps of the job wrote, as the emulator keeps it."""
    client = emulator.client()
    children = list(client.jobs.list(parent_job_name=job))
    steps = [step for child in children for step in client.jobs.list(parent_job_name=child.name)]
    lines = []
    for step in steps:
        (file,) = emulator.home.rglob(f"dcid.{step.name}/user_logs/std_log.txt")
        lines += [f"{step.display_name}: {line}" for line in file.read_text(encoding="utf-8").splitlines()]
    return lines


def test_the_steps_logs_are_in_the_run_s_log(finetune: Callable[..., Run], emulator: Emulator) -> None:
    """Each line once, in the order of its step; not on the screen. Another start goes on where the log ends."""
    run = finetune(*SLOW)

    logged, written = logged_lines(run.report["run"]["flow_run_id"]), lines_of(emulator, run.report["job"]["name"])
    assert len(written) > 10
    assert sorted(logged) == sorted(written)
    for step in {line.partition(": ")[0] for line in written}:
        own = [line for line in written if line.startswith(f"{step}: ")]
        assert [line for line in logged if line.startswith(f"{step}: ")] == own
    assert written[0] not in run.errors

    client, job = emulator.client(), run.report["job"]
    (child,) = client.jobs.list(parent_job_name=job["name"])
    steps = client.jobs.list(parent_job_name=child.name)
    ended = [StepRun(step.name, step.display_name, "Completed") for step in steps]
    known = count_logged(run.report["run"]["flow_run_id"], datetime.fromisoformat(job["created"]))
    assert known.total() == len(written)
    last = ended[-1].display_name
    known[last] -= 2
    kept = MemoryHandler(capacity=1000)
    logging.getLogger("retune.steps").addHandler(kept)
    logs = StepLogs(client, known)
    logs.follow(ended)
    logging.getLogger("retune.steps").removeHandler(kept)
    of_last = [line for line in written if line.startswith(f"{last}: ")]
    assert [record.getMessage() for record in kept.buffer] == of_last[-2:]
    # What an error shows of a step that failed.
    assert [f"{last}: {line}" for line in logs.last_lines(last)] == of_last[-10:]

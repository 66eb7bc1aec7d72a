"""The kill harness itself: it repeats what a seed has drawn, sees what is wrong, and a sample of it passes."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from chaos_counts import count_jobs
from chaos_decoys import decoys
from chaos_trials import VICTIMS, Verdict, draw

from retune import names

ROOT = Path(__file__).resolve().parent.parent
# Laptop asleep through half a rerun, machine lost during a request.
ASLEEP, LOST = "1", "62"


def job(attempt: int, status: str, created: str, ended: str | None) -> dict:
    """A job as the witness tells of it, with times of one afternoon."""
    return {
        "name": f"retune-x-{attempt}",
        "attempt": str(attempt),
        "status": status,
        "active": ended is None,
        "created": f"2026-11-21T{created}+00:00",
        "ended": ended and f"2026-11-21T{ended}+00:00",
    }


CANCELLED, NEXT = job(1, "Canceled", "14:00:00", "14:05:00"), job(2, "Completed", "14:06:00", "14:10:00")


def test_a_seed_and_a_number_decide_the_trial() -> None:
    """The same trial again, another one for another seed."""
    assert draw(7, 17) == draw(7, 17)
    assert draw(7, 17).moment != draw(8, 17).moment


def test_two_hundred_trials_hit_every_victim_with_every_signal() -> None:
    """None is so rare that the default number of trials leaves it out."""
    drawn = {draw(0, number).kind for number in range(200)}

    assert drawn == {f"{victim} {number.name}" for victim, (_, numbers) in VICTIMS.items() for number in numbers}


@pytest.mark.parametrize(
    ("jobs", "count"),
    [
        ([CANCELLED, NEXT], {}),
        ([CANCELLED, CANCELLED, NEXT], {"jobs twice": 2}),
        ([CANCELLED | {"status": "Completed"}, NEXT], {"jobs twice": 1}),
        ([CANCELLED | {"ended": "2026-11-21T14:07:00+00:00"}, NEXT], {"jobs twice": 1}),
        ([job(1, "Running", "14:00:00", None)], {"jobs active": 1}),
    ],
    ids=["one after another", "an attempt twice", "two completed", "beside each other", "still running"],
)
def test_jobs_that_cost_twice_are_counted(jobs: list[dict], count: dict[str, int]) -> None:
    """Each of them is a breach in words too."""
    verdict = Verdict(draw(0, 20))
    count_jobs(verdict, jobs)

    assert {what: number for what, number in verdict.counts.items() if number} == count
    assert len(verdict.breaches) == sum(count.values())


def test_decoys_are_twenty_and_only_two_carry_the_tags_of_a_run() -> None:
    """Those two are not due for long; all names differ."""
    tagged = [names.read_tags(tags) for _, tags in decoys()]

    assert len({name for name, _ in decoys()}) == 20
    assert [run for run in tagged if run] == [("decoy", 1), ("decoy", 1)]


@pytest.mark.parametrize("trial", [pytest.param(ASLEEP, marks=pytest.mark.exhaustive), LOST])
def test_a_trial_leaves_nothing(trial: str, empty_database: Path) -> None:
    """It passes, and the harness leaves no process and no folder."""
    command = [
        sys.executable,
        "tests/harness/chaos.py",
        "--database",
        str(empty_database),
        "--lanes",
        "1",
        "--only",
        trial,
    ]
    played = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=570)
    folder = played.stdout.split(maxsplit=1)[0]
    environments = [process.info["environ"] or {} for process in psutil.process_iter(["environ"])]

    assert played.returncode == 0, played.stdout + played.stderr
    assert sum(line.rstrip().endswith(" ok") for line in played.stdout.splitlines()) == 1
    assert not Path(folder).exists()
    assert not [one for one in environments if one.get("PREFECT_HOME", "").startswith(folder)]

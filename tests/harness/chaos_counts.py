"""What a trial left, counted from the cloud and from the machine; and what must hold when all trials are over."""

import contextlib
import itertools
from collections import Counter
from datetime import datetime

from chaos_runs import EXPIRY_SECONDS, LEASE_SECONDS, acted
from chaos_stage import Cloud, TooSlow, wait_for
from chaos_trials import Verdict
from chaos_victims import Act
from processes import command_line, processes_of

# A guard waits for requests that were on their way, and for the lease of the job.
# A guard looks for half a minute whether anything of the dead run comes to pass late.
GUARD_SECONDS, CANCEL_SECONDS = 90, 15


def count_trial(act: Act) -> None:
    """Sweep where it is due, then put everything that is left or wrong into the verdict."""
    act.trigger.release()
    count_processes(act)
    found = act.cloud.ask("look", act.trial.key)
    if act.trial.follow_up == "sweep" or act.trial.sweep_twice or costs(found):
        found = sweep_until_clean(act)
        if act.trial.sweep_twice:
            again = acted(act.sweep("again"), act.trial.key)
            act.verdict.breaches += [f"a second sweep did something: {one}" for one in again]
    count_jobs(act.verdict, found["jobs"])
    act.verdict.count("endpoints", [f"{one['name']} {one['state']}" for one in found["endpoints"]])
    act.verdict.count("deployments", [name for one in found["endpoints"] for name in one["deployments"]])
    count_files(act, found)


def costs(found: dict) -> bool:
    """Whether something is left that somebody pays for."""
    return bool(found["endpoints"] or any(job["active"] for job in found["jobs"]))


def sweep_until_clean(act: Act) -> dict:
    """What is left after a sweep when the lease has lapsed, and if need be another one after the endpoint's expiry."""
    found: dict = {}
    for name, seconds in (("lapsed", LEASE_SECONDS), ("expired", EXPIRY_SECONDS)):
        act.wait_until(seconds)
        act.verdict.counts["swept"] += len(acted(act.sweep(name), act.trial.key))
        found = settle(act)
        if not costs(found):
            break
    return found


def settle(act: Act) -> dict:
    """What is left once the cancellations that were asked for have come to an end, or have not in time."""
    found: dict = {}

    def quiet() -> bool:
        found.update(act.cloud.ask("look", act.trial.key))
        return not any(job["active"] for job in found["jobs"])

    with contextlib.suppress(TooSlow):
        wait_for(quiet, CANCEL_SECONDS, "the end of cancelled jobs", every=0.5)
    return found


def count_processes(act: Act) -> None:
    folder = act.stage.folder / act.trial.key
    try:
        wait_for(lambda: not processes_of(folder), GUARD_SECONDS, "the end of the run's processes", every=0.3)
    except TooSlow:
        act.verdict.count("processes", [f"{one.pid} {command_line(one)}" for one in processes_of(folder)])


def count_jobs(verdict: Verdict, jobs: list[dict]) -> None:
    """One job an attempt, the next one only when the one before has ended, and at most one that completed."""
    attempts = Counter(job["attempt"] for job in jobs)
    verdict.count("jobs twice", [f"{times} of attempt {attempt}" for attempt, times in attempts.items() if times > 1])
    done = [job["name"] for job in jobs if job["status"] == "Completed"]
    verdict.count("jobs twice", [f"{', '.join(done)} all completed"] if len(done) > 1 else [])
    ordered = sorted(jobs, key=lambda job: int(job["attempt"]))
    beside = [
        f"{later['name']} began at {later['created']}, {earlier['name']} ended at {earlier['ended']}"
        for earlier, later in itertools.pairwise(ordered)
        if not earlier["ended"] or moment(later["created"]) < moment(earlier["ended"])
    ]
    verdict.count("jobs twice", beside)
    verdict.count("jobs active", [f"{job['name']} {job['status']}" for job in jobs if job["active"]])
    if verdict.trial.follow_up == "rerun" and len(done) != 1 and not verdict.breaches:
        verdict.breaches.append(f"{len(done)} completed jobs after a rerun")


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def count_files(act: Act, found: dict) -> None:
    """The registered model's files are those of its job's output, and the job's data are the prepared files."""
    verdict = act.verdict
    models = found["models"]
    verdict.count("files differ", [f"model {one['version']} of {one['job']}" for one in models if not one["same"]])
    completed = [report for report in act.reports if report.get("status") == "completed"]
    verdict.models = len(models)
    if (completed or act.trial.follow_up == "rerun") and len(models) != 1 and not verdict.breaches:
        verdict.breaches.append(f"{len(models)} registered models of a run that completed")
    for report in completed:
        prepared = {role: split["sha256"] for role, split in report["data"]["splits"].items()}
        uploaded = [
            data for job, data in zip(found["jobs"], found["data"], strict=True) if job["name"] == report["job"]["name"]
        ]
        verdict.count("files differ", [f"data {data} of {prepared}" for data in uploaded if data != prepared])


def count_remains(cloud: Cloud, before: dict[str, str]) -> list[str]:
    """What is wrong in a cloud when all trials are over: leftovers, harmed decoys, servers of models."""
    around = cloud.ask("look_around")
    breaches = [f"{what} left in the cloud: {names}" for what, names in around.items() if names]
    after = cloud.ask("read_decoys")
    breaches += [
        f"decoy touched: {name}: {before[name]}, now {now}" for name, now in after.items() if now != before[name]
    ]
    try:
        wait_for(lambda: not cloud.servers(), CANCEL_SECONDS, "the end of model servers", every=0.5)
    except TooSlow:
        breaches.append(f"model servers left: {cloud.servers()}")
    return breaches

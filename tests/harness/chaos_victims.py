"""What is done to each kind of victim, and how the run that was struck comes to its end: one function a victim."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
from chaos_disk import fill, give_small_disk, make_room
from chaos_runs import (
    END_SECONDS,
    LEASE_SECONDS,
    RUN_SECONDS,
    Run,
    Trigger,
    Undisturbed,
    start_flow,
    sweep,
)
from chaos_stage import Cloud, Stage, TooSlow, rest, wait_for
from chaos_trials import LONGEST_PAUSE_SECONDS, TOO_LATE, Trial, Verdict, Victim
from chaos_worker import Deployment, state_of
from processes import command_line, processes_of, running

# A lease is renewed at the latest moment before the blow; the rest is for clocks and a slow machine.
MARGIN_SECONDS = 1.0
FLOW_SECONDS = 60


@dataclass
class Act:
    """One trial under way: where it plays, what it has found, and which of its starts completed."""

    stage: Stage
    cloud: Cloud
    trial: Trial
    undisturbed: Undisturbed
    verdict: Verdict
    trigger: Trigger
    reports: list[dict] = field(default_factory=list)
    deployment: Deployment | None = None
    asleep: Run | None = None
    struck_at: float = 0.0

    def start(self, name: str) -> Run:
        return start_flow(self.stage, self.cloud, self.trial, name)

    def strike(self, over: Callable[[], bool], blow: Callable[[], None]) -> bool:
        """Whether the blow was struck: False when the run was over before its moment."""
        self.stage.live.add(self.trial.key)
        try:
            struck = self.trigger.wait(over)
        finally:
            self.stage.live.discard(self.trial.key)
        if struck:
            blow()
            self.verdict.struck = struck
        self.struck_at = time.monotonic()
        return bool(struck)

    def take(self, run: Run) -> None:
        """Take note of how a start of the command ended that nobody has killed."""
        report = run.document()
        self.reports.append(report)
        # The signal itself ends a process that has not begun its run.
        if not report and run.process.returncode != -signal.SIGTERM:
            self.verdict.count("reports lost", [f"{run.out.stem} ended with {run.process.returncode}"])
        if "unexpected error" in run.text():
            error = report.get("error") or {}
            self.verdict.breaches.append(
                f"{run.out.stem}: unexpected error {error.get('code')}: {error.get('message')}"
            )

    def wait_until(self, seconds: float) -> None:
        """Wait until so long after the blow, and a little longer."""
        rest(self.struck_at + seconds + MARGIN_SECONDS - time.monotonic())

    def sweep(self, name: str) -> dict:
        return sweep(self.stage, self.cloud, f"{self.trial.key}-{name}")


def strike_flow(act: Act) -> None:
    """The command's own process, alone: as out of memory, as a user's kill, as a laptop that sleeps."""
    run = act.start("first")
    struck = act.strike(run.over, lambda: run.process.send_signal(act.trial.signal))
    act.verdict.step = run.step()
    if struck and act.trial.wakes_in_rerun:
        act.asleep = run
        return
    if struck and act.trial.signal == signal.SIGSTOP:
        outlive(act, run.process.pid)
    # What slept before it had made a job goes on to the end of a slow one.
    code = run.wait(RUN_SECONDS if act.trial.signal == signal.SIGSTOP else END_SECONDS)
    if not (struck and act.trial.signal == signal.SIGKILL):
        act.take(run)
    # The signal itself ends a process that has not begun its run.
    if act.trial.signal == signal.SIGTERM and code not in (0, 130, -signal.SIGTERM):
        act.verdict.breaches.append(f"the run that was told to end ended with {code}")


def strike_flow_and_guard(act: Act) -> None:
    """Every process of the run at once: as a machine that is lost."""
    run = act.start("first")
    struck = act.strike(run.over, lambda: kill_all(processes_of(act.stage.folder / act.trial.key)))
    act.verdict.step = run.step()
    run.wait(END_SECONDS)
    if not struck:
        act.take(run)


def strike_flow_on_a_worker(act: Act) -> None:
    """The flow's process under a worker, which sees it end."""
    deployment = act.deployment = Deployment(act.stage, act.cloud, act.trial)
    worker = deployment.start_worker("worker1")
    run = deployment.create_run()
    wait_for(lambda: deployment.flow_process(run), FLOW_SECONDS, "the start of the flow's process", 0.1)
    process = deployment.flow_process(run)
    struck = act.strike(lambda: has_ended(process), lambda: process.send_signal(act.trial.signal))
    act.verdict.step = worker.step()
    if struck and act.trial.signal == signal.SIGSTOP:
        outlive(act, process.pid)
    state = deployment.wait(run)
    if not struck and not state.is_completed():
        act.verdict.breaches.append(f"an undisturbed flow run ended {state.name}: {state.message}")
    deployment.stop_worker(worker)


def strike_worker(act: Act) -> None:
    """The worker's process alone: what it has started must end in order, or go on and complete."""
    deployment = act.deployment = Deployment(act.stage, act.cloud, act.trial)
    worker = deployment.start_worker("worker1")
    run = deployment.create_run()
    struck = act.strike(lambda: state_of(run).is_final(), lambda: worker.process.send_signal(act.trial.signal))
    act.verdict.step = worker.step()
    if struck and act.trial.signal != signal.SIGSTOP:
        worker.wait(END_SECONDS)
    else:
        rest(act.trial.pause_seconds)
        worker.process.send_signal(signal.SIGCONT)
        state = deployment.wait(run)
        if not state.is_completed():
            act.verdict.breaches.append(f"the run of a worker that paused ended {state.name}: {state.message}")
        deployment.stop_worker(worker)
    if act.trial.follow_up == "sweep":
        # A flow whose worker was killed goes on by itself.
        wait_for(lambda: not deployment.flow_process(run), RUN_SECONDS, "the end of the flow's process", 0.3)


def strike_beside(act: Act, find: Callable[[Run], list[psutil.Process]]) -> None:
    """Processes that a run needs and that are not its own, once they are there; it completes, or tells the cause."""
    run = act.start("first")
    victims: list[psutil.Process] = []

    def blow() -> None:
        wait_for(lambda: find(run) or run.over(), RUN_SECONDS, f"a {act.trial.victim}", 0.03)
        victims.extend(find(run))
        if act.trial.signal == signal.SIGKILL:
            kill_all(victims)
        else:
            pause(victims, act.trial.pause_seconds)

    if act.strike(run.over, blow) and not victims:
        act.verdict.struck = TOO_LATE
    act.verdict.step = run.step()
    end_in_order(act, run)


def strike_disk(act: Act) -> None:
    """No room left where Retune keeps its files; then there is room again."""
    home = act.stage.folder / act.trial.key / "retune"
    if not give_small_disk(home):
        return
    run = act.start("first")
    act.strike(run.over, lambda: fill(home))
    act.verdict.step = run.step()
    end_in_order(act, run)
    make_room(home)


def strike_emulator_with_supervisors(act: Act) -> None:
    """As a machine that is lost, except that the commands live on: they must notice by themselves."""
    run = act.start("first")
    family: list[psutil.Process] = []

    def blow() -> None:
        family.extend(psutil.Process(act.cloud.process.pid).children(recursive=True))
        kill_all([psutil.Process(act.cloud.process.pid), *running(act.cloud.process.pid, "supervisor.py")])

    if act.strike(run.over, blow):
        act.verdict.step = run.step()
        act.cloud.wait_for_end()
        with contextlib.suppress(TooSlow):
            wait_for(lambda: all(map(has_ended, family)), END_SECONDS, "the end of the emulator's processes")
        act.verdict.count("processes", [f"{one.pid} {command_line(one)}" for one in family if not has_ended(one)])
        rest(act.trial.pause_seconds)
        act.cloud.start()
    end_in_order(act, run)


def strike_emulator(act: Act) -> None:
    """The service: it goes away or stands still, and comes back on the same home and port."""
    run = act.start("first")
    if act.strike(run.over, lambda: act.cloud.process.send_signal(act.trial.signal)):
        act.verdict.step = run.step()
        if act.trial.signal == signal.SIGSTOP:
            rest(act.trial.pause_seconds * 2)
            act.cloud.process.send_signal(signal.SIGCONT)
        else:
            act.cloud.wait_for_end()
            rest(act.trial.pause_seconds)
            act.cloud.start()
    end_in_order(act, run)


def end_in_order(act: Act, run: Run) -> None:
    """Wait for a run that nobody has struck itself: it completes, or fails with a named error."""
    code = run.wait(RUN_SECONDS)
    act.take(run)
    if code not in (0, 1) or (code == 1 and not (act.reports[-1].get("error") or {}).get("code")):
        act.verdict.breaches.append(f"the run ended with {code} and no named error")


STRIKES: dict[Victim, Callable[[Act], None]] = {
    "flow": strike_flow,
    "flow and guard": strike_flow_and_guard,
    "flow on a worker": strike_flow_on_a_worker,
    "worker": strike_worker,
    "guard": lambda act: strike_beside(act, lambda run: running(run.process.pid, "flows.guard")),
    "Prefect server": lambda act: strike_beside(act, prefect_servers),
    "disk": strike_disk,
    "emulator": strike_emulator,
    "emulator with supervisors": strike_emulator_with_supervisors,
    "MLflow": lambda act: strike_beside(act, lambda _: of_emulator(act, "-m azureml_emulator.mlflow_server")),
    "step": lambda act: strike_beside(act, lambda _: of_emulator(act, "-m trainer.rehearsal_training")),
    "model server": lambda act: strike_beside(act, lambda _: of_emulator(act, "-m trainer.rehearsal_serve")),
}


def prefect_servers(run: Run) -> list[psutil.Process]:
    """The run's own server and its keeper; none before it answers, when there is no run yet."""
    if run.step() == "start":
        return []
    return [*running(run.process.pid, "-m retune_cli.servers"), *running(run.process.pid, "prefect server start")]


def of_emulator(act: Act, words: str) -> list[psutil.Process]:
    """The emulator's commands with these words, and their supervisors."""
    return running(act.cloud.process.pid, words)


def outlive(act: Act, pid: int) -> None:
    """A stopped process sleeps until its lease has lapsed and a sweep has passed; then it wakes up."""
    act.wait_until(LEASE_SECONDS)
    act.sweep("asleep")
    os.kill(pid, signal.SIGCONT)


def wake(act: Act, rerun: Run) -> None:
    """A process that slept while another start took over its run wakes up in the midst of it or after it, and ends."""
    if act.asleep is None:
        return
    if "half" in act.trial.sleeps_through:
        rest(act.undisturbed.seconds * (1 + act.trial.pause_seconds / LONGEST_PAUSE_SECONDS) / 2)
    else:
        rerun.wait()
    act.asleep.process.send_signal(signal.SIGCONT)
    act.asleep.wait(END_SECONDS)
    act.take(act.asleep)


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def pause(processes: list[psutil.Process], seconds: float) -> None:
    """Stop them for a while."""
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        rest(seconds if number == signal.SIGSTOP else 0)


def kill_all(processes: list[psutil.Process]) -> None:
    """End all at once: nobody sees another one die first."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)


def forget(act: Act) -> None:
    """Delete what the trial says of the local files, logs of the harness itself left out."""
    homes = {"": (), "RETUNE_HOME": ("retune",), "RETUNE_HOME and PREFECT_HOME": ("retune", "prefect")}
    for name in homes[act.trial.forget]:
        shutil.rmtree(act.stage.folder / act.trial.key / name, ignore_errors=True)


def follow(act: Act) -> None:
    """What comes after the blow: the same run again, to its end, or nothing but a sweep when all has lapsed."""
    if act.trial.follow_up == "sweep":
        act.wait_until(LEASE_SECONDS)
        return
    if act.deployment is None:
        if act.asleep and "sweep" in act.trial.sleeps_through:
            act.wait_until(LEASE_SECONDS)
            act.sweep("asleep")
        run = act.start("rerun")
        wake(act, run)
        code = run.wait()
        act.take(run)
        status, error = act.reports[-1].get("status"), act.reports[-1].get("error")
        # A process that slept before it had begun its run begins it after the rerun, so it is the rerun that gives way.
        taken = act.asleep and error and error["code"] == "TakenOver" and act.asleep.document()["status"] == "completed"
        if not taken and (code != 0 or status not in ("completed", "skipped")):
            act.verdict.breaches.append(f"the rerun ended with {code}, {status}: {error or run.text()[-300:]}")
        return
    worker = act.deployment.start_worker("worker2")
    run = act.deployment.create_run()
    state = act.deployment.wait(run)
    if state.is_completed():
        act.reports.append(act.deployment.report(run))
    else:
        act.verdict.breaches.append(f"the rerun on a worker ended {state.name}: {state.message}")
    act.deployment.stop_worker(worker)

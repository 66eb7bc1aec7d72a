"""Kill a run, or what it needs, at random times, and count what is left.

    make chaos [RUNS=200] [SEED=0] [ARGS="--only 17 --lanes 2"]

Each trial starts a run, strikes, lets something follow (the same run again, or only a sweep), and then counts from the
cloud and from the machine: jobs that were submitted twice or still cost money, endpoints, deployments, processes, files
that differ from what they were made of. Twenty endpoints and twenty jobs of others must stay as they are. A line for
each trial, a table at the end; exit 1 on any breach, with the command that repeats one trial.

Trials run in lanes beside each other on one emulator, so a sweep of one lane meets live runs of the other. Those that
strike the emulator or its processes have one of their own. It leaves nothing behind, also when it is interrupted.
"""

import argparse
import contextlib
import contextvars
import itertools
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import psutil
from chaos_counts import count_remains, count_trial
from chaos_disk import take_disk_away
from chaos_runs import Trigger, Undisturbed, acted, find_marks, start_flow, sweep
from chaos_stage import STOPPING, Cloud, Ended, Stage, TooSlow
from chaos_trials import CALM, COUNTS, Trial, Verdict, draw
from chaos_victims import STRIKES, Act, follow, forget
from rich.console import Console
from rich.table import Table

# After so many trials the emulator has everything open that it ever needs.
WARM_UP = 5
MORE_FILES = 20
# Undisturbed runs are made anew after so many trials.
CALM_EVERY = 25


def main() -> int:
    """0 when nothing was breached."""
    options = parse(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    trials = [draw(options.seed, number) for number in options.only or range(options.runs)]
    began = time.monotonic()
    # The shared one comes first, where undisturbed runs are made.
    clouds = dict.fromkeys(["shared", *(trial.cloud for trial in trials)])
    with Stage(clouds, options.database) as stage:
        play = Play(stage, options.seed, options.lanes)
        try:
            play.all(trials)
        except KeyboardInterrupt:
            say("interrupted")
            # What ends the processes has deadlines of its own.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        stage.keep = bool(play.breaches)
    show(play, options.seed, time.monotonic() - began)
    return 1 if play.breaches or len(play.verdicts) < len(trials) else 0


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="number of trials (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides all trials (default: %(default)s)")
    parser.add_argument("--only", type=int, nargs="+", help="these trials of the seed instead")
    parser.add_argument("--lanes", type=int, default=2, help="trials at a time (default: %(default)s)")
    parser.add_argument("--database", type=Path, help="an empty database of Prefect's, whose tables need not be made")
    return parser.parse_args(words)


class Play:
    """All trials on one stage, in lanes."""

    def __init__(self, stage: Stage, seed: int, lanes: int) -> None:
        self.verdicts: list[Verdict] = []
        self.breaches: list[str] = []
        self.folder = stage.folder
        self._stage, self._seed, self._lanes = stage, seed, lanes
        self._undisturbed = Undisturbed()
        self._calm = itertools.count(CALM)
        self._choosing = threading.Lock()
        self._mortal_taken = False

    def all(self, trials: list[Trial]) -> None:
        """Play the trials between the making of decoys and the last counts."""
        clouds = list(self._stage.clouds.values())
        self._beside([lambda cloud=cloud: cloud.ask("make_decoys") for cloud in clouds])
        before = [cloud.ask("read_decoys") for cloud in clouds]
        self._beside([self._measure] * self._lanes)
        calm = self._undisturbed
        say(f"{self.folder}  seed {self._seed}, {len(trials)} trials in {self._lanes} lanes")
        say(f"an undisturbed run takes {calm.seconds:.1f} s and makes {len(calm.marks)} requests that change something")
        self._play(trials[:WARM_UP])
        files = clouds[0].open_files()
        self._play(trials[WARM_UP:])
        now = clouds[0].open_files()
        say(f"open files of the emulator: {files} after {len(trials[:WARM_UP])} trials, {now} after {len(trials)}")
        if now - files > MORE_FILES:
            self.breaches.append(f"the emulator had {files} files open after {WARM_UP} trials, and {now} at the end")
        self._beside([lambda pair=pair: self._close(*pair) for pair in zip(clouds, before, strict=True)])

    def _close(self, cloud: Cloud, before: dict[str, str]) -> None:
        """The last sweeps, of which the second must find nothing, and the last counts."""
        name = cloud.home.name
        sweep(self._stage, cloud, f"last-{name}")
        again = sweep(self._stage, cloud, f"again-{name}")
        self.breaches += [f"{name}: the second sweep did something: {one}" for one in acted(again)]
        self.breaches += [f"{name}: {text}" for text in count_remains(cloud, before)]
        cloud.ask("end_decoys")

    def _beside(self, works: list[Callable[[], object]]) -> None:
        """Do all at the same time. Raises: the first error."""
        with ThreadPoolExecutor(max(len(works), 1)) as pool:
            # Prefect's settings, its address among them, belong to the context.
            futures = [pool.submit(contextvars.copy_context().run, work) for work in works]
            try:
                while wait(futures, timeout=0.5).not_done:
                    pass
            except BaseException:
                STOPPING.set()
                raise
        for future in futures:
            future.result()

    def _play(self, trials: list[Trial]) -> None:
        left = list(trials)

        def lane() -> None:
            with contextlib.suppress(Ended):
                while (trial := self._next(left)) is not None:
                    self._one(trial)

        self._beside([lane] * self._lanes)

    def _next(self, left: list[Trial]) -> Trial | None:
        """The next trial whose cloud is free; None when there is none left."""
        while True:
            with self._choosing:
                if not left:
                    return None
                free = [trial for trial in left if trial.cloud == "shared" or not self._mortal_taken]
                if free:
                    left.remove(free[0])
                    self._mortal_taken |= free[0].cloud == "mortal"
                    return free[0]
            if STOPPING.wait(0.5):
                return None

    def _one(self, trial: Trial) -> None:
        """Play one trial; print, keep and judge what it came to."""
        if self.verdicts and len(self.verdicts) % CALM_EVERY == 0:
            self._measure()
        verdict, began = Verdict(trial), time.monotonic()
        try:
            play(self._stage, trial, self._undisturbed, verdict)
        except (RuntimeError, OSError, ValueError, LookupError, psutil.Error, httpx.HTTPError) as error:
            if isinstance(error, Ended):
                raise
            verdict.counts["over time"] += isinstance(error, TooSlow)
            verdict.breaches.append(f"{type(error).__name__}: {error}")
            (self.folder / f"{trial.key}.traceback").write_text(traceback.format_exc(), encoding="utf-8")
        finally:
            self._stage.end_processes(self.folder / trial.key)
            take_disk_away(self.folder / trial.key)
        if trial.cloud == "mortal":
            self._stage.clouds["mortal"].revive()
            self._mortal_taken = False
        verdict.seconds = time.monotonic() - began
        if not verdict.breaches:
            shutil.rmtree(self.folder / trial.key, ignore_errors=True)
        self.verdicts.append(verdict)
        self.breaches += [f"trial {trial.number}: {text}" for text in verdict.breaches]
        say(verdict.line())

    def _measure(self) -> None:
        """Time an undisturbed run and note its requests; it must complete while other lanes kill and sweep."""
        trial = draw(self._seed, next(self._calm))
        cloud = self._stage.clouds["shared"]
        position, began = cloud.log_size(), time.monotonic()
        self._stage.live.add(trial.key)
        run = start_flow(self._stage, cloud, trial, "undisturbed")
        code = run.wait()
        self._stage.live.discard(trial.key)
        if code != 0:
            text = f"undisturbed run {trial.number}: {run.document().get('error') or run.text()[-500:]}"
            self.breaches.append(text)
            if not self._undisturbed.marks:
                raise RuntimeError(text)
            return
        shutil.rmtree(self.folder / trial.key)
        seconds = time.monotonic() - began
        self._undisturbed.seconds = (self._undisturbed.seconds + seconds) / 2 if self._undisturbed.seconds else seconds
        self._undisturbed.marks = find_marks(cloud.log_since(position)[0], cloud, trial.key)


def play(stage: Stage, trial: Trial, undisturbed: Undisturbed, verdict: Verdict) -> None:
    """One trial from its first start to its last count."""
    cloud = stage.clouds[trial.cloud]
    act = Act(stage, cloud, trial, undisturbed, verdict, Trigger(cloud, trial, undisturbed))
    try:
        STRIKES[trial.victim](act)
        forget(act)
        follow(act)
    finally:
        act.trigger.release()
    count_trial(act)


def show(play: Play, seed: int, seconds: float) -> None:
    """The table and the breaches, with the commands that repeat them."""
    columns = ["trials", "too late", "models", "swept", *COUNTS, "breaches"]
    table = Table("victim", *columns, title=f"seed {seed}, {len(play.verdicts)} trials in {seconds / 60:.1f} min")
    kinds = sorted({verdict.trial.kind for verdict in play.verdicts})
    for kind in [*kinds, "total"]:
        rows = [verdict for verdict in play.verdicts if kind in (verdict.trial.kind, "total")]
        figures = sum((row.figures() for row in rows), Counter())
        table.add_row(kind, *(str(figures[column]) for column in columns), end_section=kind == (kinds or [""])[-1])
    Console(width=180).print(table)
    for breach in play.breaches:
        say(f"breach: {breach}")
    failed = [str(verdict.trial.number) for verdict in play.verdicts if verdict.breaches]
    if failed:
        say(f'Repeat with: make chaos SEED={seed} ARGS="--only {" ".join(failed)}"')
    if play.breaches:
        say(f"Logs of what failed are in {play.folder}.")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

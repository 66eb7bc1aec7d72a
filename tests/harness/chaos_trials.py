"""What the kill harness (chaos.py) draws and what it finds out: plain data, the same for the same seed and number.

A trial's number and the seed decide everything about it, so that one of two hundred can be repeated alone.
"""

import random
import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Victim = Literal[
    "flow",
    "flow and guard",
    "flow on a worker",
    "worker",
    "guard",
    "Prefect server",
    "disk",
    "emulator",
    "emulator with supervisors",
    "MLflow",
    "step",
    "model server",
]
FollowUp = Literal["rerun", "sweep"]

# How often each victim is drawn, and with which signals.
VICTIMS: dict[Victim, tuple[int, tuple[signal.Signals, ...]]] = {
    "flow": (40, (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)),
    "flow and guard": (15, (signal.SIGKILL,)),
    "flow on a worker": (13, (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)),
    "worker": (12, (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)),
    "guard": (6, (signal.SIGKILL,)),
    "Prefect server": (10, (signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP)),
    # It is filled, and no signal is sent; this one stands for a file that cannot grow.
    "disk": (10, (signal.SIGXFSZ,)),
    "emulator": (20, (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)),
    "emulator with supervisors": (6, (signal.SIGKILL,)),
    "MLflow": (6, (signal.SIGKILL,)),
    "step": (6, (signal.SIGKILL,)),
    "model server": (6, (signal.SIGKILL,)),
}
# Processes of the emulator, which is then not shared.
OF_THE_EMULATOR = ("emulator", "emulator with supervisors", "MLflow", "step", "model server")
# The run goes on without them.
OUTLIVED = ("worker", "guard", "Prefect server", "disk", *OF_THE_EMULATOR)
LONGEST_PAUSE_SECONDS = 3.0
# Undisturbed runs have numbers of their own, from here on.
CALM = 10_000


@dataclass(frozen=True)
class Moment:
    """When to strike: after a share of an undisturbed run's time, or at one of its requests that change something.

    `during` holds the request back for `hold_seconds`, so that it takes effect when the victim has been hit; `after`
    lets it pass. `share` picks the time or the request.
    """

    kind: Literal["time", "during", "after"]
    share: float
    hold_seconds: float


@dataclass(frozen=True)
class Trial:
    """One run, what is done to it, and what follows."""

    number: int
    seed: int
    victim: Victim
    signal: signal.Signals
    moment: Moment
    follow_up: FollowUp
    forget: Literal["", "RETUNE_HOME", "RETUNE_HOME and PREFECT_HOME"]
    pause_seconds: float
    sweep_twice: bool
    # Of a process that was stopped: what passes before it wakes up.
    sleeps_through: Literal["a sweep", "a sweep and half a rerun", "half a rerun", "a rerun"]

    @property
    def key(self) -> str:
        """The run's key; it names the trial in everything that the run makes."""
        return f"chaos{self.number}"

    @property
    def fraction(self) -> float:
        """The share of the data, another one in each trial: files with the same content are uploaded only once."""
        step, start = 0.0023, 0.8 if self.number >= CALM else 0.3
        return round(start + step * (self.number % (80 if self.number >= CALM else 200)), 4)

    @property
    def training_seconds(self) -> int:
        """Length of the training: where only a sweep follows, a job that nobody cancels outlives the trial."""
        goes_on = self.victim in OUTLIVED or self.moment.kind != "time" or self.number >= CALM
        return 1 if goes_on or self.follow_up == "rerun" else 300

    @property
    def cloud(self) -> str:
        """The emulator that it runs on: killed ones are not shared."""
        return "mortal" if self.victim in OF_THE_EMULATOR else "shared"

    @property
    def kind(self) -> str:
        """Its row in the table, e.g. `flow SIGKILL`."""
        return f"{self.victim} {self.signal.name}"

    @property
    def wakes_in_rerun(self) -> bool:
        """Whether a stopped command sleeps on while the rerun has begun."""
        stopped = self.victim == "flow" and self.signal == signal.SIGSTOP
        return stopped and self.follow_up == "rerun" and "rerun" in self.sleeps_through

    def describe(self) -> str:
        """What is done, in words."""
        at = f"{self.moment.kind} {self.moment.share:.2f}"
        after = f"{self.follow_up}, asleep through {self.sleeps_through}" if self.wakes_in_rerun else self.follow_up
        forgotten = f" without {self.forget}" if self.forget else ""
        return f"{self.number:>4}  {self.kind:<33}  {at:<11}  then {after}{forgotten}"


def draw(seed: int, number: int) -> Trial:
    """Trial `number` of a seed."""
    dice = random.Random(f"{seed} {number}")
    victim = dice.choices(list(VICTIMS), [weight for weight, _ in VICTIMS.values()])[0]
    kind = dice.choices(["time", "during", "after"], [40, 35, 25])[0]
    return Trial(
        number=number,
        seed=seed,
        victim=victim,
        signal=dice.choice(VICTIMS[victim][1]),
        moment=Moment(kind, dice.random(), dice.choice((0.5, 2.0, 8.0))),
        follow_up=dice.choices(["rerun", "sweep"], [60, 40])[0],
        forget=dice.choices(["", "RETUNE_HOME", "RETUNE_HOME and PREFECT_HOME"], [50, 25, 25])[0],
        pause_seconds=dice.uniform(0, LONGEST_PAUSE_SECONDS),
        sweep_twice=dice.random() < 0.25,
        sleeps_through=dice.choice(["a sweep", "a sweep and half a rerun", "half a rerun", "a rerun"]),
    )


TOO_LATE = "too late"
COUNTS = (
    "jobs twice",
    "jobs active",
    "endpoints",
    "deployments",
    "processes",
    "files differ",
    "reports lost",
    "over time",
)


@dataclass
class Verdict:
    """What a trial left behind, counted, and every breach in words."""

    trial: Trial
    struck: str = TOO_LATE
    step: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    breaches: list[str] = field(default_factory=list)
    models: int = 0
    seconds: float = 0.0

    def count(self, what: str, found: Iterable[str]) -> None:
        """Add what must not be there; each is a breach."""
        found = list(found)
        self.counts[what] += len(found)
        self.breaches += [f"{what}: {item}" for item in found]

    def figures(self) -> Counter[str]:
        """What the table adds up."""
        late = int(self.struck == TOO_LATE)
        more = {"trials": 1, "too late": late, "models": self.models, "breaches": len(self.breaches)}
        return self.counts + Counter(more)

    def line(self) -> str:
        """The trial and its result on one line."""
        result = "; ".join(self.breaches) or "ok"
        return f"{self.trial.describe():<92}  {self.struck} [{self.step}]  {self.seconds:.0f} s  {result}"

"""Processes of a trial: the command, a worker with its deployment, the sweep; and the moment at which to strike."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos_stage import ROOT, Cloud, Stage, wait_for
from chaos_trials import Trial

from retune import names

LEASE_SECONDS, SERVING_SECONDS, QUEUE_SECONDS, JOB_SECONDS = 6.0, 18.0, 30.0, 120.0
# An endpoint may have been made before the job began.
EXPIRY_SECONDS = QUEUE_SECONDS + JOB_SECONDS + SERVING_SECONDS
RUN_SECONDS, SWEEP_SECONDS, END_SECONDS = 150, 90, 90
# Renewals of the lease and the like come again and again; the first few of a kind are enough.
MARKS_OF_A_KIND = 2
NOT_OURS = re.compile(
    r"/admin/|/mlflow/|listSecrets|listKeys|batchGetResolvedUris|/discovery|dataversion|modelregistry"
)
ACTIONS = ("deleted", "cancelled")
SET = {
    "model.component": "chat_completion_rehearsal",
    "limits.poll_seconds": "0.2",
    "limits.lease_minutes": f"{LEASE_SECONDS / 60:g}",
    "limits.queue_minutes": f"{QUEUE_SECONDS / 60:g}",
    "limits.run_minutes": f"{JOB_SECONDS / 60:g}",
    "limits.deploy_minutes": "1",
    "limits.delete_minutes": "1",
    "serving.expiry_hours": f"{SERVING_SECONDS / 3600:g}",
    "score.rows": "2",
}


@dataclass(frozen=True)
class Mark:
    """One request of an undisturbed run that changes something: the nth of its method and path."""

    method: str
    path: str
    nth: int

    def __str__(self) -> str:
        path = re.search(r"[^/]*/?\{(?!upload).*|\{upload.*", self.path).group()
        return f"{self.method} {path} #{self.nth}"

    def pattern(self, cloud: Cloud, key: str) -> str:
        """The regular expression of the same request of another run."""
        path = re.escape(self.path)
        for place, name in own_names(cloud, key).items():
            path = path.replace(re.escape(place), name)
        return f"{path}$"


def own_names(cloud: Cloud, key: str) -> dict[str, str]:
    """What stands for a run's names in a mark's path, as regular expressions that match only this run's."""
    workspace = "/".join(cloud.ready[part] for part in ("subscription_id", "resource_group", "workspace_name"))
    return {
        "{job}": re.escape(names.job_name(key, 1)),
        "{endpoint}": re.escape(names.endpoint_name(workspace, key, 1, "")[: -len("00000000-1")]) + "[0-9a-f]{8}-1",
        "{model}": f"{key}/versions/[^/]+",
        "{upload}": r"[^/]+\.blob\.[^/]+/[^/]+/LocalUpload/[^/]+(?=/train)",
    }


def find_marks(log: list[dict], cloud: Cloud, key: str) -> list[Mark]:
    """The requests in a log that changed something for this run, or uploaded training data for any run."""
    seen: Counter[tuple[str, str]] = Counter()
    for line in log:
        path = line["path"]
        for place, name in own_names(cloud, key).items():
            path = re.sub(name, place, path)
        if line["method"] in ("PUT", "POST", "PATCH", "DELETE") and "{" in path and not NOT_OURS.search(path):
            seen[line["method"], path] += 1
    # Sorted, because the order of what goes on side by side differs from run to run.
    return [
        Mark(method, path, nth)
        for (method, path), times in sorted(seen.items())
        for nth in range(1, min(times, MARKS_OF_A_KIND) + 1)
    ]


@dataclass
class Undisturbed:
    """What a run takes and asks when nobody strikes; measured anew now and then."""

    seconds: float = 0.0
    marks: list[Mark] = field(default_factory=list)


class Trigger:
    """The moment of a trial, made ready before the run starts."""

    def __init__(self, cloud: Cloud, trial: Trial, undisturbed: Undisturbed) -> None:
        self._cloud, self._trial, self._moment = cloud, trial, trial.moment
        self._seconds = undisturbed.seconds * self._moment.share
        self._position, self._answers = cloud.log_size(), 0
        self._mark = undisturbed.marks[int(self._moment.share * len(undisturbed.marks))]
        self._pattern = self._mark.pattern(cloud, trial.key)
        self._held = False
        if self._moment.kind == "during":
            self._hold()

    def _hold(self) -> None:
        mark, moment = self._mark, self._moment
        fault = {"on": "request", "method": mark.method, "path": self._pattern, "from_call": mark.nth}
        self._cloud.hold(self._trial.key, fault | {"effect": "slow", "seconds": moment.hold_seconds})
        self._held = True

    def wait(self, over: Callable[[], bool]) -> str:
        """What the run does when the moment has come; empty when the run is over before that."""
        began = time.monotonic()
        come = {
            "time": lambda: time.monotonic() - began >= self._seconds,
            "during": lambda: self._cloud.held(self._trial.key),
            "after": self._answered,
        }[self._moment.kind]
        late = False

        def look() -> bool:
            nonlocal late
            late = over()
            return late or come()

        wait_for(look, RUN_SECONDS, "the moment to strike", every=0.03)
        if late:
            return ""
        return f"at {self._seconds:.1f} s" if self._moment.kind == "time" else f"{self._moment.kind} {self._mark}"

    def _answered(self) -> bool:
        lines, self._position = self._cloud.log_since(self._position)
        own = [line for line in lines if line["method"] == self._mark.method and re.search(self._pattern, line["path"])]
        self._answers += len(own)
        return self._answers >= self._mark.nth

    def release(self) -> None:
        """Let a request that is still held go on, and take the trap away."""
        if self._held:
            self._held = False
            self._cloud.hold(self._trial.key, None)


@dataclass
class Run:
    """One start of the command and what it printed."""

    process: subprocess.Popen
    out: Path
    err: Path

    def over(self) -> bool:
        return self.process.poll() is not None

    def wait(self, seconds: float = RUN_SECONDS) -> int:
        """The exit status. Raises: TooSlow."""
        wait_for(self.over, seconds, f"the end of {self.out.stem}")
        return self.process.returncode

    def document(self) -> dict:
        """The JSON that it printed; empty when it printed none."""
        text = self.out.read_text(encoding="utf-8")
        return json.loads(text) if text.strip() else {}

    def text(self) -> str:
        """What it has written so far, to both."""
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in (self.out, self.err))

    def step(self) -> str:
        """The step that logged last."""
        found = re.findall(r"^\d\d:\d\d:\d\d  (\w+)|\| (?:INFO|WARNING) +\| retune\.(\w+)", self.text(), re.M)
        return "".join(found[-1]) if found else "start"


def start(command: list[str], environment: dict[str, str], log: Path) -> Run:
    """A process in a session of its own, its output in files."""
    log.parent.mkdir(parents=True, exist_ok=True)
    out, err = log.with_suffix(".out"), log.with_suffix(".err")
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    return Run(process, out, err)


def assignments(trial: Trial) -> dict[str, str]:
    """The settings of a trial's run."""
    drawn = {
        "data.fraction": f"{trial.fraction}",
        "model.registered_name": trial.key,
        "training.training_seconds": f"{trial.training_seconds}",
    }
    return SET | drawn


def start_flow(stage: Stage, cloud: Cloud, trial: Trial, name: str) -> Run:
    """The command, as a user types it."""
    folder = stage.folder / trial.key
    words = [word for pair in assignments(trial).items() for word in ("--set", "=".join(pair))]
    command = ["flows.finetune", "--json", "--preset", "local", "--run-key", trial.key, *words]
    own_prefect = trial.victim == "Prefect server" and name == "first"
    return start(command, stage.environment(cloud, folder, own_prefect=own_prefect), folder / name)


def sweep(stage: Stage, cloud: Cloud, name: str) -> dict:
    """What the sweep says it has done. Raises: TooSlow, RuntimeError when it fails or touches a live run."""
    folder = stage.folder / "sweeps" / name
    live = set(stage.live)
    run = start(["flows.sweep", "--json", "--preset", "local"], stage.environment(cloud, folder), folder / "sweep")
    if (code := run.wait(SWEEP_SECONDS)) != 0:
        lines = run.text().strip().splitlines()
        raise RuntimeError(f"the sweep ended with {code}: {' | '.join(lines[-2:])}")
    harmed = [one for key in live & stage.live for one in acted(run.document(), key)]
    if harmed:
        raise RuntimeError(f"the sweep touched a live run: {', '.join(harmed)}")
    document = run.document()
    shutil.rmtree(folder)
    return document


def acted(document: dict, key: str | None = None) -> list[str]:
    """What a sweep did, to things of this key or to all."""
    entries = [*document["endpoints"], *document["jobs"]]
    return [
        f"{one['name']} {one['action']}" for one in entries if one["action"] in ACTIONS and key in (None, one["key"])
    ]

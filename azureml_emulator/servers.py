"""One deployment's server: a child process that is started, probed, restarted and stopped, and its logs.

The server's command prints one JSON line {"port": N} on stdout, answers GET / with 200 once it can serve, and POST
/score. Probes follow Azure's settings (initial delay, period, timeout, thresholds), with one deviation that keeps local
runs quick: readiness is asked when the server begins to listen and then every second, so a ready server is found at
once; the settings only decide when to give up.

This module knows nothing of the REST API; `deployments.py` decides what a failure means.
"""

import logging
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml

from azureml_emulator import mlmodel
from azureml_emulator.processes import own_environment, start_child

log = logging.getLogger(__name__)

# Kubernetes-like waits between restarts of a server that was ready once.
FIRST_RESTART_SECONDS = 0.5
LONGEST_RESTART_SECONDS = 10.0
TICK_SECONDS = 0.1
READINESS_SECONDS = 1.0
STOP_GRACE_SECONDS = 2.0
# The status of the proxy in front of a container while nothing listens behind it.
NOTHING_LISTENS = 502
SERVING_TABLE = Path(__file__).parent / "registry" / "serving.yaml"


class ServingError(Exception):
    """The model cannot be served, or its server did not come up. The text is for the deployment's error."""


@dataclass(frozen=True)
class Probe:
    """Seconds and counts of a liveness or readiness probe."""

    initial_delay: float
    period: float
    timeout: float
    success_threshold: int
    failure_threshold: int

    @property
    def patience(self) -> float:
        """Seconds after the start until the first possible verdict 'failed'."""
        return self.initial_delay + self.period * self.failure_threshold


@dataclass(frozen=True)
class ServerSpec:
    """How a server is started. `folder` holds its logs and is its working directory."""

    command: list[str]
    environment: dict[str, str]
    folder: Path
    liveness: Probe
    readiness: Probe

    @property
    def log_file(self) -> Path:
        return self.folder / "inference-server.log"


@dataclass
class Health:
    """The results of the probes since the process started."""

    started: float = field(default_factory=time.monotonic)
    next_readiness: float = 0.0
    next_liveness: float = 0.0
    successes: int = 0
    dead: int = 0
    unready: int = 0


class Server:
    """A supervised server process. `start`, then `wait_ready`; afterwards it is kept alive until `stop`."""

    def __init__(self, spec: ServerSpec) -> None:
        self._spec = spec
        self._stopped = threading.Event()
        self._settled = threading.Event()
        self._failure: str | None = None
        self._was_ready = False
        self._ready = False
        self._port: int | None = None
        self._thread = threading.Thread(target=self._supervise, name=f"server {spec.folder.name}", daemon=True)

    @property
    def address(self) -> str | None:
        """The base URL, while the server is ready."""
        return f"http://127.0.0.1:{self._port}" if self._ready and self._port else None

    def start(self) -> None:
        self._thread.start()

    def settled(self, seconds: float) -> bool:
        """Waits so long for the server to be ready, to fail or to be stopped, and says whether it is."""
        return self._settled.wait(seconds)

    def check_ready(self) -> None:
        """Raises: ServingError with the reason and the last log lines when the settled server is not ready."""
        if not self._was_ready:
            tail = "\n".join(last_lines(self._spec.log_file, 20))
            raise ServingError(f"{self._failure or 'The server was stopped.'}\nLast lines of its log:\n{tail}")

    def stop(self) -> None:
        """Ends the process group and the supervision; returns when both are gone."""
        self._stopped.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(STOP_GRACE_SECONDS + 3)

    def _supervise(self) -> None:
        delay = FIRST_RESTART_SECONDS
        while not self._stopped.is_set():
            reason = self._run_once()
            if not self._was_ready or self._stopped.is_set():
                self._failure = reason
                break
            log.warning("server in %s ended: %s; restarting", self._spec.folder, reason)
            self._stopped.wait(delay)
            delay = min(delay * 2, LONGEST_RESTART_SECONDS)
        self._settled.set()

    def _run_once(self) -> str:
        """Runs the process until it ends, fails a probe or is stopped; returns the reason."""
        self._port = None
        offset = self._spec.log_file.stat().st_size if self._spec.log_file.exists() else 0
        try:
            child = start_child(
                self._spec.command,
                folder=self._spec.folder,
                env={**own_environment(), **self._spec.environment},
                log_file=self._spec.log_file,
                grace_seconds=STOP_GRACE_SECONDS,
            )
        except OSError as error:
            return str(error)
        health = Health()
        try:
            while not self._stopped.wait(TICK_SECONDS):
                code = child.poll()
                if code is not None:
                    return f"User container has crashed or terminated: exit code {code}."
                self._port = self._port or announced_port(self._spec.log_file, offset)
                verdict = self._probe(health)
                if verdict:
                    return verdict
            return "The server was stopped."
        finally:
            self._ready = False
            child.stop()

    def _probe(self, health: Health) -> str | None:
        """Asks the probes that are due. Returns why the process must be ended, if so."""
        age = time.monotonic() - health.started
        # Before it listens there is nothing to ask; then the first look comes at once.
        if self._port and age >= health.next_readiness:
            period = self._spec.readiness.period
            health.next_readiness = age + (period if self._ready else min(READINESS_SECONDS, period))
            self._note_readiness(health, self._ask(self._spec.readiness.timeout))
        if age >= max(health.next_liveness, self._spec.liveness.initial_delay):
            health.next_liveness = age + self._spec.liveness.period
            status = self._ask(self._spec.liveness.timeout)
            health.dead = 0 if status == 200 else health.dead + 1
            if health.dead >= self._spec.liveness.failure_threshold:
                probed = f"Liveness probe failed: HTTP probe failed with statuscode: {status}."
                return f"User container has crashed or terminated: {probed}"
        if not self._was_ready and age > self._spec.readiness.patience:
            advice = "Raise readiness_probe or check the logs."
            return f"User container is not ready: Readiness probe failed for {age:.0f} s. {advice}"
        return None

    def _note_readiness(self, health: Health, status: int) -> None:
        health.successes = health.successes + 1 if status == 200 else 0
        health.unready = 0 if status == 200 else health.unready + 1
        if health.successes >= self._spec.readiness.success_threshold:
            self._ready = self._was_ready = True
            self._settled.set()
        elif health.unready >= self._spec.readiness.failure_threshold:
            self._ready = False

    def _ask(self, timeout: float) -> int:
        if self._port is None:
            return NOTHING_LISTENS
        try:
            return httpx.get(f"http://127.0.0.1:{self._port}/", timeout=timeout, trust_env=False).status_code
        except httpx.HTTPError:
            return NOTHING_LISTENS


def announced_port(log_file: Path, offset: int) -> int | None:
    """The port in the first `{"port": N}` line that was written to the log after `offset`."""
    if not log_file.exists():
        return None
    with log_file.open("rb") as stream:
        stream.seek(offset)
        match = re.search(rb'^\{"port": *(\d+)\}\s*$', stream.read(), re.MULTILINE)
    return int(match.group(1)) if match else None


def last_lines(file: Path, count: int) -> list[str]:
    """At most `count` last lines of a text file; none when it does not exist."""
    if not file.exists() or count <= 0:
        return []
    text = file.read_text(encoding="utf-8", errors="replace").rstrip("\n")
    return text.split("\n")[-count:] if text else []


def mlflow_folder(folder: Path) -> Path:
    """The folder with the MLmodel file: this one, or the only one inside it.

    Raises: ServingError when there is none.
    """
    if (folder / "MLmodel").is_file():
        return folder
    inside = [file.parent for file in sorted(folder.glob("*/MLmodel"))] if folder.is_dir() else []
    if len(inside) != 1:
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) if folder.is_dir() else folder.name
        raise ServingError(
            f"The model is not in MLflow form: no MLmodel file was found (found: {names}). Register the job's MLflow "
            "output as type 'mlflow_model'; scoring scripts and custom containers are not served here."
        )
    return inside[0]


def serving_command(folder: Path, home: Path) -> list[str]:
    """The command that serves an MLflow model folder: that of its first flavor in HOME/serving.yaml or in ours.

    Raises: ServingError when there is none.
    """
    try:
        flavors = mlmodel.read_flavors(folder)
    except mlmodel.Unreadable as error:
        raise ServingError(f"The model's MLmodel file cannot be read: {error}.") from error
    table = read_serving_table(home / "serving.yaml")
    for flavor, command in read_serving_table(SERVING_TABLE).items():
        table.setdefault(flavor, command)
    template = next((command for flavor, command in table.items() if flavor in flavors), None)
    if template is None:
        raise ServingError(
            f"No server is known for the model's flavors ({', '.join(flavors) or 'none'}); known: {', '.join(table)}. "
            f"Name one in {home / 'serving.yaml'}."
        )
    words = [word.replace("{model}", str(folder)) for word in template]
    return [sys.executable if words[0] == "python" else words[0], *words[1:]]


def read_serving_table(file: Path) -> dict[str, list[str]]:
    """The command of each flavor; none when there is no file. Raises: ServingError when it holds something else."""
    if not file.exists():
        return {}
    try:
        table = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ServingError(f"{file} is not readable as YAML: {error}") from error
    if not isinstance(table, dict) or not all(
        isinstance(words, list) and words and all(isinstance(word, str) for word in words) for words in table.values()
    ):
        raise ServingError(f"{file} is no mapping from flavors to commands such as [python, server.py, '{{model}}'].")
    return table

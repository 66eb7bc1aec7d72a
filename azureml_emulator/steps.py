"""Runs one step of a job as a process: its inputs as paths, its output folders, its log, and what ends it.

A step that is started again, after a preemption or a restart of the emulator, finds its output folders empty. Timing of
queue, preparation and finalizing comes from `world.timing`, failures on purpose from `world.faults`.
"""

import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from azureml_emulator.assets import Assets
from azureml_emulator.command_line import render
from azureml_emulator.faults import Fault, Faults
from azureml_emulator.identity import Identity
from azureml_emulator.job_body import Asset, Literal, entries, output_type
from azureml_emulator.json_types import Json, whole_at
from azureml_emulator.names import path_below
from azureml_emulator.plan import NodeOutput, Plan, Step, Value
from azureml_emulator.processes import Child, own_environment, start_child, wait_for_end
from azureml_emulator.runs import Runs
from azureml_emulator.storage import Storage
from azureml_emulator.wire import now
from azureml_emulator.world import Interrupted, World

POLL_SECONDS = 0.05
LOG_TAIL_LINES = 15
# A killed emulator's steps end within the grace of their supervisors.
LEFTOVER_SECONDS = 10


class StepFailed(Exception):
    """A step ended badly; the message is for the one who reads the job's error."""


class Cancelled(Exception):
    """The job is to be cancelled."""


class Preempted(Exception):
    """The node was taken away; the step starts again."""


class Prepared(NamedTuple):
    """A step that is ready: its command line, the variables of it, its working folder, its outputs {path, type}."""

    command: str
    variables: dict[str, str]
    folder: Path
    outputs: dict[str, Json]


@dataclass(frozen=True)
class JobServices:
    """The services that a job uses while it runs."""

    world: World
    identity: Identity
    faults: Faults
    storage: Storage
    assets: Assets
    runs: Runs


class Control:
    """Tells a job's threads when to stop."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.cancelled = threading.Event()

    def check(self) -> None:
        """Raises: Interrupted when the emulator is stopping, Cancelled when the job is to be cancelled."""
        self.check_stopping()
        if self.cancelled.is_set():
            raise Cancelled

    def check_stopping(self) -> None:
        if self._world.stopping.is_set():
            raise Interrupted

    def pause(self, seconds: float) -> None:
        """Waits for a settable latency. Raises as `check`."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.check()
            self.cancelled.wait(min(left, POLL_SECONDS))
        self.check()


class Console:
    """The log of a pipeline, which `jobs.stream` shows. A command job has none: its own log is shown."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()

    def say(self, line: str) -> None:
        """Adds a line with the time."""
        self._append(f"[{now()[:19].replace('T', ' ')}Z] {line}\n")

    def copy(self, name: str, log_file: Path, position: int) -> int:
        """Appends the new lines of a step's log, each with the step's name; returns the new position in the log."""
        with log_file.open("rb") as stream:
            stream.seek(position)
            new = stream.read()
        complete = new[: new.rfind(b"\n") + 1]
        lines = complete.decode("utf-8", errors="replace").split("\n")[:-1]
        self._append("".join(f"[{name}] {line}\n" for line in lines))
        return position + len(complete)

    def _append(self, text: str) -> None:
        if self._file is None or not text:
            return
        with self._lock, self._file.open("a", encoding="utf-8") as stream:
            stream.write(text)


class StepRun:
    """One step under way."""

    def __init__(self, services: JobServices, plan: Plan, step: Step, control: Control, console: Console) -> None:
        self._world = services.world
        self._identity = services.identity
        self._faults = services.faults
        self._storage = services.storage
        self._assets = services.assets
        self._runs = services.runs
        self._plan = plan
        self._step = step
        self._control = control
        self._console = console
        self._run_id = plan.run_id(step.path)
        # A command job is its own step.
        self._name = step.name or plan.job

    def run(self) -> None:
        """Runs the step until it completes, again after each preemption. Raises: StepFailed, Cancelled, Interrupted."""
        attempt = whole_at(self._runs.find(self._run_id) or self._create(), "attempt")
        while True:
            attempt += 1
            self._runs.edit(self._run_id, {"attempt": attempt})
            try:
                self._attempt(attempt, self._faults.for_step(self._name))
            except Preempted:
                self._console.say(f"Run {self._run_id} ({self._name}): the node was preempted, the step starts again.")
            else:
                break
        self._console.say(f"Completing processing run id {self._run_id}.")

    def _create(self) -> Json:
        self._console.say(f"Submitting 1 runs, first five are: {self._name}:{self._run_id}")
        compute = self._step.compute
        return self._runs.create(
            self._run_id,
            kind="step",
            parent=self._plan.run_id(self._plan.parent_path(self._step.path)),
            root=self._plan.job,
            display_name=self._name,
            component=str(self._step.component.get("name") or "azureml_anonymous"),
            inputs=self._data_inputs(),
            target=compute.rpartition("/")[2] if compute else None,
        )

    def _data_inputs(self) -> Json:
        """The step's inputs that were given to the job as data or models, each {uri, type}."""
        specs = dict(entries(self._step.component, "inputs"))
        return {
            name: {"uri": value.uri, "type": output_type(specs.get(name))}
            for name, value in self._step.inputs.items()
            if isinstance(value, Asset)
        }

    def _attempt(self, attempt: int, fault: Fault | None) -> None:
        timing = self._world.timing
        self._runs.set_status(self._run_id, "Queued")
        if fault and fault.effect == "hang_queued":
            self._faults.hold(fault, self._control.cancelled.is_set)
        self._control.pause(timing.queue_seconds)
        self._runs.set_status(self._run_id, "Preparing")
        prepared = self._prepare(attempt)
        self._control.pause(timing.prepare_seconds)
        self._runs.set_status(self._run_id, "Running")
        status = self._execute(prepared, fault)
        if fault and fault.effect == "slow":
            self._faults.hold(fault, self._control.cancelled.is_set)
            self._control.check()
        if status != 0:
            raise StepFailed(self._explain(status))
        self._runs.set_status(self._run_id, "Finalizing")
        self._control.pause(timing.finalize_seconds)
        self._register(prepared.outputs)
        self._runs.set_outputs(self._run_id, prepared.outputs)
        self._runs.set_status(self._run_id, "Completed")

    def _register(self, outputs: dict[str, Json]) -> None:
        """Registers the outputs that have an asset name, and notes name and version. Raises: ServiceError."""
        for name, output in outputs.items():
            if asset := self._plan.asset_name(NodeOutput(self._step.path, name)):
                path, kind = str(output["path"]), str(output["type"])
                version = self._assets.register_output(asset, kind, path, self._run_id)
                output["asset"] = {"name": asset.name, "version": version}

    def _prepare(self, attempt: int) -> Prepared:
        """The step, with a working folder that contains only its code, and empty output folders."""
        log_file = self._runs.log_file(self._run_id)
        if not wait_for_end(log_file, LEFTOVER_SECONDS):
            raise StepFailed(
                f"Processes of an earlier attempt of step '{self._name}' still run; their log is {log_file}."
            )
        folder = path_below(self._world.settings.home / "jobs", self._run_id)
        shutil.rmtree(folder, ignore_errors=True)
        if self._step.code:
            shutil.copytree(self._assets.locate(self._step.code), folder, symlinks=True)
        folder.mkdir(parents=True, exist_ok=True)
        inputs = {name: self._input_text(value) for name, value in self._step.inputs.items()}
        folders = {name: self._output_folder(name) for name in self._step.outputs}
        outputs: dict[str, Json] = {
            name: {"path": self._plan.folder(NodeOutput(self._step.path, name)), "type": kind}
            for name, kind in self._step.outputs.items()
        }
        if attempt > 1:
            with log_file.open("a", encoding="utf-8") as stream:
                stream.write(f"-- attempt {attempt}: the step starts again, in empty output folders --\n")
        texts = {name: str(folder) for name, folder in folders.items()}
        return Prepared(*render(str(self._step.component["command"]), inputs, texts), folder, outputs)

    def _input_text(self, value: Value) -> str:
        if isinstance(value, Literal):
            return value.text
        if isinstance(value, Asset):
            return str(self._assets.locate(value.uri))
        return str(self._blob_folder(self._plan.folder(self._plan.source(value))))

    def _output_folder(self, name: str) -> Path:
        folder = self._blob_folder(self._plan.folder(NodeOutput(self._step.path, name)))
        shutil.rmtree(folder, ignore_errors=True)
        folder.unlink(missing_ok=True)
        (folder.parent if self._step.outputs[name] == "uri_file" else folder).mkdir(parents=True, exist_ok=True)
        return folder

    def _blob_folder(self, path: str) -> Path:
        return self._storage.folder(self._storage.default_container, path)

    def _execute(self, prepared: Prepared, fault: Fault | None) -> int:
        """The exit status of the command. Raises: Cancelled, Preempted, StepFailed by a fault, Interrupted."""
        log_file = self._runs.log_file(self._run_id)
        position = log_file.stat().st_size
        shell = ["/bin/sh", "-c", prepared.command]
        variables = self._environment() | prepared.variables
        child = start_child(shell, folder=prepared.folder, env=variables, log_file=log_file)
        try:
            self._inject_fault(child, fault)
            while (status := child.wait(POLL_SECONDS)) is None:
                position = self._console.copy(self._name, log_file, position)
                self._control.check()
        finally:
            child.stop()
            self._console.copy(self._name, log_file, position)
        return status

    def _inject_fault(self, child: Child, fault: Fault | None) -> None:
        """Applies the fault to the running step."""
        if fault is None or fault.effect in ("hang_queued", "slow"):
            return
        if fault.effect == "not_responding":
            self._runs.set_status(self._run_id, "NotResponding")
            self._faults.hold(fault, self._control.cancelled.is_set)
            self._control.check()
            self._runs.set_status(self._run_id, "Running")
            return
        deadline = time.monotonic() + fault.seconds
        while time.monotonic() < deadline and child.wait(POLL_SECONDS) is None:
            self._control.check()
        if fault.effect == "preempt":
            raise Preempted
        raise StepFailed(fault.error_message())

    def _explain(self, status: int) -> str:
        """The message for a failed command: its exit code or signal and the end of its log."""
        ending = f"exit code {status}" if status > 0 else f"killed by signal {-status}"
        if status > 128:
            ending += f" (signal {status - 128})"
        lines = self._runs.log_file(self._run_id).read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
        log_tail = "\n".join(lines[-LOG_TAIL_LINES:]) or "(empty)"
        folder = f"user_logs/std_log.txt of run {self._run_id}"
        return f"Execution failed. Step '{self._name}' ended with {ending}. The end of {folder}:\n{log_tail}"

    def _environment(self) -> dict[str, str]:
        """The step's environment: this interpreter as `python`, the trainer importable, and the run's MLflow access."""
        bundle = str(self._world.settings.home / "ca_bundle.pem")
        experiment = self._runs.get(self._plan.job)["experiment"]
        return {
            **own_environment(),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "MLFLOW_TRACKING_URI": self._world.tracking_url,
            "MLFLOW_TRACKING_TOKEN": self._identity.step_token(self._run_id),
            "MLFLOW_RUN_ID": self._run_id,
            "MLFLOW_EXPERIMENT_NAME": str(experiment),
            "AZUREML_RUN_ID": self._run_id,
            "AZUREML_ROOT_RUN_ID": self._plan.job,
            "REQUESTS_CA_BUNDLE": bundle,
            "SSL_CERT_FILE": bundle,
            **self._step.environment,
        }

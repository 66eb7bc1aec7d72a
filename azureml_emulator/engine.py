"""Runs one job: its steps as processes in the order of their inputs, several at once when they can.

What happened is in the run documents (runs.py), so a job goes on after a restart of the emulator: steps that completed stay,
a step that was cut off starts again in an emptied output folder, as a preempted node does. Timing of queue, preparation and
finalizing comes from `world.timing`, failures on purpose from `world.faults`.
"""

import logging
import os
import shutil
import sys
import threading
import time
from pathlib import Path

from azureml_emulator.assets import Assets
from azureml_emulator.blobs import Blobs
from azureml_emulator.faults import Fault
from azureml_emulator.operations import Interrupted
from azureml_emulator.plan import Asset, Literal, Made, Plan, Step, render
from azureml_emulator.processes import Child, start_child
from azureml_emulator.runs import TERMINAL, Runs
from azureml_emulator.wire import Json, ServiceError, now
from azureml_emulator.world import World

log = logging.getLogger(__name__)

# More would only slow each other down on one machine.
STEPS_AT_ONCE = 4
POLL_SECONDS = 0.05
LOG_TAIL_LINES = 15


class StepFailed(Exception):
    """A step ended badly; the message is for the one who reads the job's error."""


class Cancelled(Exception):
    """The job is to be cancelled."""


class Preempted(Exception):
    """The node was taken away; the step starts again."""


class Engine:
    """One job under way. `start` returns at once; `done` is set when the job is in a terminal state."""

    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._plan = plan
        self._changed = threading.Condition()
        self._active: set[str] = set()
        self._console_lock = threading.Lock()
        self.cancelled = threading.Event()
        self.done = threading.Event()

    @property
    def _runs(self) -> Runs:
        return self._world.room(Runs)

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"job {self._plan.job}", daemon=True).start()

    def _run(self) -> None:
        try:
            self._follow()
        except Interrupted:
            return
        except Exception as error:
            log.exception("job %s failed", self._plan.job)
            self._runs.fail(self._plan.job, f"The emulator failed: {type(error).__name__}: {error}", "InternalServerError")
        self.done.set()

    def _follow(self) -> None:
        job, command_job = self._plan.job, "" in self._plan.steps
        if self._runs.get(job)["status"] == "CancelRequested":
            self.cancelled.set()
        try:
            if not command_job:
                self._pause(self._world.timing.prepare_seconds)
                self._runs.set_status(job, "Running")
            self._run_steps()
        except Cancelled:
            self._wait_for_steps()
            self._cancel_all()
            return
        if not command_job:
            self._close_pipelines()

    def _run_steps(self) -> None:
        """Starts steps as their inputs get ready, until all ended. Raises: Cancelled, Interrupted."""
        go_on = bool(self._runs.get(self._plan.job).get("continue_on_step_failure"))
        while True:
            states = {path: self._status(path) for path in self._plan.steps}
            ready = [] if not go_on and "Failed" in states.values() else self._ready(states)
            for path in ready[: STEPS_AT_ONCE - len(self._active)]:
                self._start_step(self._plan.steps[path])
            with self._changed:
                if not self._active:
                    return
                self._changed.wait(POLL_SECONDS)
            self._check()

    def _ready(self, states: dict[str, str]) -> list[str]:
        """Steps that are neither ended nor under way and whose inputs are made."""
        return [
            path
            for path, step in self._plan.steps.items()
            if states[path] not in TERMINAL
            and path not in self._active
            and all(states[needed] == "Completed" for needed in self._plan.needs(step))
        ]

    def _start_step(self, step: Step) -> None:
        self._open_pipelines(step)
        with self._changed:
            self._active.add(step.path)
        name = f"step {self._plan.run_id(step.path)}"
        threading.Thread(target=self._run_step, args=(step,), name=name, daemon=True).start()

    def _open_pipelines(self, step: Step) -> None:
        """Creates the runs of the pipelines around a step."""
        parts = step.path.split("/")
        for depth in range(1, len(parts)):
            path = "/".join(parts[:depth])
            run_id = self._plan.run_id(path)
            if self._runs.find(run_id) is None:
                parent = self._plan.run_id(self._plan.parent_path(path))
                self._runs.create(run_id, kind="subgraph", parent=parent, root=self._plan.job, display_name=parts[depth - 1])
                self._runs.set_status(run_id, "Running")

    def _run_step(self, step: Step) -> None:
        run_id = self._plan.run_id(step.path)
        try:
            self._attempts(step, run_id)
        except Interrupted:
            pass
        except Cancelled:
            self._runs.set_status(run_id, "Canceled")
        except (StepFailed, ServiceError) as error:
            self._fail_step(step, run_id, str(error))
        except Exception as error:
            log.exception("step %s of job %s failed", step.path, self._plan.job)
            self._fail_step(step, run_id, f"The emulator failed: {type(error).__name__}: {error}")
        finally:
            with self._changed:
                self._active.discard(step.path)
                self._changed.notify_all()

    def _fail_step(self, step: Step, run_id: str, message: str) -> None:
        self._say(f"Run {run_id} ({step.name or self._plan.job}) failed: {message}")
        self._runs.fail(run_id, message, "UserError")

    def _attempts(self, step: Step, run_id: str) -> None:
        """Runs a step until it completes, starting again after each preemption."""
        run = self._runs.find(run_id)
        if run is None:
            run = self._runs.create(
                run_id,
                kind="step",
                parent=self._plan.run_id(self._plan.parent_path(step.path)),
                root=self._plan.job,
                display_name=step.name,
                component=str(step.component.get("name") or "azureml_anonymous"),
                target=target_name(step),
            )
            self._say(f"Submitting 1 runs, first five are: {step.name}:{run_id}")
        attempt = int(run.get("attempt") or 0)
        while True:
            attempt += 1
            self._runs.edit(run_id, {"attempt": attempt})
            fault = self._world.faults.for_step(step.name or self._plan.job)
            try:
                self._attempt(step, run_id, attempt, fault)
            except Preempted:
                self._say(f"Run {run_id} ({step.name}): the node was preempted, the step starts again.")
            else:
                break
        if step.path:
            self._say(f"Completing processing run id {run_id}.")

    def _attempt(self, step: Step, run_id: str, attempt: int, fault: Fault | None) -> None:
        timing = self._world.timing
        self._runs.set_status(run_id, "Queued")
        if fault and fault.effect == "hang_queued":
            self._world.faults.hold(fault, self.cancelled.is_set)
        self._pause(timing.queue_seconds)
        self._runs.set_status(run_id, "Preparing")
        command, folder, outputs = self._prepare(step, run_id, attempt)
        self._pause(timing.prepare_seconds)
        self._runs.set_status(run_id, "Running")
        status = self._execute(step, run_id, command, folder, fault)
        if status != 0:
            raise StepFailed(self._explain(step, run_id, status))
        self._runs.set_status(run_id, "Finalizing")
        self._pause(timing.finalize_seconds)
        self._runs.set_outputs(run_id, outputs)
        self._runs.set_status(run_id, "Completed")

    def _prepare(self, step: Step, run_id: str, attempt: int) -> tuple[str, Path, dict[str, Json]]:
        """The command line, the empty working folder with the step's code, and the places of its outputs, emptied."""
        folder = self._world.settings.home / "jobs" / run_id
        shutil.rmtree(folder, ignore_errors=True)
        assets = self._world.room(Assets)
        if step.code:
            shutil.copytree(assets.locate(step.code), folder)
        folder.mkdir(parents=True, exist_ok=True)
        inputs = {name: self._input_text(value) for name, value in step.inputs.items()}
        places = {name: self._output_place(step, name) for name in step.outputs}
        outputs: dict[str, Json] = {
            name: {"path": self._plan.folder(Made(step.path, name)), "type": kind} for name, kind in step.outputs.items()
        }
        if attempt > 1:
            with self._runs.log_file(run_id).open("a", encoding="utf-8") as stream:
                stream.write(f"-- attempt {attempt}: the step starts again, in empty output folders --\n")
        texts = {name: str(place) for name, place in places.items()}
        return render(str(step.component["command"]), inputs, texts), folder, outputs

    def _input_text(self, value: Literal | Asset | Made) -> str:
        if isinstance(value, Literal):
            return value.text
        if isinstance(value, Asset):
            return str(self._world.room(Assets).locate(value.uri))
        return str(self._blob_folder(self._plan.folder(self._plan.source(value))))

    def _output_place(self, step: Step, name: str) -> Path:
        place = self._blob_folder(self._plan.folder(Made(step.path, name)))
        shutil.rmtree(place, ignore_errors=True)
        place.unlink(missing_ok=True)
        (place.parent if step.outputs[name] == "uri_file" else place).mkdir(parents=True, exist_ok=True)
        return place

    def _blob_folder(self, path: str) -> Path:
        blobs = self._world.room(Blobs)
        return blobs.folder(blobs.default_container, path)

    def _execute(self, step: Step, run_id: str, command: str, folder: Path, fault: Fault | None) -> int:
        """The exit status of the command. Raises: Cancelled, Preempted, StepFailed by a fault, Interrupted."""
        log_file = self._runs.log_file(run_id)
        shell = ["/bin/sh", "-c", command]
        child = start_child(shell, folder=folder, env=self._environment(step, run_id), log_file=log_file)
        self._runs.edit(run_id, {"pid": child.pid})
        position = log_file.stat().st_size if log_file.exists() else 0
        try:
            self._hurt(run_id, child, fault)
            while (status := child.wait(POLL_SECONDS)) is None:
                position = self._echo(step, log_file, position)
                self._check()
        finally:
            child.stop()
            self._echo(step, log_file, position)
        return status

    def _hurt(self, run_id: str, child: Child, fault: Fault | None) -> None:
        """Does to a running step what its fault says."""
        if fault is None or fault.effect == "hang_queued":
            return
        if fault.effect == "not_responding":
            self._runs.set_status(run_id, "NotResponding")
            self._world.faults.hold(fault, self.cancelled.is_set)
            self._check()
            self._runs.set_status(run_id, "Running")
            return
        deadline = time.monotonic() + fault.seconds
        while time.monotonic() < deadline and child.wait(POLL_SECONDS) is None:
            self._check()
        if fault.effect == "preempt":
            raise Preempted
        raise StepFailed(fault.error_message())

    def _explain(self, step: Step, run_id: str, status: int) -> str:
        """What a failed command left: its exit code or signal and the end of its log."""
        how = f"exit code {status}" if status > 0 else f"killed by signal {-status}"
        if status > 128:
            how += f" (signal {status - 128})"
        lines = self._runs.log_file(run_id).read_text(encoding="utf-8", errors="replace").splitlines()
        end = "\n".join(lines[-LOG_TAIL_LINES:]) or "(empty)"
        name = step.name or self._plan.job
        return f"Execution failed. Step '{name}' ended with {how}. The end of user_logs/std_log.txt of run {run_id}:\n{end}"

    def _environment(self, step: Step, run_id: str) -> dict[str, str]:
        """The environment of a step: this interpreter as `python`, the trainer importable, and the run's MLflow access."""
        root = Path(__file__).parents[1]
        bundle = str(self._world.settings.home / "ca_bundle.pem")
        experiment = self._runs.get(self._plan.job)["experiment"]
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AZUREML_", "IDENTITY_", "MLFLOW_", "_MLFLOW_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(root),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "MLFLOW_TRACKING_URI": self._world.tracking_url,
            "MLFLOW_TRACKING_TOKEN": self._world.tokens.step_token(run_id),
            "MLFLOW_RUN_ID": run_id,
            "MLFLOW_EXPERIMENT_NAME": str(experiment),
            "AZUREML_RUN_ID": run_id,
            "AZUREML_ROOT_RUN_ID": self._plan.job,
            "REQUESTS_CA_BUNDLE": bundle,
            "SSL_CERT_FILE": bundle,
            **step.environment,
        }

    def _status(self, path: str) -> str:
        run = self._runs.find(self._plan.run_id(path))
        return str(run["status"]) if run else "NotStarted"

    def _close_pipelines(self) -> None:
        """Ends the pipelines from the innermost out, the job last."""
        failed = [path for path in self._plan.steps if self._status(path) == "Failed"]
        for path in sorted(self._plan.pipelines, key=len, reverse=True):
            if self._runs.find(self._plan.run_id(path)):
                self._close(path, [step for step in failed if step.startswith(f"{path}/")])
        if not failed:
            self._runs.set_status(self._plan.job, "Finalizing")
            self._pause(self._world.timing.finalize_seconds)
        self._close("", failed)

    def _close(self, path: str, failed: list[str]) -> None:
        run_id = self._plan.run_id(path)
        if self._runs.get(run_id)["status"] in TERMINAL:
            return
        if failed:
            errors = "\n".join(str(self._runs.get(self._plan.run_id(step))["error"]["message"]) for step in failed)
            nodes = ", ".join(f"/{step}" for step in failed)
            self._runs.fail(run_id, f"Pipeline has failed child jobs. Failed nodes: {nodes}.\n{errors}", "UserError")
            return
        made = {outer.output: self._plan.source(outer) for outer in self._plan.sources if outer.path == path}
        types = {name: self._plan.steps[source.path].outputs[source.output] for name, source in made.items()}
        self._runs.set_outputs(run_id, {name: {"path": self._plan.folder(made[name]), "type": types[name]} for name in made})
        self._runs.set_status(run_id, "Completed")

    def _cancel_all(self) -> None:
        for run_id, run in self._runs.family(self._plan.job):
            if run["status"] not in TERMINAL:
                self._runs.set_status(run_id, "Canceled")

    def _wait_for_steps(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._active)
        self._check_stopping()

    def _check(self) -> None:
        """Raises: Interrupted when the emulator is stopping, Cancelled when the job is to be cancelled."""
        self._check_stopping()
        if self.cancelled.is_set():
            raise Cancelled

    def _check_stopping(self) -> None:
        if self._world.stopping.is_set():
            raise Interrupted(503, "Interrupted", "The emulator is stopping.")

    def _pause(self, seconds: float) -> None:
        """Waits for a settable latency. Raises as `_check`."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._check()
            self.cancelled.wait(min(left, POLL_SECONDS))
        self._check()

    def _say(self, line: str) -> None:
        """Adds to the pipeline's own log, which `jobs.stream` shows."""
        self._append(f"[{now()[:19].replace('T', ' ')}Z] {line}\n")

    def _echo(self, step: Step, log_file: Path, position: int) -> int:
        """Copies what is new in a step's log to the pipeline's log, each line with the step's name; the new position."""
        with log_file.open("rb") as stream:
            stream.seek(position)
            new = stream.read()
        complete = new[: new.rfind(b"\n") + 1] if step.path else b""
        if complete:
            lines = complete.decode("utf-8", errors="replace").splitlines()
            self._append("".join(f"[{step.name}] {line}\n" for line in lines))
        return position + len(complete)

    def _append(self, text: str) -> None:
        if "" in self._plan.steps:
            return
        with self._console_lock, self._runs.console_file(self._plan.job).open("a", encoding="utf-8") as stream:
            stream.write(text)


def target_name(step: Step) -> str | None:
    """The name of the cluster a step runs on; None on serverless compute."""
    return step.compute.rpartition("/")[2] if step.compute else None

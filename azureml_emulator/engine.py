"""Runs one job: its steps in the order of their inputs, several at once when they can.

What happened is in the run documents (runs.py), so a job resumes after a restart of the emulator: steps that
completed stay, a step that was cut off starts again. One step is run by steps.py.
"""

import threading
from contextlib import suppress

from azureml_emulator.json_types import object_at
from azureml_emulator.plan import Plan, Step
from azureml_emulator.runs import TERMINAL
from azureml_emulator.steps import POLL_SECONDS, Cancelled, Console, Control, JobServices, StepFailed, StepRun
from azureml_emulator.wire import ServiceError
from azureml_emulator.world import Interrupted, run_or_report

# More would only slow each other down on one machine.
STEPS_AT_ONCE = 4


class Engine:
    """One job under way. `start` returns at once; `done` is set when the job is in a terminal state."""

    def __init__(self, services: JobServices, plan: Plan) -> None:
        self._services = services
        self._world = services.world
        self._runs = services.runs
        self._plan = plan
        self._changed = threading.Condition()
        self._active: set[str] = set()
        self._control = Control(services.world)
        self._console = Console(None if "" in plan.steps else services.runs.console_file(plan.job))
        self.done = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"job {self._plan.job}", daemon=True).start()

    def cancel(self) -> None:
        """Ends the job's processes and leaves it Canceled, soon."""
        self._control.cancelled.set()

    def _run(self) -> None:
        job = self._plan.job
        with suppress(Interrupted):
            run_or_report(
                self._follow, f"job {job}", lambda message: self._runs.fail(job, message, "InternalServerError")
            )
            self.done.set()

    def _follow(self) -> None:
        job, command_job = self._plan.job, "" in self._plan.steps
        if self._runs.get(job)["status"] == "CancelRequested":
            self.cancel()
        try:
            if not command_job:
                self._control.pause(self._world.timing.prepare_seconds)
                self._runs.set_status(job, "Running")
            self._run_steps()
            if not command_job:
                self._close_pipelines()
        except Cancelled:
            self._wait_for_steps()
            self._cancel_all()

    def _run_steps(self) -> None:
        """Starts steps as their inputs get ready, until all ended. Raises: Cancelled, Interrupted."""
        continues_on_failure = bool(self._runs.get(self._plan.job).get("continue_on_step_failure"))
        while True:
            with self._changed:
                active = set(self._active)
            # Read after `active`: the state of a step that is not in it is final.
            states = {path: self._status(path) for path in self._plan.steps}
            ready = [] if not continues_on_failure and "Failed" in states.values() else self._ready(states, active)
            if not ready and not active:
                return
            for path in ready[: STEPS_AT_ONCE - len(active)]:
                self._start_step(self._plan.steps[path])
            with self._changed:
                self._changed.wait(POLL_SECONDS)
            self._control.check()

    def _ready(self, states: dict[str, str], active: set[str]) -> list[str]:
        """Steps that are neither ended nor under way and whose inputs exist."""
        return [
            path
            for path, step in self._plan.steps.items()
            if states[path] not in TERMINAL
            and path not in active
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
                self._runs.create(
                    run_id, kind="subgraph", parent=parent, root=self._plan.job, display_name=parts[depth - 1]
                )
                self._runs.set_status(run_id, "Running")

    def _run_step(self, step: Step) -> None:
        run_id = self._plan.run_id(step.path)

        def attempt() -> None:
            try:
                StepRun(self._services, self._plan, step, self._control, self._console).run()
            except Interrupted:
                raise
            except Cancelled:
                self._runs.set_status(run_id, "Canceled")
            except (StepFailed, ServiceError) as error:
                self._fail_step(step, run_id, str(error))

        try:
            with suppress(Interrupted):
                run_or_report(
                    attempt,
                    f"step {step.path} of job {self._plan.job}",
                    lambda message: self._fail_step(step, run_id, message),
                )
        finally:
            with self._changed:
                self._active.discard(step.path)
                self._changed.notify_all()

    def _fail_step(self, step: Step, run_id: str, message: str) -> None:
        self._console.say(f"Run {run_id} ({step.name or self._plan.job}) failed: {message}")
        self._runs.fail(run_id, message, "UserError")

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
            self._control.pause(self._world.timing.finalize_seconds)
        self._close("", failed)

    def _close(self, path: str, failed: list[str]) -> None:
        run_id = self._plan.run_id(path)
        if self._runs.get(run_id)["status"] in TERMINAL:
            return
        if failed:
            errors = "\n".join(self._error(step) for step in failed)
            nodes = ", ".join(f"/{step}" for step in failed)
            self._runs.fail(run_id, f"Pipeline has failed child jobs. Failed nodes: {nodes}.\n{errors}", "UserError")
            return
        sources = {outer.output: self._plan.source(outer) for outer in self._plan.sources if outer.path == path}
        outputs = {
            name: object_at(self._runs.get(self._plan.run_id(source.path)), "outputs", source.output)
            for name, source in sources.items()
        }
        self._runs.set_outputs(run_id, outputs)
        self._runs.set_status(run_id, "Completed")

    def _error(self, path: str) -> str:
        return str(object_at(self._runs.get(self._plan.run_id(path)), "error")["message"])

    def _cancel_all(self) -> None:
        for run_id, run in self._runs.family(self._plan.job):
            if run["status"] not in TERMINAL:
                self._runs.set_status(run_id, "Canceled")

    def _wait_for_steps(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._active)
        self._control.check_stopping()

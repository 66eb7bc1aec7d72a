"""`python -m flows.finetune`: arguments to request to flow to report; the one place that prints errors.

stdout is the report, stderr the progress. Exit codes: 0 completed, 1 the run failed, 2 bad request (nothing was
created), 3 declined by a person, 130 interrupted.
"""

import contextlib
import importlib
import logging
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from retune.texts import redact, visible

if TYPE_CHECKING:
    from prefect.client.schemas import State

    from retune.report import Report, Swept
    from retune.request import Request, Workspace

# Whose errors are the cloud's, or the way to it.
CLOUD_PACKAGES = ("azure", "mlflow", "requests")
EPILOG = """\b
Exit codes: 0 completed, 1 the run failed, 2 bad request (nothing was created), 3 declined, 130 interrupted.
Sections: workspace, model, data, compute, training, serving, score, approval, limits; docs/presets.md has every key.
Example: python -m flows.finetune --preset local --set data.fraction=0.5 --set training.num_train_epochs=2
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--preset",
    default="local",
    metavar="NAME|FILE",
    show_default=True,
    help="Preset from deployments/presets, or a YAML file.",
)
@click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a key; repeatable.")
@click.option("--data", "source", metavar="SOURCE", help="Train on this, in place of the preset's section `data`.")
@click.option("--run-key", metavar="KEY", help="Run key; Azure names are derived from it. Default: the flow run's id.")
@click.option("--force", is_flag=True, help="Train even if nothing has changed since the last verified model.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
@click.option(
    "--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Also write the report to this file."
)
@click.option("--quiet", is_flag=True, help="Show only warnings and errors on stderr.")
def main(
    preset: str,
    assignments: tuple[str, ...],
    source: str | None,
    run_key: str | None,
    force: bool,
    as_json: bool,
    page: Path | None,
    quiet: bool,
) -> None:
    """Fine-tune a chat model on Azure ML, register it, ask it questions, and delete what costs money.

    With the preset `local` the run needs no account: it starts an Azure ML emulator on this machine.
    """
    from retune.errors import RetuneError
    from retune.report import refused
    from retune.request import load, parse_run_key

    with progress_on_stderr(quiet):
        try:
            with unexpected_errors_named():
                request, key = load(preset, list(assignments), source), parse_run_key(run_key)
                with servers_for(request.workspace, prefect=True):
                    report = run_flow(request, key, force=force)
        except RetuneError as error:
            report = refused(error)
        except KeyboardInterrupt:
            report = refused(RetuneError("Interrupted", "Interrupted before the flow began.", "Run it again."))
        if page:
            write_page(report, page)
    print_and_exit(report, as_json)


@contextlib.contextmanager
def unexpected_errors_named() -> Iterator[None]:
    """An error of the body that is none of Retune's becomes one: explained if it is the cloud's, else logged."""
    from retune.errors import RetuneError

    log = logging.getLogger("retune.cli")
    try:
        yield
    # Whoever read our output has gone: click ends the command.
    except (RetuneError, BrokenPipeError):
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] in CLOUD_PACKAGES:
            from retune_cloud.sdk_errors import explain

            if explained := explain(error):
                log.debug("explained", exc_info=error)
                raise explained from error
        log.exception("unexpected error")
        raise RetuneError(type(error).__name__, str(error), "See the traceback above.") from error


def write_page(report: "Report", page: Path) -> None:
    """Write the report as one HTML file; what was printed stands when that cannot be done."""
    from retune.page import to_html

    try:
        page.write_text(to_html(report), encoding="utf-8")
    except OSError as error:
        logging.getLogger("retune.cli").error("the page could not be written: %s", error)


def print_and_exit(report: "Report", as_json: bool) -> None:
    """Print the report and end the process with the status that belongs to it."""
    from retune.printing import render
    from retune.report import EXIT_CODES

    if as_json:
        print(report.to_json())
    else:
        render(report, typed())
    sys.exit(EXIT_CODES[report.status])


def typed() -> str:
    """How `retune` can be typed in the shell that started this process."""
    return "retune" if shutil.which("retune") else f"{shlex.quote(sys.executable)} -m retune"


def run(command: Callable[[], None]) -> NoReturn:
    """Run a command as all that this process is for, and end with its status.

    Prefect waits at the end of a process until its last logs and events are sent, for minutes when its server is away.
    The run's own lines are on stderr already, so this waits a few seconds only.
    """
    try:
        command()
    except SystemExit as ended:
        if "prefect" not in sys.modules:
            raise
        from retune_cli.servers import everything_is_sent

        if everything_is_sent():
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
    sys.exit()


def run_flow(request: "Request", key: str | None, *, force: bool = False) -> "Report":
    """The report of a run of the flow in this process, which has the servers that it needs."""
    import httpx
    from prefect.exceptions import PrefectException

    from flows.finetune import finetune
    from flows.recording import REPORTS
    from retune.errors import CloudError

    earlier = set(REPORTS)
    try:
        state = finetune(**dict(request), run_key=key, force=force, return_state=True)
    except (httpx.HTTPError, PrefectException) as error:
        # Prefect could not note how the run ended; the run has ended all the same.
        own = [report for name, report in REPORTS.items() if name not in earlier]
        if not own and isinstance(error, httpx.HTTPError):
            problem = f"Prefect's server gave no usable answer, so no run began: {type(error).__name__}: {error}"
            fix = "Run it again; if PREFECT_API_URL names a server, start that first."
            raise CloudError("PrefectAway", problem, fix) from error
        if not own:
            raise
        problem = f"Prefect's server was away at the end, so its page is not complete: {type(error).__name__}: {error}"
        logging.getLogger("retune.cli").warning(problem)
        return own[-1].model_copy(update={"warnings": [*own[-1].warnings, redact(problem)]})
    if report := REPORTS.get(str(state.state_details.flow_run_id)):
        return report
    raise _error_of(state)


def run_sweep(request: "Request", dry_run: bool) -> "Swept":
    """The report of a sweep of the request's workspace, in this process, which has the servers that it needs."""
    from flows.sweep import SWEPT, sweep

    state = sweep(request.workspace, dry_run, request.limits.delete_minutes, return_state=True)
    if swept := SWEPT.get(str(state.state_details.flow_run_id)):
        return swept
    raise _error_of(state)


def _error_of(state: "State") -> BaseException:
    """Why a flow run ended before it had a report."""
    error = state.result(raise_on_failure=False)
    return error if isinstance(error, BaseException) else RuntimeError(f"the flow run ended as {state.name}")


@contextlib.contextmanager
def servers_for(workspace: "Workspace", *, prefect: bool, start: bool = True) -> Iterator[None]:
    """The local servers that the body needs: an emulator where the workspace asks for one, and Prefect's API.

    An emulator is started only with `start`. The first line of progress says which workspace the body is about.
    """
    from retune_cli.servers import emulator, prefect_api

    quiet_libraries()
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with contextlib.ExitStack() as stack:
            if workspace.emulator:
                stack.enter_context(emulator(start=start))
            say_where(workspace)
            if prefect:
                stack.enter_context(prefect_api(import_what_the_flow_uses, local=workspace.emulator))
            # stdout is the report's, whatever a library prints.
            with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
                yield
            # What is left is to stop the local servers, which has a limit of its own.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGINT, interrupt)


def say_where(workspace: "Workspace") -> None:
    """Log which workspace is meant, and what names it.

    Raises:
        BadRequest: no workspace is named.
    """
    from retune_cloud.workspace import find_address, is_local

    address = find_address(workspace)
    where = "on this machine" if is_local() else f"of resource group {address.resource_group}"
    logging.getLogger("retune.workspace").info("%s %s (from %s)", address.name, where, address.found_in)


@contextlib.contextmanager
def progress_on_stderr(quiet: bool) -> Iterator[None]:
    """Lines like `02:41:07  job  submitted retune-...` from Retune's own loggers."""
    handler = logging.StreamHandler()
    handler.setFormatter(_StepFormatter())
    # The steps' own logs are for the run's page.
    handler.setLevel(logging.INFO)
    logger = logging.getLogger("retune")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _StepFormatter(logging.Formatter):
    """Time of day, the step (the logger's last name) and the message; the level where it is above INFO."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        step = record.name.rpartition(".")[2]
        text = f"{self.formatTime(record, '%H:%M:%S')}  {step:<8}  {level}{record.getMessage()}"
        text = f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text
        return visible(redact(text))


def import_what_the_flow_uses() -> None:
    """The heavy imports, which take about as long as a Prefect server's start."""
    for module in ("flows.finetune", "flows.recipe", "azure.identity", "chatdata.prepare", "jinja2"):
        importlib.import_module(module)
    from retune.errors import CloudError
    from retune_cloud.tracking import load_mlflow

    # The flow's first step does it too, and says what is wrong.
    with contextlib.suppress(CloudError):
        load_mlflow()


def quiet_libraries() -> None:
    """Keep libraries' notices off the terminal; their errors reach the report."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # Our lines before and after the flow have no run to go to.
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    for name in ("azure", "azureml", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)

"""`retune status|attach|cancel|approve|sweep`: look after runs by their key, from the cloud alone; and more.

stdout is the result, stderr the progress. Exit codes: 0 done, 1 not done, 2 bad request, 130 interrupted.
"""

import contextlib
import getpass
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING

import click

from retune_cli.running import main as run_command

if TYPE_CHECKING:
    from chatdata.cache import Entry
    from retune.request import Request

OPTIONS = (
    click.option(
        "--preset",
        metavar="NAME|FILE",
        help="Preset that names the workspace. Default: that of the environment or of config.json, else the local one.",
    ),
    click.option(
        "--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a key; repeatable."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
    click.option("--quiet", is_flag=True, help="Show only warnings and errors on stderr."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="retune", message="retune %(version)s")
def retune() -> None:
    """Check chat data, start fine-tuning runs and look after them.

    RUN is a run's key: the flow run's id unless --run-key named another; `last` is the run that this machine started
    last.
    """


retune.add_command(run_command, "run")


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Errors of the body become a message and an exit code."""
    from retune.errors import BadRequest, RetuneError
    from retune.texts import visible
    from retune_cli.running import unexpected_errors_named

    try:
        with unexpected_errors_named():
            yield
    except RetuneError as error:
        click.echo(visible(f"{error.code}: {error.message}\nNext: {error.fix}"), err=True)
        sys.exit(2 if isinstance(error, BadRequest) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def command(body: Callable[..., None], name: str | None = None) -> click.Command:
    """A command of the group with the common options, named after its body if nothing else is said."""

    @wraps(body)
    def with_errors(
        preset: str | None,
        assignments: tuple[str, ...],
        as_json: bool,
        quiet: bool,
        run: str | None = None,
        **arguments: object,
    ) -> None:
        from retune_cli.running import progress_on_stderr
        from retune_cli.target import choose

        with progress_on_stderr(quiet), report_errors():
            request, key = choose(preset, list(assignments), run)
            about = {} if key is None else {"run": key}
            body(request, as_json=as_json, **about, **arguments)

    for option in reversed(OPTIONS):
        with_errors = option(with_errors)
    return retune.command(name or body.__name__)(with_errors)


@retune.command()
@click.argument("source")
@click.option("--set", "assignments", multiple=True, metavar="DATA.KEY=VALUE", help="Override a key; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Also write an HTML page.")
@click.option("--quiet", is_flag=True, help="Show only warnings and errors on stderr.")
def data(source: str, assignments: tuple[str, ...], as_json: bool, page: Path | None, quiet: bool) -> None:
    """Check the chats of SOURCE and show what a run would train on: no run, no Azure. Exit 0: usable, 2: not."""
    from retune.request import load
    from retune_cli import checking
    from retune_cli.running import progress_on_stderr

    with progress_on_stderr(quiet), report_errors():
        request = load("local", list(assignments), source)
        checked = checking.check(request, checking.command_arguments(source, assignments))
        if page:
            checking.write_page(checked, page)
    click.echo(checked.to_json()) if as_json else checking.render(checked)
    sys.exit(0 if checked.usable else 2)


def _checked_key(context: click.Context, parameter: click.Parameter, value: str) -> str | None:
    from retune.errors import BadRequest
    from retune.request import parse_run_key

    try:
        return parse_run_key(value, "the key")
    except BadRequest as error:
        raise click.BadParameter(error.problems[0]) from error


run_argument = click.argument("run", callback=_checked_key)


@partial(command, name="list")
def list_runs(request: "Request", as_json: bool) -> None:
    """List the runs in the workspace, newest first."""
    from retune_cli.listing import read_runs, render_runs
    from retune_cli.running import servers_for

    with servers_for(request.workspace, prefect=False, start=False):
        runs = read_runs(request.workspace)
    click.echo(runs.to_json()) if as_json else render_runs(runs)


@command
@run_argument
@click.option("--follow", is_flag=True, help="Go on until the job has ended.")
def logs(request: "Request", run: str, as_json: bool, follow: bool) -> None:
    """Print the log of each step of RUN's last job."""
    from retune_cli.listing import print_logs
    from retune_cli.running import servers_for

    lines = sys.stdout
    with servers_for(request.workspace, prefect=False, start=False):
        has_job = print_logs(request.workspace, run, lines, follow=follow, as_json=as_json)
    sys.exit(0 if has_job else 1)


@command
@run_argument
def status(request: "Request", run: str, as_json: bool) -> None:
    """Show what the workspace holds of RUN: its jobs, its model, its endpoints."""
    from retune_cli.resources import read_resources, render_resources
    from retune_cli.running import servers_for

    with servers_for(request.workspace, prefect=False, start=False):
        resources = read_resources(request.workspace, run)
    click.echo(resources.to_json()) if as_json else render_resources(resources)
    sys.exit(0 if resources.exists else 1)


@command
@run_argument
def attach(request: "Request", run: str, as_json: bool) -> None:
    """Resume RUN with the request that its last job was submitted with."""
    from retune_cli.resources import read_submitted_request
    from retune_cli.running import print_and_exit, run_flow, servers_for

    with servers_for(request.workspace, prefect=True):
        submitted = read_submitted_request(request.workspace, run)
        report = run_flow(submitted.model_copy(update={"workspace": request.workspace}), run)
    print_and_exit(report, as_json)


@command
@run_argument
def cancel(request: "Request", run: str, as_json: bool) -> None:
    """Cancel RUN's job and delete its endpoints, kept ones too. If RUN waits for its job, it fails with JobCanceled."""
    from retune_cli.resources import end_resources, read_resources, render_resources
    from retune_cli.running import servers_for

    with servers_for(request.workspace, prefect=False, start=False):
        resources = read_resources(request.workspace, run)
        exists = resources.exists
        if resources.is_active:
            click.echo(resources.describe(), err=True)
            end_resources(request.workspace, run, request.limits.delete_minutes)
            resources = read_resources(request.workspace, run)
        elif exists:
            click.echo(f"Run {run} has already ended.", err=True)
    click.echo(resources.to_json()) if as_json else render_resources(resources)
    sys.exit(0 if exists else 1)


@retune.command()
@run_argument
@click.option("--reject", is_flag=True, help="The run ends as Declined; its model is not used.")
@click.option("--note", default="", metavar="TEXT", help="Why; it is kept with the model.")
@click.option("--by", default=getpass.getuser, metavar="NAME", help="Who decides. Default: the user of this machine.")
def approve(run: str, reject: bool, note: str, by: str) -> None:
    """Approve the model of RUN, which waits for approval (`approval.required`), or reject it with --reject."""
    from retune_cli.approving import answer
    from retune_cli.target import key_of

    with report_errors():
        answer(key_of(run), approve=not reject, by=by, note=note)
    click.echo("rejected" if reject else "approved")


@command
@click.option("--dry-run", is_flag=True, help="Only show what would be ended.")
def sweep(request: "Request", as_json: bool, dry_run: bool) -> None:
    """Delete endpoints and cancel jobs that no run needs. Touches only what Retune created, by tags and name."""
    from retune.printing import render_swept
    from retune_cli.running import run_sweep, servers_for

    with servers_for(request.workspace, prefect=True, start=False):
        swept = run_sweep(request, dry_run)
    click.echo(swept.to_json()) if as_json else render_swept(swept)
    sys.exit(0 if swept.clean else 1)


@retune.group()
def cache() -> None:
    """Manage the prepared data on this machine, in `.retune/data`."""


def cache_command(body: "Callable[..., list[Entry]]") -> click.Command:
    """A command of the group; it ends with 1 when an entry has a problem."""

    @wraps(body)
    def shown(as_json: bool, **arguments: object) -> None:
        from chatdata.cache import render_entries

        entries = body(**arguments)
        if as_json:
            click.echo(json.dumps([entry.model_dump(mode="json") for entry in entries], indent=2))
        else:
            render_entries(entries)
        sys.exit(1 if any(entry.problem for entry in entries) else 0)

    return cache.command(body.__name__.rstrip("_"))(
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(shown)
    )


@cache_command
def list_() -> "list[Entry]":
    """List the prepared datasets, newest first."""
    from chatdata.cache import entries

    return [*entries(check=False)]


@cache_command
def verify() -> "list[Entry]":
    """Read every file and compare it with its digest. A damaged dataset is prepared again when a run needs it."""
    from chatdata.cache import entries

    return [*entries(check=True)]


@cache_command
@click.argument("keys", nargs=-1)
def clear(keys: tuple[str, ...]) -> "list[Entry]":
    """Delete the prepared datasets with these KEYS, or all of them."""
    from chatdata.cache import clear

    return [entry.model_copy(update={"problem": None}) for entry in clear([*keys] or None)]


@retune.command()
@click.argument("block")
def notify(block: str) -> None:
    """Create or update the automations in Prefect that notify BLOCK, e.g. slack-webhook/retune."""
    from retune_cli.notify import create_automations

    with report_errors():
        for name in create_automations(block):
            click.echo(name)


@retune.group()
def local() -> None:
    """Run the scheduled deployments on this machine: Prefect's server, a worker, an emulator."""


@local.command()
@click.option("--port", default=4200, show_default=True, help="Port of the Prefect server.")
def start(port: int) -> None:
    """Start the servers in the background, create the deployments, and print the address of Prefect's page."""
    from retune.sign_in import shell_prefix
    from retune_cli import local

    with report_errors():
        stack = local.start(port)
    click.echo(f"Prefect's page  {stack.page}")
    click.echo(f"Sign in         with the PREFECT_API_AUTH_STRING from {stack.profile}")
    click.echo(f"Emulator        {stack.emulator}\nDeployments     {', '.join(stack.deployments)}")
    prefix = shell_prefix(stack.api)
    click.echo(f"Start a run     on the page, or: {prefix} prefect deployment run finetune/local")
    click.echo("Stop all        make stop-local")


@local.command("status")
def local_status() -> None:
    """Show whether the servers run, and where. Exit 0 if they do, else 1."""
    from retune_cli.stack import running

    with report_errors():
        stack = running()
    if stack is None:
        click.echo("stopped; start them: retune local start")
        sys.exit(1)
    click.echo(f"Prefect's page  {stack.page}\nEmulator        {stack.emulator}\nProcess         {stack.pid}")


@local.command()
def stop() -> None:
    """Stop the servers. Active runs end as Cancelled or Crashed; their endpoints are deleted."""
    from retune_cli import local
    from retune_cli.stack import running

    with report_errors():
        if running():
            click.echo("stopping; endpoints of active runs are deleted first", err=True)
        click.echo("stopped" if local.stop() else "nothing was running")


def main() -> None:
    """The command `retune`."""
    from retune_cli.running import run

    run(retune)

"""What scheduled runs need, on this machine: an emulator, Prefect's server with its page, a worker, the deployments.

`make deploy-local` starts a keeper, a process in a session of its own that holds the three and ends them when it is
told to, or when the worker ends. `.retune/local.json` says where they are; a lock, which the kernel drops with the
keeper, says whether they are there.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from retune import sign_in
from retune.errors import BadRequest, CloudError
from retune.folders import home
from retune.waiting import poll
from retune_cli import servers
from retune_cli.stack import Stack, running, stack_file, stack_lock

if TYPE_CHECKING:
    import psutil

ROOT = Path(__file__).resolve().parent.parent
POOL = "retune"
# The deployments that need no account.
TAGGED = ("local", "local-nightly", "every-15-minutes")
START_SECONDS, STOP_SECONDS, DEPLOY_SECONDS = 240, 120, 120
# Guards of runs that the worker took down with it have so long to delete what these held.
GUARD_SECONDS, WORKER_SECONDS = 60, 20
LOOK_SECONDS, LOCK_SECONDS = 0.2, 10


def start(port: int) -> Stack:
    """Start what is not running yet, and return when runs can be started.

    Raises:
        BadRequest: the port is taken, or this is no checkout.
        CloudError: `NotStarted`, one of the servers did not come up.
    """
    if stack := running():
        return stack
    if not (ROOT / "prefect.yaml").is_file():
        raise BadRequest([f"{ROOT} holds no prefect.yaml."], "Run it from a checkout of Retune.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BadRequest([f"Port {port} is taken."], "Name another one: make deploy-local PORT=4300.") from error
    log = home() / "local.log"
    with log.open("w", encoding="utf-8") as lines:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "retune_cli.local", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=lines,
            start_new_session=True,
        )
    with contextlib.ExitStack() as unless_running:
        unless_running.callback(keeper.terminate)
        # Until all is ready, or the process has ended.
        poll(lambda: running() or keeper.poll(), seconds=START_SECONDS, every=LOOK_SECONDS, stoppable=False)
        if not (stack := running()):
            last = " | ".join(log.read_text(encoding="utf-8").strip().split("\n")[-3:])
            raise CloudError("NotStarted", f"The local servers did not start: {last or 'no output'}", f"See {log}.")
        unless_running.pop_all()
    return stack


def stop() -> bool:
    """End the servers. False when none were running.

    Raises:
        CloudError: `NotStopped`, it is still there after the time that it has.
    """
    import psutil

    if not (stack := running()):
        return False
    try:
        keeper = psutil.Process(stack.pid)
        keeper.terminate()
    except psutil.NoSuchProcess:
        return True
    ended = poll(
        lambda: None if running() or _is_alive(keeper) else True,
        seconds=STOP_SECONDS,
        every=LOOK_SECONDS,
        stoppable=False,
    )
    if not ended:
        text = f"Process {stack.pid} has not ended the servers within {STOP_SECONDS} s."
        raise CloudError("NotStopped", text, f"See {home() / 'local.log'}, or end it: kill -9 {stack.pid}.")
    return True


def _is_alive(process: "psutil.Process") -> bool:
    """Whether a process runs; a zombie does not."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextlib.contextmanager
def known_prefect() -> Iterator[None]:
    """In the body, Prefect's clients use the API that is configured, else that of `make deploy-local`.

    Raises:
        BadRequest: there is neither.
        CloudError: as `sign_in.explained`.
    """
    from prefect.settings import PREFECT_API_URL

    if api := PREFECT_API_URL.value():
        profile = sign_in.profile_of_configured(api)
    elif stack := running():
        api, profile = stack.api, stack.profile
    else:
        fix = "Run the command exactly as the run's log prints it, or start a local server: make deploy-local."
        raise BadRequest(["No Prefect API is configured."], fix)
    with sign_in.signed_in(profile), sign_in.explained(api):
        yield


def run_stack(port: int) -> None:
    """Run the servers until this process receives SIGTERM or the worker ends."""
    signal.signal(signal.SIGTERM, _end)
    # Whoever looks whether somebody holds the lock has it for a moment.
    with stack_lock().acquire(timeout=LOCK_SECONDS), contextlib.ExitStack() as stack:
        # One that was killed has left its own.
        stack_file().unlink(missing_ok=True)
        stack.callback(stack_file().unlink, missing_ok=True)
        stack.enter_context(servers.emulator())
        page = stack.enter_context(servers.prefect_server(port))
        profile = sign_in.profile_file(port)
        stack.enter_context(sign_in.signed_in(profile))
        _deploy()
        worker = stack.enter_context(_worker())
        address = os.environ[servers.METADATA_URL].partition("/metadata")[0]
        ready = Stack(page=page, emulator=address, deployments=_deployed(), profile=profile, pid=os.getpid())
        written = stack_file().with_suffix(".part")
        written.write_text(ready.model_dump_json(indent=2), encoding="utf-8")
        written.replace(stack_file())
        print(f"worker ended with {worker.wait()}", flush=True)


def _end(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


def _deploy() -> None:
    """Create the work pool and the deployments, or bring them up to date."""
    names = [word for name in TAGGED for word in ("--name", name)]
    _prefect("work-pool", "create", "--type", "process", POOL, "--overwrite")
    _prefect("deploy", *names)


def _prefect(*words: str) -> None:
    # prefect.yaml asks the shell's variable for the folder.
    environment = os.environ | servers.QUIET_PREFECT | {"PWD": str(ROOT)}
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=DEPLOY_SECONDS)


def _deployed() -> list[str]:
    import yaml

    project = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    return [
        f"{deployment['entrypoint'].partition(':')[2]}/{deployment['name']}"
        for deployment in project["deployments"]
        if deployment["name"] in TAGGED
    ]


@contextlib.contextmanager
def _worker() -> "Iterator[subprocess.Popen[str]]":
    """A process worker that takes the runs of the pool; in the end, the guards of its runs have time to clean up."""
    import psutil

    arguments = ["-m", "prefect", "worker", "start", "--pool", POOL, "--name", "local"]
    environment = os.environ | servers.QUIET_PREFECT | {"RETUNE_HOME": str(home())}
    with servers.server("worker", arguments, environment, subprocess.DEVNULL, reads_stdin=False) as worker:
        try:
            yield worker
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                _end_runs(psutil.Process(worker.pid))


def _end_runs(worker: "psutil.Process") -> None:
    """End the worker and its runs; the guards of these see them die and clean up, for which they have time."""
    import psutil

    family = worker.children(recursive=True)
    worker.terminate()
    psutil.wait_procs([worker], timeout=WORKER_SECONDS)
    for process in family:
        if "flows.guard" not in _command_line(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    _, left = psutil.wait_procs(family, timeout=GUARD_SECONDS)
    for process in left:
        process.kill()


def _command_line(process: "psutil.Process") -> list[str]:
    import psutil

    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


if __name__ == "__main__":
    run_stack(int(sys.argv[1]))

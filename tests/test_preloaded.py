"""The commands of the tests are forks of a loaded process: they behave as new interpreters do."""

import json
import os
import signal

import preloaded
import psutil
import pytest
from commands import ROOT, Command

SHOWN = """
import atexit, json, os, signal, sys, threading
atexit.register(print, "the end", file=sys.stderr)
signals = {name: str(signal.getsignal(getattr(signal, name))) for name in ("SIGINT", "SIGTERM", "SIGCHLD", "SIGPIPE")}
leads = os.getsid(0) == os.getpgrp() == os.getpid()
shown = {"arguments": sys.argv, "folder": os.getcwd(), "path": sys.path[0], "leads": leads, "signals": signals}
shown["environment"] = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
shown["threads"], shown["module"] = threading.active_count(), __name__
print(json.dumps(shown))
sys.exit(3)
"""
SLEEPS = "import sys, time; print('ready', file=sys.stderr, flush=True); time.sleep(60)"
KINDS = pytest.mark.parametrize("fresh", [False, True], ids=["forked", "fresh"])


def test_a_program_is_shown_the_same_world(environment: dict[str, str]) -> None:
    """Arguments, environment, folder, signals and session; what is registered for the exit runs; the status arrives."""
    forked, fresh = (Command(["-c", SHOWN, "a b", "c"], environment, fresh=fresh).end() for fresh in (False, True))
    shown = [json.loads(ended.output) for ended in (forked, fresh)]
    # What the command line and MLflow set while they load.
    for name in ("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "_MLFLOW_TELEMETRY_SESSION_ID"):
        for world in shown:
            world["environment"].pop(name, None)

    assert shown[0] == shown[1]
    assert (shown[0]["arguments"], shown[0]["folder"], shown[0]["leads"]) == (["-c", "a b", "c"], str(ROOT), True)
    assert [(ended.code, ended.errors) for ended in (forked, fresh)] == [(3, "the end\n")] * 2


@KINDS
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_program_as_ever(number: signal.Signals, fresh: bool, environment: dict[str, str]) -> None:
    """The exit status names it."""
    ended = Command(["-c", SLEEPS], environment, fresh=fresh).read_until("ready").signal(number).end()

    assert ended.code == -number
    assert ("KeyboardInterrupt" in ended.errors) == (number == signal.SIGINT)


@KINDS
def test_a_program_that_fails_shows_its_traceback(fresh: bool, environment: dict[str, str]) -> None:
    """With exit status 1."""
    ended = Command(["-c", "raise ValueError('wrong')"], environment, fresh=fresh).end()

    assert (ended.code, ended.output, ended.errors.splitlines()[-1]) == (1, "", "ValueError: wrong")


def test_a_server_forks_from_one_thread_and_without_a_connection(environment: dict[str, str]) -> None:
    """A fork takes no other thread along, whose locks it would wait for, and would share a connection."""
    Command(["-c", ""], environment).end()
    # An earlier test may have left a child that has ended, which has no command line any more.
    processes = [process for process in psutil.process_iter(["ppid", "cmdline"]) if process.info["ppid"] == os.getpid()]
    servers = [process for process in processes if preloaded.__file__ in (process.info["cmdline"] or ())]

    assert servers
    assert [(server.num_threads(), server.net_connections()) for server in servers] == [(1, [])] * len(servers)


def test_a_module_runs_as_main(environment: dict[str, str]) -> None:
    """Also one that is loaded already, without a warning."""
    ended = Command(["-m", "flows.finetune", "--help"], environment).end()

    assert (ended.code, ended.errors) == (0, "")
    assert "Usage: python -m flows.finetune" in ended.output

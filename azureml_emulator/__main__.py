"""Command line of the emulator.

python -m azureml_emulator [--home DIR] [--port N] [--weights NAME=DIR ...] [--stop-with-stdin]
python -m azureml_emulator env [--home DIR]

The first runs it and prints one line of JSON when it is ready; the second prints the variables of a running one for a
shell: eval "$(python -m azureml_emulator env)".
"""

import argparse
import json
import logging
import os
import shlex
import sys
from pathlib import Path

from azureml_emulator.home import HomeInUse, NotPrivate, PortInUse, is_locked

DEFAULT_HOME = Path(".azureml_emulator")


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 after an orderly end, 1 when it fails or none runs, 2 when it cannot start."""
    options = parse(arguments)
    if options.command == "env":
        return print_environment(options.home)
    # The web server and all services take a second to import, which `env` need not pay.
    from azureml_emulator.server import serve

    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        ended = serve(options.home, options.port, dict(options.weights), stop_with_stdin=options.stop_with_stdin)
    except (HomeInUse, PortInUse, NotPrivate) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if ended else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m azureml_emulator", description="Azure ML's REST API on this machine."
    )
    parser.add_argument(
        "command", nargs="?", choices=["run", "env"], default="run", help="run (default), or print the variables"
    )
    parser.add_argument(
        "--home", type=Path, default=DEFAULT_HOME, help="where it keeps its state (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, help="port on 127.0.0.1 (default: the one used last, else any free one)")
    parser.add_argument(
        "--weights",
        type=weights,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="files of a registry model; repeatable",
    )
    parser.add_argument("--stop-with-stdin", action="store_true", help="stop when standard input closes")
    return parser.parse_args(arguments)


def weights(text: str) -> tuple[str, Path]:
    """The model name and the folder of one --weights."""
    name, separator, folder = text.partition("=")
    if not (name and separator):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=DIR, e.g. Phi-4=./weights/phi-4")
    if not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(f"the folder '{folder}' of '{name}' does not exist")
    return name, Path(folder)


def print_environment(home: Path) -> int:
    """Prints `export NAME='VALUE'` for each variable of the emulator that runs on a home."""
    file = home / "ready.json"
    if not (file.is_file() and is_locked(home)):
        text = f"No emulator runs on '{home}'. Start one: python -m azureml_emulator --home {shlex.quote(str(home))}"
        print(f"error: {text}", file=sys.stderr)
        return 1
    for name, value in json.loads(file.read_text(encoding="utf-8"))["env"].items():
        print(f"export {name}={quote(value)}")
    return 0


def quote(value: str) -> str:
    return "'" + value.replace("'", "'\"'\"'") + "'"


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that wait for a slow request must not hold up the end.
    os._exit(status)

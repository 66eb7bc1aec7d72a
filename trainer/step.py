"""The edges of every program here: its environment, its command line, its user errors.

The command line is made from a frozen dataclass: one `--name VALUE` a field, with Azure's spelling of booleans.
"""

import argparse
import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Literal, TypeVar, get_args, get_origin, get_type_hints

from trainer import cpu

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# mlflow 3.15 and peft 0.21 still use these names of transformers 4; nothing here can.
STALE_NAMES = ("`torch_dtype` is deprecated", "`is_gradient_checkpointing` is deprecated")


class StepError(ValueError):
    """A mistake in the parameters or the data; the message says how to put it right."""


def run(main: Callable[[], None]) -> None:
    """Runs a program and exits: 0, or 1 with one line on stderr for a mistake of the user's.

    A mistake of the program's own keeps its traceback. SIGTERM ends it at once, as nothing catches it.
    """
    cpu.limit_threads()
    silence_notices()
    try:
        main()
    except StepError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def silence_notices() -> None:
    """Turns off telemetry, progress bars and two known notices; every other warning is still printed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for start in STALE_NAMES:
        warnings.filterwarnings("ignore", message=start, category=FutureWarning)
    for module in ("configuration_utils", "modeling_utils", "pipelines"):
        logging.getLogger(f"transformers.{module}").addFilter(
            lambda record: not record.getMessage().startswith(STALE_NAMES)
        )


def forbid_downloads() -> None:
    """Keeps the Hugging Face libraries off the network, where everything needed lies in folders."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def parse_arguments(settings_class: type[Settings], description: str | None) -> Settings:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    hints = get_type_hints(settings_class)
    for field in dataclasses.fields(settings_class):
        required = field.default is dataclasses.MISSING
        convert, choices = converter_of(hints[field.name])
        parser.add_argument(
            f"--{field.name}",
            type=convert,
            choices=choices,
            required=required,
            default=None if required else field.default,
        )
    return settings_class(**vars(parser.parse_args()))


def converter_of(hint: type) -> tuple[Callable[[str], object], tuple[str, ...] | None]:
    if get_origin(hint) is Literal:
        return str, get_args(hint)
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    return (boolean if kinds[0] is bool else kinds[0]), None


def boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'true' nor 'false'")
    return text.lower() == "true"


def require_folder(path: Path, option: str, step_before: str) -> None:
    if not path.is_dir():
        raise StepError(
            f"--{option} names {str(path)!r}, which is no folder. Give the folder that {step_before} wrote."
        )

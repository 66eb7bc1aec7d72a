"""Naming rules of resources, and the one function that turns names into paths.

`check_names` is asked before a handler runs, so nothing is stored under a name that it refuses. Sources: azure-ai-ml's
validators, and the limits in https://learn.microsoft.com/azure/machine-learning/resource-limits-capacity
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from azureml_emulator.wire import ServiceError


@dataclass(frozen=True)
class Rule:
    """A pattern, the pattern in words, and the error of a name that breaks it: its code and its shape."""

    pattern: re.Pattern[str]
    words: str
    code: str = "UserError"
    shape: Literal["mfe", "storage"] = "mfe"


ASSET = Rule(
    re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,254}"),
    "1 to 255 letters, digits, hyphens, underscores and dots, beginning with a letter or a digit",
)
JOB = Rule(
    re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}"),
    "1 to 255 letters, digits, hyphens and underscores, beginning with a letter or a digit",
)
ENDPOINT = Rule(
    re.compile(r"[a-zA-Z][-a-zA-Z0-9]{1,30}[a-zA-Z0-9]"),
    "3 to 32 letters, digits and hyphens, beginning with a letter and not ending with a hyphen",
    code="BadArgument",
)
COMPUTE = Rule(
    re.compile(r"[a-zA-Z](?![a-zA-Z0-9-]*-\d+$)[a-zA-Z0-9-]{2,23}"),
    "3 to 24 letters, digits and hyphens, beginning with a letter and not ending with a hyphen and digits",
)
# Nodes, inputs and outputs of a job.
JOB_MEMBER = Rule(
    re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,254}"),
    "1 to 255 letters, digits, hyphens, underscores and dots, beginning with a letter, a digit or an underscore",
)
VARIABLE = Rule(
    re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,254}"),
    "1 to 255 letters, digits and underscores, not beginning with a digit",
)
CONTAINER = Rule(
    re.compile(r"[a-z0-9](?!.*--)[a-z0-9-]{1,61}[a-z0-9]"),
    "3 to 63 lower-case letters, digits and single hyphens, beginning and ending with a letter or a digit",
    code="InvalidResourceName",
    shape="storage",
)
# The rule of each route parameter that names a resource.
PARAMETERS = {
    "job": JOB,
    "run": JOB,
    "asset": ASSET,
    "version": ASSET,
    "compute": COMPUTE,
    "endpoint": ENDPOINT,
    "deployment": ENDPOINT,
    "datastore": ASSET,
    "container": CONTAINER,
}
# Control characters, and halves of characters, which UTF-8 cannot hold.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Bytes of one part of a path on every common file system, and of a whole one on Linux with room for additions.
LONGEST_PART, LONGEST_PATH = 255, 3500
# Where the service finds data, models and code; an id of the workspace has no scheme.
SCHEMES = ("azureml", "https", "http", "wasbs", "wasb", "abfss", "abfs", "adl")


def check_name(kind: str, name: str, rule: Rule) -> None:
    """Raises: ServiceError 400 for a name that breaks the rule, saying what the rule is."""
    if rule.pattern.fullmatch(name):
        return
    text = f"The {kind} name {shown(name)} is invalid; it must be {rule.words}."
    raise ServiceError(400, rule.code, text, shape=rule.shape, inner_error="BadArgument")


def check_names(parameters: Mapping[str, str]) -> None:
    """Raises: ServiceError 400 for the first path parameter that breaks the rule of its kind."""
    for kind, name in parameters.items():
        if kind in PARAMETERS:
            check_name(kind, name, PARAMETERS[kind])


def path_below(root: Path, *parts: str) -> Path:
    """The path of names below a folder. It need not exist.

    Raises: ServiceError 400 for a part that is empty, `.` or `..`, holds a slash or a control character, or is longer
    than a file name may be.
    """
    for part in parts:
        if part in ("", ".", "..") or "/" in part or not is_text(part) or len(part.encode()) > LONGEST_PART:
            text = (
                f"The name {shown(part)} cannot be part of a path: it must be 1 to {LONGEST_PART} bytes long, "
                "without slashes and control characters, and not '.' or '..'."
            )
            raise ServiceError(400, "InvalidUri", text, shape="storage")
    path = root.joinpath(*parts)
    if len(str(path).encode()) > LONGEST_PATH:
        raise ServiceError(400, "InvalidUri", f"The path of {shown(parts[-1])} is too long.", shape="storage")
    return path


def check_address(label: str, uri: str) -> None:
    """Raises: ServiceError 400 for a text that is no address or id of data, a model or code."""
    try:
        address = urlsplit(uri)
    except ValueError:
        address = urlsplit("")
    known = address.scheme.lower() in SCHEMES or uri.startswith("/subscriptions/")
    parts = unquote(address.path).split("/")
    if not known or not is_text(uri) or not is_text(unquote(uri)) or "." in parts or ".." in parts:
        text = f"The {label} {shown(uri)} is no address: begin with one of {', '.join(SCHEMES)}, without '.' and '..'."
        raise ServiceError(400, "UserError", text, inner_error="InvalidAssetUri")


def refuse_settings(owner: str, settings: Mapping[str, object], *names: str) -> None:
    """Raises: ServiceError 400 for the first of these settings that has a value: it would have no effect here."""
    for name in names:
        if settings.get(name) not in (None, False, {}, []):
            text = f"azureml_emulator does not support '{name}' of the {owner}. Leave it out."
            raise ServiceError(400, "UserError", text, inner_error="NotSupported")


def check_line(label: str, value: object, longest: int) -> None:
    """Raises: ServiceError 400 for a value that is no text of one line, or too long."""
    if value is not None and not (isinstance(value, str) and len(value) <= longest and is_text(value)):
        text = f"The {label} must be a text of at most {longest} characters, without control characters."
        raise ServiceError(400, "UserError", text, inner_error="BadArgument")


def shown(name: str) -> str:
    """A name in quotes for a message, control characters escaped, cut where it is too long to read."""
    return repr(name if len(name) <= LONGEST_PART else f"{name[:50]}...")


def is_text(value: str) -> bool:
    """Whether a text holds no control character and can be written as UTF-8."""
    return not CONTROL.search(value)


def data_container(run_id: str) -> str:
    """`dcid.<run>`, the folder of a run's logs in the artifact store; a digest where that is too long for a file."""
    name = f"dcid.{run_id}"
    return name if len(name) <= LONGEST_PART else f"dcid.{hashlib.sha256(run_id.encode()).hexdigest()}"


def artifact_path(run_id: str) -> str:
    """The folder of a run's logs in the container of the datastore workspaceartifactstore."""
    return f"ExperimentRun/{data_container(run_id)}"

"""The words of the REST surface: one call, one answer, one error, one route, and the envelopes that resources share.

Services (jobs, compute, ...) take a `Call` and return an `Answer`; only `app.py` knows the web server.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode

from azureml_emulator.json_types import Json, JsonValue
from trainer.same_origin import is_json

PROVIDER = "Microsoft.MachineLearningServices"
ARM_GROUP = "/subscriptions/{subscription}/resourceGroups/{group}/providers/" + PROVIDER
# A route template may begin with one of these names; it then stands for the whole prefix.
PREFIXES = {
    "{workspace}": ARM_GROUP + "/workspaces/{workspace}",
    "{registry}": "/mferp/managementfrontend" + ARM_GROUP + "/registries/{registry}",
}


DEEPEST_JSON = 64
# NUL and unpaired surrogates: neither files nor variables nor UTF-8 can hold them.
UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


class Null:
    """The body that is the four letters `null`, which the service sends with some 202 answers."""


NULL = Null()


@dataclass(frozen=True)
class Call:
    """One request. Header names are lower case; `path` is decoded; `upload` holds the body of a streamed route."""

    method: str
    path: str
    path_params: dict[str, str]
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    base_url: str
    principal: str = ""
    upload: Path | None = None
    raw_path: str = ""

    def document(self) -> JsonValue:
        """The body as JSON, an empty one as {}.

        Raises: ServiceError 415 for another Content-Type, 400 for a body that is not JSON or cannot be stored.
        """
        if self.body and not is_json(self.headers):
            kind = self.headers.get("content-type", "")
            text = f"The body's Content-Type is '{kind}'; it must be application/json."
            raise ServiceError(415, "UnsupportedMediaType", text)
        try:
            document = json.loads(self.body or b"{}", parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError) as error:
            raise ServiceError(400, "UserError", f"The request body is not JSON: {error}.") from error
        if is_deeper(document, DEEPEST_JSON):
            raise ServiceError(400, "UserError", f"The request body is nested deeper than {DEEPEST_JSON} levels.")
        if any(UNSTORABLE.search(text) for text in texts_of(document)):
            raise ServiceError(
                400, "UserError", "A string in the request body contains NUL or an unpaired surrogate. Remove it."
            )
        return document

    def json(self) -> Json:
        """The body as a JSON object. Raises: ServiceError as `document`, and 400 when it is no object."""
        document = self.document()
        if not isinstance(document, dict):
            raise ServiceError(400, "UserError", f"The request body is a {type(document).__name__}, not an object.")
        return document

    @property
    def api_version(self) -> str:
        return self.query.get("api-version", "")


@dataclass(frozen=True)
class Answer:
    """One response: a dict or list is sent as JSON, bytes as they are, None as an empty body, NULL as `null`.

    With `stream` the chunks are sent as the body; `headers` then carries Content-Length.
    """

    status: int = 200
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    stream: Iterator[bytes] | None = None


# Of an error: most of Azure ML, resource manager, the data plane, storage (XML).
Shape = Literal["mfe", "arm", "native", "storage"]


class ServiceError(Exception):
    """An error answer, in the `shape` of the part of the service that gives it."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        shape: Shape = "mfe",
        inner_error: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.shape = shape
        self.inner_error = inner_error
        self.headers = headers or {}


Handler = Callable[[Call], Answer]
Auth = Literal["arm", "storage", "tracking", "admin", "key", "none"]


@dataclass(frozen=True)
class Route:
    """A method and a path template such as `{workspace}/computes/{name}`; `{rest:path}` takes the remaining segments.

    `api_versions` None: the route has no api-version. `auth` "key" and "none" leave the check to the handler.
    `streamed`: the body goes to `Call.upload`, a file that the handler moves or leaves (it is then deleted).
    """

    method: str
    template: str
    api_versions: frozenset[str] | None
    handler: Handler
    auth: Auth = "arm"
    streamed: bool = False

    @property
    def full_template(self) -> str:
        for name, prefix in PREFIXES.items():
            if self.template == name or self.template.startswith(name + "/"):
                return prefix + self.template[len(name) :]
        return self.template


def texts_of(document: JsonValue) -> Iterator[str]:
    """Every text in a document, keys included."""
    waiting = [document]
    while waiting:
        match waiting.pop():
            case str(text):
                yield text
            case dict(members):
                waiting += [*members.keys(), *members.values()]
            case list(entries):
                waiting += entries


def is_deeper(document: JsonValue, levels: int) -> bool:
    """Whether lists and objects are nested in more levels than that."""
    level = [document]
    for _ in range(levels):
        level = [
            inner
            for item in level
            if isinstance(item, list | dict)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, list | dict) for item in level)


def _finite(text: str) -> float:
    """The number. Raises: ValueError for NaN and infinities, which JSON does not have."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no finite number")
    return number


def whole_number(
    name: str,
    given: object,
    default: int,
    *,
    least: int = 0,
    most: int = 10**9,
    shape: Shape = "mfe",
) -> int:
    """A number that a client gives in a query or a body; `default` where it gives none.

    Raises: ServiceError 400 for anything but digits, below `least` or above `most`.
    """
    if given in (None, ""):
        return default
    text = str(given)
    if isinstance(given, bool) or not re.fullmatch("[0-9]{1,10}", text) or not least <= int(text) <= most:
        code = "OutOfRangeQueryParameterValue" if shape == "storage" else "UserError"
        message = f"{name} must be a whole number from {least} to {most}."
        raise ServiceError(400, code, message, shape=shape)
    return int(text)


def now() -> str:
    """The present moment as Azure ML writes it: UTC with seven decimals, `2026-01-31T12:00:00.1234560+00:00`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "0+00:00"


def system_data(created_at: str, modified_at: str | None = None, *, principal: str = "local user") -> Json:
    """The systemData block of a resource."""
    return {
        "createdAt": created_at,
        "createdBy": principal,
        "createdByType": "User",
        "lastModifiedAt": modified_at or created_at,
        "lastModifiedBy": principal,
        "lastModifiedByType": "User",
    }


def page(items: list[Json], call: Call, size: int = 30) -> Json:
    """One page of `items` as {value, nextLink}; nextLink repeats the call with `$skipToken`, absent at the end."""
    start = whole_number("$skipToken", call.query.get("$skipToken") or call.query.get("$skip"), 0)
    chunk = items[start : start + size]
    answer: Json = {"value": chunk}
    if start + size < len(items):
        query = {**call.query, "$skipToken": str(start + size)}
        answer["nextLink"] = f"{call.base_url}{quote(call.path)}?{urlencode(query)}"
    return answer


def not_found(kind: str, name: str) -> ServiceError:
    """The 404 that most of Azure ML gives for a missing resource."""
    return ServiceError(404, "UserError", f"Not found: {kind} '{name}' does not exist.", inner_error="NotFoundError")

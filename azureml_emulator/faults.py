"""What goes wrong on purpose: faults set from outside, by HTTP or by a file.

A fault is one JSON object. The list in HOME/faults.json is read at start; `PUT /admin/faults` replaces the list
(counters start again), `GET /admin/faults` shows it with the number of calls seen, `DELETE /admin/faults` removes all
faults and releases whatever hangs because of one.

    on       what it hits               name matches                   effects
    request  one HTTP request           (see `method`, `path`)         status, drop, drop_after, slow, truncate,
                                                                       expired_token
    step     one start of a job's step  step name                      fail, hang_queued, not_responding, preempt, slow
    job      creation of a job          job name                       not_found
    asset    a new asset version        kind/name, e.g. models/*       not_found
    endpoint creation of an endpoint    endpoint name                  fail, hang, not_found, busy
    deployment creation of a deployment endpoint/deployment            fail, hang, not_found
    score    one scoring request        endpoint/deployment            status, empty, malformed, slow, gateway
    delete   deletion of a resource     endpoint, endpoint/deployment  fail, hang, reserved
    quota    check of a machine size    size                           refuse

Other keys:
    name        shell pattern, case-insensitive (default "*")
    method      HTTP method of a request (default: any)
    path        regular expression, searched in the request's path, case-insensitive (default: any)
    from_call   number of the first matching call that fails (default 1)
    calls       how many calls fail from there on; null = all (default 1)
    seconds     how long it is slow, hangs, is not found, busy or reserved, or how long it runs before it fails;
                0 = a hang lasts until the fault is removed (default 0)
    status      HTTP status of the effects `status` (default 500) and `gateway` (default 503)
    code        error code (default: by status)
    message     error message (default: a sentence that names the fault)
    retry_after Retry-After header in seconds (default: not sent)
    usage, limit  the quota's numbers (default 0 and 0)

Example: the third and fourth reading of an endpoint answer 429.
    {"on": "request", "method": "GET", "path": "/onlineEndpoints/[^/]+$", "from_call": 3, "calls": 2, "status": 429}
"""

import asyncio
import fnmatch
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from typing import get_args

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from azureml_emulator.identity import Identity, needs_token
from azureml_emulator.json_types import Json, number_at
from azureml_emulator.wire import NULL, Answer, Call, Route, ServiceError
from azureml_emulator.world import World

EFFECTS = {
    "request": ("status", "drop", "drop_after", "slow", "truncate", "expired_token"),
    "step": ("fail", "hang_queued", "not_responding", "preempt", "slow"),
    "job": ("not_found",),
    "asset": ("not_found",),
    "endpoint": ("fail", "hang", "not_found", "busy"),
    "deployment": ("fail", "hang", "not_found"),
    "score": ("status", "empty", "malformed", "slow", "gateway"),
    "delete": ("fail", "hang", "reserved"),
    "quota": ("refuse",),
}
# These do nothing without a duration.
TIMED = ("not_found", "busy", "reserved")
# Of a fault's fields, for messages.
TYPE_NAMES = {str: "str", int: "int", float: "float", type(None): "null"}
DEFAULT_STATUS = {"gateway": 503}

CODES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "AuthorizationFailed",
    404: "NotFound",
    408: "RequestTimeout",
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalServerError",
    503: "ServiceUnavailable",
}


@dataclass(frozen=True)
class Fault:
    """One fault, as the module's text describes it."""

    on: str
    effect: str = ""
    name: str = "*"
    method: str | None = None
    path: str | None = None
    from_call: int = 1
    calls: int | None = 1
    seconds: float = 0
    status: int = 500
    code: str | None = None
    message: str = ""
    retry_after: float | None = None
    usage: int = 0
    limit: int = 0

    def hits_name(self, name: str) -> bool:
        return fnmatch.fnmatchcase(name.lower(), self.name.lower())

    def hits_request(self, method: str, path: str) -> bool:
        method_fits = self.method is None or self.method.upper() == method.upper()
        return method_fits and (self.path is None or re.search(self.path, path, re.IGNORECASE) is not None)

    def hits_call(self, number: int) -> bool:
        last = None if self.calls is None else self.from_call + self.calls
        return number >= self.from_call and (last is None or number < last)

    def error_code(self) -> str:
        return self.code or CODES.get(self.status, "InternalServerError")

    def error_message(self) -> str:
        return (
            self.message
            or f"This failure was asked for: fault '{self.effect}' on {self.on} '{self.path or self.name}'."
        )


class Faults:
    """The faults of one emulator, safe to ask from several threads."""

    def __init__(self, world: World, identity: Identity) -> None:
        self._world = world
        self._identity = identity
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._seen: list[int] = []
        file = world.settings.home / "faults.json"
        if file.exists():
            self.replace(json.loads(file.read_text(encoding="utf-8")), source=str(file))

    def replace(self, documents: object, *, source: str = "the request") -> None:
        """Puts these faults in place of the present ones.

        Raises: ServiceError 400 that names every wrong entry; then nothing is changed.
        """
        if not isinstance(documents, list):
            raise ServiceError(400, "BadArgument", f"The faults in {source} must be a JSON list of objects.")
        problems = [text for number, document in enumerate(documents) for text in _problems(number, document)]
        if problems:
            raise ServiceError(400, "BadArgument", f"The faults in {source} were not taken: " + " ".join(problems))
        with self._lock:
            self._faults = [_parsed(document) for document in documents]
            self._seen = [0] * len(self._faults)

    def around(self, call: Call, route: Route) -> Answer:
        """The handler's answer, or what the fault of this request makes of it. Admin calls are never faulted.

        Raises: ServiceError, from the handler or as the fault's effect.
        """
        handler = route.handler
        fault = None if route.auth == "admin" else self.on_request(call, route)
        if fault is None:
            return handler(call)
        if fault.effect == "expired_token":
            raise self._identity.expired(route)
        if fault.effect == "status":
            headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
            raise ServiceError(fault.status, fault.error_code(), fault.error_message(), headers=headers)
        if fault.effect == "drop":
            return CutAnswer(status=0)
        if fault.effect == "slow":
            self.hold(fault, lambda: False)
            return handler(call)
        answer = handler(call)
        if fault.effect == "drop_after":
            return CutAnswer(status=0)
        body = answer.body if answer.stream is None else b"".join(answer.stream)
        return CutAnswer(answer.status, body, answer.headers)

    def on_request(self, call: Call, route: Route) -> Fault | None:
        """The fault of this HTTP request, if any; counts the call."""
        token = needs_token(call, route)
        return self._take(
            "request",
            lambda fault: fault.hits_request(call.method, call.path) and (token or fault.effect != "expired_token"),
        )

    def take(self, on: str, name: str, *effects: str) -> Fault | None:
        """The fault of this event (see the module's table), if any, of these effects if any are named; counts it."""
        return self._take(on, lambda fault: fault.hits_name(name) and (not effects or fault.effect in effects))

    def for_step(self, name: str) -> Fault | None:
        return self.take("step", name)

    def until(self, on: str, name: str, effect: str) -> float:
        """When the effect on a resource created or deleted now ends, in seconds since 1970; 0 without a fault."""
        fault = self.take(on, name, effect)
        return time.time() + fault.seconds if fault else 0.0

    def hinder_deletion(self, key: str, released: Callable[[], bool]) -> ServiceError | None:
        """Lets a deletion hang if a fault says so; the error of one that is to fail."""
        fault = self.take("delete", key, "fail", "hang")
        if fault and (fault.effect == "hang" or fault.seconds):
            self.hold(fault, released)
        if fault and fault.effect == "fail":
            return ServiceError(fault.status, fault.error_code(), fault.error_message())
        return None

    def hold(self, fault: Fault, released: Callable[[], bool]) -> None:
        """Returns when the fault's `seconds` are over, the fault was removed, or `released()` is true.

        Raises: Interrupted when the emulator is stopping.
        """
        deadline = time.monotonic() + fault.seconds if fault.seconds else None
        while not released() and self._present(fault):
            if deadline is not None and time.monotonic() >= deadline:
                return
            self._world.pause(0.05)

    def _present(self, fault: Fault) -> bool:
        with self._lock:
            return any(fault is present for present in self._faults)

    def _take(self, on: str, hits: Callable[[Fault], bool]) -> Fault | None:
        taken: Fault | None = None
        with self._lock:
            for index, fault in enumerate(self._faults):
                if fault.on == on and hits(fault):
                    self._seen[index] += 1
                    if taken is None and fault.hits_call(self._seen[index]):
                        taken = fault
        return taken

    def list_faults(self, call: Call) -> Answer:
        with self._lock:
            return Answer(
                body=[{**asdict(fault), "seen": seen} for fault, seen in zip(self._faults, self._seen, strict=True)]
            )

    def put_faults(self, call: Call) -> Answer:
        self.replace(call.document())
        return self.list_faults(call)

    def delete_faults(self, call: Call) -> Answer:
        self.replace([])
        return Answer(status=204)


@dataclass(frozen=True)
class CutAnswer(Answer):
    """An answer whose connection is closed too early: with status 0 before anything, else in the middle of the body."""


class CutResponse(Response):
    """The response of a CutAnswer. The server's own `abort` comes through the scope, see `with_abort`."""

    def __init__(self, answer: CutAnswer) -> None:
        content = (
            answer.body if isinstance(answer.body, bytes) else json.dumps(None if answer.body is NULL else answer.body)
        )
        super().__init__(
            content, answer.status or 200, {"Content-Type": "application/json; charset=utf-8", **answer.headers}
        )
        self._silent = answer.status == 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._silent:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            half = self.body[: len(self.body) // 2]
            await send({"type": "http.response.body", "body": half, "more_body": True})
            await asyncio.sleep(0.05)  # lets the half leave before the connection is cut
        scope["abort_connection"]()
        await asyncio.sleep(0.05)  # lets the server see the end, else it would try to answer 500


def is_hidden(document: Json) -> bool:
    """Whether a resource is not to be found yet, see the effect `not_found`."""
    return number_at(document, "hidden_until") > time.time()


def with_abort(app: ASGIApp) -> ASGIApp:
    """The application with `scope["abort_connection"]`, which closes the client's connection without an answer."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # ASGI has no word for it: uvicorn's `send` is a method of the object that owns the transport.
            scope["abort_connection"] = send.__self__.transport.abort  # type: ignore[attr-defined]
        await app(scope, receive, send)

    return run


def _problems(number: int, document: object) -> list[str]:
    if not isinstance(document, dict):
        return [f"Fault {number} is not an object."]
    known = {field.name for field in fields(Fault)}
    wrong = [
        f"Fault {number} has the unknown key '{key}'; known: {', '.join(sorted(known))}."
        for key in document
        if key not in known
    ]
    wrong += _wrong_values(number, document)
    effects = EFFECTS.get(str(document.get("on")))
    if effects is None:
        return [*wrong, f"Fault {number} is on '{document.get('on')}'; choose one of {', '.join(EFFECTS)}."]
    effect = document.get("effect", effects[0])
    if effect not in effects:
        wrong.append(
            f"Fault {number} has the effect '{effect}'; on '{document['on']}' choose one of {', '.join(effects)}."
        )
    elif effect in TIMED and not document.get("seconds"):
        wrong.append(f"Fault {number} has the effect '{effect}', which needs 'seconds' above 0.")
    try:
        re.compile(str(document.get("path") or ""))
    except re.error as error:
        wrong.append(f"In fault {number} the path '{document['path']}' is no regular expression: {error}.")
    return wrong


def _wrong_values(number: int, document: dict) -> list[str]:
    """The problems of the values of known keys: each must be of its field's type."""
    wrong = []
    for field in fields(Fault):
        value = document.get(field.name, field.default)
        if value is MISSING:
            continue
        kinds = get_args(field.type) or (field.type,)
        # JSON writes a whole number for seconds too.
        fits = type(value) in kinds or (float in kinds and type(value) is int)
        if not fits or (isinstance(value, int | float) and value < 0):
            names = " or ".join(TYPE_NAMES[kind] for kind in kinds)
            wrong.append(f"In fault {number} '{field.name}' is {json.dumps(value)}; it must be {names}, not negative.")
    return wrong


def _parsed(document: dict) -> Fault:
    effect = document.get("effect", EFFECTS[document["on"]][0])
    return Fault(**{"status": DEFAULT_STATUS.get(effect, 500), **document, "effect": effect})

"""The one adapter between the web server and the services: it matches the route, admits the call and writes the answer.

Order of a request: origin, route, token, api-version, workspace, names; only then its body is read, for which there are
limits; then fault and handler. An unknown route answers 501 and an unknown api-version 400, both naming what was asked;
nothing is guessed.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.parse import unquote
from uuid import uuid4
from xml.sax.saxutils import escape

import anyio
from anyio.to_thread import run_sync
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from azureml_emulator.blobs import STORAGE_VERSION
from azureml_emulator.body_types import check_types
from azureml_emulator.faults import CutAnswer, CutResponse, with_abort
from azureml_emulator.journal import Journal
from azureml_emulator.json_types import Json
from azureml_emulator.names import check_names
from azureml_emulator.routes import route_table
from azureml_emulator.services import build_services
from azureml_emulator.wire import NULL, Answer, Call, Route, ServiceError, Shape, now
from azureml_emulator.world import World
from trainer.same_origin import refusal

log = logging.getLogger(__name__)

# A scoring call holds its thread until the model answers; the limit only guards against a flood.
THREADS = 200
# Of characters: names of several hundred, in a blob's path of several folders.
LONGEST_PATH = 4096
# Resource manager takes 4 MB, the storage service 5,000 MiB at once.
LARGEST_BODY_BYTES, LARGEST_UPLOAD_BYTES = 4 << 20, 5000 << 20
# Of a request that needs no token.
LARGEST_OPEN_BYTES = 0
# The longest wait for the next part of a body.
BODY_SECONDS = 30
# Of an answer after which the rest of the request's body is not read.
CLOSE_AFTER = {"Connection": "close"}


@dataclass(frozen=True)
class Entry:
    """A route ready to be matched."""

    route: Route
    pattern: re.Pattern[str]


class Application:
    """The services of one world behind one ASGI application, `web`."""

    def __init__(self, world: World, journal: Journal) -> None:
        self._world = world
        self._journal = journal
        self._services = build_services(world)
        self._entries = compile_routes(route_table(self._services))
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._drafts = world.settings.home / "uploads"
        self._drafts.mkdir(exist_ok=True)
        self.web = with_abort(self._web)

    @property
    def routes(self) -> list[Route]:
        """Every route, the most literal first."""
        return [entry.route for entry in self._entries]

    def recover(self) -> None:
        """Resumes what the last process left: called once, when the address is already bound."""
        for draft in self._drafts.iterdir():
            draft.unlink()
        self._services.recover()

    def stop(self) -> None:
        self._services.stop()

    async def _web(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application: every path and every method comes here."""
        response = await self._serve(Request(scope, receive))
        await response(scope, receive, send)

    async def _serve(self, request: Request) -> Response:
        started = time.monotonic()
        call, route = self._read(request)
        try:
            matched = self._matched_route(call, route)
            call = await run_sync(self._admit, call, matched, limiter=self._limiter)
            call = await self._with_body(request, call, matched)
            answer = await run_sync(self._services.faults.around, call, matched, limiter=self._limiter)
        except ClientDisconnect:
            return Response(status_code=400)
        except ServiceError as error:
            answer = error_answer(error, self._world.settings.location)
        except Exception as error:
            log.exception("%s %s failed", call.method, call.path)
            failure = ServiceError(500, "InternalServerError", f"The emulator failed: {type(error).__name__}: {error}")
            answer = error_answer(failure, self._world.settings.location)
        finally:
            if call.upload:
                call.upload.unlink(missing_ok=True)
        self._journal.keep_exchange(call, route, answer)
        self._journal.write(call, answer, time.monotonic() - started)
        return to_response(answer)

    def _read(self, request: Request) -> tuple[Call, Route | None]:
        """The request without its body, and its route."""
        raw_path = request.scope.get("raw_path", b"").decode("ascii") or request.url.path
        path = unquote(raw_path)
        # Patterns are not tried on what no client sends: that would take minutes.
        entry, params = None, {}
        if len(path) <= LONGEST_PATH:
            entry, params = self._find(request.method, path, request.query_params.get("api-version"))
        call = Call(
            method=request.method,
            path=path,
            path_params=params,
            query=dict(request.query_params),
            headers=dict(request.headers),
            body=b"",
            base_url=self._world.url,
            raw_path=raw_path,
        )
        return call, entry.route if entry else None

    def _matched_route(self, call: Call, route: Route | None) -> Route:
        """The call's route. Raises: ServiceError for a foreign web page, a path that is too long, an unknown route."""
        if reason := refusal(call.headers, scheme="https", port=self._world.settings.port):
            raise ServiceError(403, "ForeignOrigin", reason, shape="arm")
        if len(call.path) > LONGEST_PATH:
            raise ServiceError(414, "UriTooLong", f"The path is longer than {LONGEST_PATH} characters.", shape="arm")
        if route is None:
            raise unknown_route(call)
        return route

    def _admit(self, call: Call, route: Route) -> Call:
        """The call with its principal. Raises: ServiceError for a call that need not be read any further."""
        call = self._services.identity.admit(call, route)
        check_version(call, route)
        self._services.workspace.check(call)
        check_names(call.path_params)
        return call

    async def _with_body(self, request: Request, call: Call, route: Route) -> Call:
        """The call with its body: in memory, or of a streamed route in a file.

        Raises: ServiceError 413 for a body that is too large, 408 for a body that stops arriving, 400 for a body whose
        parts have other types than the route's.
        """
        most = LARGEST_OPEN_BYTES if route.auth == "none" else LARGEST_BODY_BYTES
        chunks = limited(request, LARGEST_UPLOAD_BYTES if route.streamed else most, shape_of(route))
        if not route.streamed:
            call = replace(call, body=b"".join([chunk async for chunk in chunks]))
            check_types(call, route)
            return call
        with ExitStack() as unless_complete, NamedTemporaryFile(dir=self._drafts, delete=False) as file:
            draft = Path(file.name)
            unless_complete.callback(draft.unlink)
            async for chunk in chunks:
                await run_sync(file.write, chunk)
            unless_complete.pop_all()
        return replace(call, upload=draft)

    def _find(self, method: str, path: str, version: str | None) -> tuple[Entry | None, dict[str, str]]:
        """The route of a path; among several, the one that has the api-version."""
        other_version: tuple[Entry | None, dict[str, str]] = (None, {})
        for entry in self._entries:
            match = entry.pattern.fullmatch(path) if entry.route.method == method else None
            if match is None:
                continue
            if entry.route.api_versions is None or version in entry.route.api_versions:
                return entry, match.groupdict()
            if other_version[0] is None:
                other_version = (entry, match.groupdict())
        return other_version


async def limited(request: Request, most: int, shape: Shape) -> AsyncIterator[bytes]:
    """The parts of a request's body. Raises: ServiceError 413 above `most` bytes, 408 when none comes for too long."""
    too_large = ServiceError(
        413,
        "RequestBodyTooLarge" if shape == "storage" else "RequestEntityTooLarge",
        f"The request body is too large and exceeds the maximum permissible limit of {most} bytes.",
        shape=shape,
        headers=CLOSE_AFTER,
    )
    if int(request.headers.get("content-length") or 0) > most:
        raise too_large
    size, parts = 0, request.stream()
    while True:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                part = await anext(parts, None)
        except TimeoutError as error:
            text = f"Nothing of the request body came for {BODY_SECONDS} s."
            raise ServiceError(408, "RequestTimeout", text, shape=shape, headers=CLOSE_AFTER) from error
        if part is None:
            return
        size += len(part)
        if size > most:
            raise too_large
        yield part


def shape_of(route: Route) -> Shape:
    """How the part of the service that answers a route writes its errors."""
    return "storage" if route.auth == "storage" else "arm"


def compile_routes(routes: list[Route]) -> list[Entry]:
    """Routes with their patterns, the most literal first so that `versions/latest` would win over `versions/{v}`."""
    entries = []
    for route in routes:
        pattern = re.sub(r"\\\{(\w+):path\\\}", r"(?P<\1>.*)", re.escape(route.full_template))
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", pattern)
        # Resource manager paths are case-insensitive, names of blobs are not.
        flags = re.DOTALL | (re.IGNORECASE if route.auth == "arm" else re.NOFLAG)
        entries.append(Entry(route, re.compile(pattern, flags)))
    return sorted(entries, key=lambda entry: (":path}" in entry.route.template, entry.route.full_template.count("{")))


def check_version(call: Call, route: Route) -> None:
    """Raises: ServiceError 400 when the route has api-versions and the call names none of them."""
    if route.api_versions is None or call.api_version in route.api_versions:
        return
    if not call.api_version:
        text = "The api-version query parameter (?api-version=) is required for all requests."
        raise ServiceError(400, "MissingApiVersionParameter", text, shape="arm")
    text = (
        f"The api-version '{call.api_version}' is not supported for '{call.method} {call.path}'. "
        f"The supported api-versions are '{', '.join(sorted(route.api_versions))}'."
    )
    raise ServiceError(400, "NoRegisteredProviderFound", text, shape="arm")


def unknown_route(call: Call) -> ServiceError:
    text = f"azureml_emulator has no route for '{call.method} {call.path}' (api-version '{call.api_version}')."
    return ServiceError(501, "UnknownRoute", text, shape="arm")


def error_answer(error: ServiceError, location: str) -> Answer:
    """An error in the shape of the part of the service that it stands for."""
    correlation: Json = {"operation": uuid4().hex, "request": uuid4().hex[:16]}
    body: Json = {"code": error.code, "message": error.message}
    headers = {**error.headers, "x-ms-response-type": "error"}
    if error.shape == "mfe":
        info: list[tuple[str, Json]] = [
            ("ComponentName", {"value": "managementfrontend"}),
            ("Correlation", {"value": correlation}),
            ("Environment", {"value": location}),
            ("Location", {"value": location}),
            ("Time", {"value": now()}),
        ]
        if error.inner_error:
            info.append(("InnerError", {"value": {"code": error.inner_error, "innerError": None}}))
        body |= {"details": [], "additionalInfo": [{"type": kind, "info": value} for kind, value in info]}
        return Answer(error.status, {"error": body}, headers)
    if error.shape == "native":
        body |= {"severity": None, "messageFormat": None, "innerError": None, "details": [], "additionalInfo": None}
        document: Json = {"error": body, "correlation": correlation, "environment": location, "location": location}
        document |= {"time": now(), "componentName": "managementfrontend", "statusCode": error.status}
        return Answer(error.status, document, headers)
    if error.shape == "storage":
        head = "<?xml version='1.0' encoding='utf-8'?>"
        text = f"{head}<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>"
        kind = {"Content-Type": "application/xml", "x-ms-error-code": error.code, "x-ms-version": STORAGE_VERSION}
        return Answer(error.status, text.encode(), error.headers | kind)
    return Answer(error.status, {"error": body}, error.headers | {"x-ms-failure-cause": "gateway"})


def to_response(answer: Answer) -> Response:
    if isinstance(answer, CutAnswer):
        return CutResponse(answer)
    headers = {"x-ms-request-id": uuid4().hex, **answer.headers}
    if answer.stream is not None:
        chunks: AsyncIterator[bytes] = iterate_in_threadpool(answer.stream)
        return StreamingResponse(chunks, answer.status, headers)
    if answer.body is None:
        return Response(status_code=answer.status, headers=headers)
    if isinstance(answer.body, bytes):
        return Response(answer.body, answer.status, headers)
    content = "null" if answer.body is NULL else json.dumps(answer.body)
    return Response(content, answer.status, {"Content-Type": "application/json; charset=utf-8", **headers})

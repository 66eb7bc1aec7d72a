"""How benchmarks.hub answers: two ports, their connections, the faults, and the log of what was asked and sent."""

import contextlib
import fnmatch
import json
import os
import re
import select
import socket
import struct
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from benchmarks.hub_data import Refused
from benchmarks.hub_routes import ROUTES, Answer, Call, Site, as_json

IDLE_SECONDS = 60
# How long the list of requests waits for the answers under way.
SETTLE_SECONDS = 1
CONNECTIONS = 64
BODY_LIMIT = 1 << 20
SLICE = 4 << 20
# What a client that goes away has not read is at most this much, which the log counts as sent.
SEND_BUFFER = 512 << 10


@dataclass(frozen=True)
class Fault:
    """What happens to `calls` requests (None: all) whose path fits the shell pattern; the first that fits is taken.

    `drop`: the connection ends without an answer; `cut_after`: it ends after so many bytes of the body, with `reset`
    by RST in both cases. `short_by`: the answer is so many bytes too short and says nothing of it. `rate_limit`:
    seconds in the hub's RateLimit headers. `delay_seconds` comes before whatever else happens.
    """

    path: str
    method: str = "*"
    calls: int | None = 1
    status: int | None = None
    retry_after: int | None = None
    rate_limit: int | None = None
    drop: bool = False
    reset: bool = False
    cut_after: int | None = None
    short_by: int = 0
    bytes_per_second: int | None = None
    delay_seconds: float = 0


@dataclass
class Request:
    """One line of the log; `status` is 0 while there is no answer, `bytes` are those of the body sent so far."""

    method: str
    path: str
    query: str
    range: str
    status: int = 0
    bytes: int = 0


class Traffic:
    """The faults and the log, which the threads share."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._faults: list[tuple[Fault, list[int]]] = []
        self._log: list[Request] = []
        self._open = 0

    @contextlib.contextmanager
    def logged(self, request: Request) -> Iterator[None]:
        with self._changed:
            self._log.append(request)
            self._open += 1
        try:
            yield
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def log(self) -> list[dict[str, object]]:
        """Every request so far, with those under way as they stand after SETTLE_SECONDS."""
        with self._changed:
            self._changed.wait_for(lambda: self._open == 0, SETTLE_SECONDS)
            return [asdict(request) for request in self._log]

    def add_fault(self, fault: Fault) -> None:
        with self._changed:
            self._faults.append((fault, [0]))

    def fault_of(self, method: str, path: str) -> Fault:
        """The fault that this request takes; one without effect where none fits."""
        with self._changed:
            for fault, taken in self._faults:
                fits = fnmatch.fnmatchcase(path, fault.path) and fnmatch.fnmatchcase(method, fault.method)
                if fits and (fault.calls is None or taken[0] < fault.calls):
                    taken[0] += 1
                    return fault
        return Fault("")

    def reset(self) -> None:
        with self._changed:
            self._faults.clear()
            self._log.clear()


class Handler(BaseHTTPRequestHandler):
    """One connection: routes its requests, applies faults, writes the log."""

    protocol_version = "HTTP/1.1"
    server_version = "Hub"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    server: "Server"

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        super().setup()

    def handle_request(self) -> None:
        """One request, whatever its method."""
        parts = urlsplit(self.path)
        body = self.rfile.read(min(BODY_LIMIT, int(self.headers.get("Content-Length") or 0)))
        if parts.path.startswith("/admin") and not parts.netloc:
            answer = admin(self.server.site, self.server.traffic, self.command, parts.path, body)
            self._send(answer, Fault(""), Request("", "", "", ""))
            return
        # What a client asks of another host through the proxy has the whole address in its first line.
        path = self.path if parts.netloc or self.command == "CONNECT" else parts.path
        request = Request(self.command, path, parts.query, self.headers.get("Range") or "")
        with self.server.traffic.logged(request):
            fault = self.server.traffic.fault_of(self.command, path)
            if fault.delay_seconds:
                self.server.stopping.wait(fault.delay_seconds)
            if fault.drop:
                self._cut(fault)
                return
            self._send(faulty(fault) if fault.status else self._answer(request, body), fault, request)

    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT = do_CONNECT = handle_request  # noqa: N815

    def _answer(self, request: Request, body: bytes) -> Answer:
        try:
            return self._routed(request, body)
        except Refused as refused:
            headers = {"X-Error-Message": refused.message, **refused.headers}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            return as_json({"error": refused.message}, refused.status, **headers)

    def _routed(self, request: Request, body: bytes) -> Answer:
        routes = ROUTES[-1:] if self.server.is_cdn else ROUTES[:-1]
        for methods, pattern, handler in routes:
            match = re.fullmatch(pattern, request.path)
            if match and request.method in methods.split("|"):
                return handler(self.server.site, self._call(match, request, body))
        if "://" in request.path or request.method == "CONNECT":
            raise Refused(403, "", f"This hub passes nothing on: {request.method} {request.path}")
        raise Refused(404, "", f"This hub has no route for {request.method} {request.path}")

    def _call(self, match: re.Match[str], request: Request, body: bytes) -> Call:
        return Call(
            groups={name: unquote(text) for name, text in match.groupdict().items() if text is not None}
            | {name: "" for name, text in match.groupdict().items() if text is None},
            query=parse_qs(request.query),
            address=request.path,
            token=(self.headers.get("Authorization") or "").removeprefix("Bearer ").strip(),
            range=request.range,
            body=parsed_body(body, self.headers.get("Content-Type") or ""),
        )

    def _send(self, answer: Answer, fault: Fault, request: Request) -> None:
        """The head, and the body unless the method is HEAD."""
        whole = answer.length if answer.blob else len(answer.body)
        length = max(0, whole - fault.short_by)
        request.status = answer.status
        self.log_request(answer.status)
        self.send_response_only(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(length), "X-Request-Id": uuid.uuid4().hex}.items():
            # Names that a client asked for come back in messages, and may hold anything.
            self.send_header(name, re.sub(r"[^ -~]", "?", value))
        if fault.cut_after is not None:
            length = min(length, fault.cut_after)
        self._write_body(answer, 0 if self.command == "HEAD" else length, fault, request)
        if fault.cut_after is not None:
            self._cut(fault)

    def _write_body(self, answer: Answer, length: int, fault: Fault, request: Request) -> None:
        """So many bytes of the body after the head, which `send_header` has kept."""
        speed = fault.bytes_per_second
        step = SLICE if speed is None else max(1, speed // 10)
        pause = 0.0 if speed is None else step / speed
        if answer.blob is None:
            self.end_headers()
            for start in range(0, length, step):
                part = answer.body[start : min(length, start + step)]
                self.wfile.write(part)
                request.bytes += len(part)
                self.server.stopping.wait(pause)
            return
        with answer.blob.path.open("rb") as file:
            self.end_headers()
            start, end = answer.start, answer.start + length
            while start < end:
                sent = self._send_file(file.fileno(), start, min(step, end - start))
                start += sent
                request.bytes += sent
                self.server.stopping.wait(pause)

    def _send_file(self, file: int, start: int, count: int) -> int:
        """How many bytes the kernel took.

        Raises: TimeoutError, the client reads nothing. EOFError, the file became shorter.
        """
        _, writable, _ = select.select([], [self.connection], [], IDLE_SECONDS)
        if not writable:
            raise TimeoutError(f"{self.client_address} read nothing for {IDLE_SECONDS} s")
        try:
            sent = os.sendfile(self.connection.fileno(), file, start, count)
        except BlockingIOError:
            return 0
        if sent == 0:
            raise EOFError(f"{self.path}: the file ends before byte {start}")
        return sent

    def _cut(self, fault: Fault) -> None:
        """The end of the connection: in order, or with `reset` by a packet that discards what is under way."""
        self.close_connection = True
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the log is GET /admin/requests."""


def parsed_body(body: bytes, kind: str) -> dict[str, list[str]]:
    """A form, or a JSON object with texts and lists of texts."""
    if not kind.startswith("application/json"):
        return parse_qs(body.decode())
    document = json.loads(body)
    return {name: value if isinstance(value, list) else [str(value)] for name, value in document.items()}


def faulty(fault: Fault) -> Answer:
    """The error that a fault asks for."""
    headers = {}
    if fault.retry_after is not None:
        headers["Retry-After"] = str(fault.retry_after)
    if fault.rate_limit is not None:
        headers["RateLimit"] = f'"api";r=0;t={fault.rate_limit}'
        headers["RateLimit-Policy"] = '"fixed window";"api";q=1000;w=300'
    return as_json({"error": HTTPStatus(fault.status).phrase}, fault.status, **headers)


def admin(site: Site, traffic: Traffic, method: str, path: str, body: bytes) -> Answer:
    """The benchmark's own calls."""
    document = json.loads(body) if body else {}
    match method, path:
        case "GET", "/admin/requests":
            return as_json(traffic.log())
        case "POST", "/admin/faults":
            if unknown := sorted(set(document) - {field.name for field in fields(Fault)}):
                return as_json({"error": f"A fault has no field '{unknown[0]}'."}, 400)
            traffic.add_fault(Fault(**document))
            return as_json({})
        case "POST", "/admin/commits":
            if document["name"] not in site.data_sets.names():
                return as_json({"error": f"There is no data set '{document['name']}'."}, 404)
            return as_json({"commit": site.data_sets.add_commit(document["name"], Path(document["folder"])).id})
        case "DELETE", "/admin":
            traffic.reset()
            return as_json({})
    return as_json({"error": f"There is no {method} {path}."}, 404)


class Server(ThreadingHTTPServer):
    """One port; connections beyond CONNECTIONS wait until others end."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, site: Site, traffic: Traffic, port: int, *, is_cdn: bool) -> None:
        self.site = site
        self.traffic = traffic
        self.is_cdn = is_cdn
        self.stopping = threading.Event()
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(("127.0.0.1", port), Handler)

    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        self._slots.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no error of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

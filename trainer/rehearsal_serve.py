"""The program of an online deployment of a rehearsal's model: the contract of trainer.serve at a fraction of its start.

Prints {"port": N} once it listens. `GET /` is 503 until the model is loaded, then 200. `POST /score` takes the same two
payloads, with the same refusals. Standard library only, so that it starts at once.

    python -m trainer.rehearsal_serve --model mlflow_model_folder
"""

import json
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from trainer import rehearsal, step
from trainer.chat_request import NOT_JSON, BadRequest, parse_request
from trainer.rehearsal import Bigram
from trainer.same_origin import is_json, refusal
from trainer.step import StepError


@dataclass(frozen=True, kw_only=True)
class Settings:
    model: Path
    host: str = "127.0.0.1"
    port: int = 0


class Server(ThreadingHTTPServer):
    daemon_threads = True
    model: Bigram | None = None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Without this an answer's body waits some 40 ms for the acknowledgement of its headers.
    disable_nagle_algorithm = True

    @property
    def owner(self) -> Server:
        """The server, as what it is: the standard library's type knows nothing of a model."""
        assert isinstance(self.server, Server)
        return self.server

    def do_GET(self) -> None:
        if self.refuse_foreign_page(self.lower_case_headers()):
            return
        if self.path != "/":
            self.refuse_path("/score")
        elif self.owner.model is None:
            self.answer(503, "Loading")
        else:
            self.answer(200, "Healthy")

    def do_POST(self) -> None:
        headers = self.lower_case_headers()
        if self.refuse_foreign_page(headers):
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/score":
            self.refuse_path("/")
            return
        started = time.monotonic()
        status, document, outcome = score(self.owner.model, body, declared_json=is_json(headers))
        self.answer(status, document)
        milliseconds = (time.monotonic() - started) * 1000
        print(f"POST /score {status} {milliseconds:.0f} ms {outcome}", flush=True)

    def lower_case_headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def refuse_foreign_page(self, headers: dict[str, str]) -> bool:
        """Whether the request came from a foreign web page, and was answered 403."""
        reason = refusal(headers, scheme="http", port=self.owner.server_port)
        if reason:
            # The body is left unread, so the connection cannot be reused.
            self.close_connection = True
            self.answer(403, f"{reason}\n")
        return reason is not None

    def refuse_path(self, other: str) -> None:
        """405 for the path that knows only the other method, 404 for the rest."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if self.path == other else HTTPStatus.NOT_FOUND
        self.answer(status, status.phrase)

    def answer(self, status: int, document: object) -> None:
        text = isinstance(document, str)
        body = (document if text else json.dumps(document, ensure_ascii=False)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8" if text else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: probes come every few seconds."""


def main() -> None:
    settings = step.parse_arguments(Settings, __doc__)
    folder = find_model(settings.model)
    with Server((settings.host, settings.port), Handler) as server:
        print(json.dumps({"port": server.server_port}), flush=True)
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        started = time.monotonic()
        server.model = rehearsal.load(folder / "data")
        print(f"model {folder.name!r} ready after {time.monotonic() - started:.1f} s", flush=True)
        serving.join()


def find_model(path: Path) -> Path:
    """The folder with MLmodel at a path: itself, or the only one somewhere below."""
    folders = sorted(file.parent for file in path.rglob("MLmodel")) if path.is_dir() else []
    if len(folders) != 1:
        raise StepError(f"{str(path)!r} should be or hold one MLflow model; found {len(folders)} files named MLmodel.")
    return folders[0]


def score(model: Bigram | None, body: bytes, *, declared_json: bool) -> tuple[int, object, str]:
    """Status, document, and what the log says."""
    if model is None:
        return 503, {"error": "The model is still loading. Try again."}, "loading"
    if not declared_json:
        return 415, {"error": NOT_JSON}, "not JSON"
    try:
        chat = parse_request(body)
    except BadRequest as error:
        return 400, {"error": str(error)}, str(error)
    texts = [model.answer(conversation, chat.parameters) for conversation in chat.conversations]
    return 200, texts if chat.batched else {"output": texts[0]}, f"{len(texts)} conversation(s)"


if __name__ == "__main__":
    step.run(main)

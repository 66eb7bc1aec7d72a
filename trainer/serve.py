"""The program of an online deployment: answers chat messages from an MLflow model folder.

Prints {"port": N} once it listens. `GET /` is 503 until the model is loaded, then 200. `POST /score` takes the two
payloads of Azure's chat models: a list of conversations, answered with a list of texts, or one conversation, answered
with {"output": text}. It asks for no key: the endpoint in front of it does. Web pages are refused (same_origin.py).

    python -m trainer.serve --model mlflow_model_folder
"""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from trainer import step
from trainer.chat_request import NOT_JSON, BadRequest, ChatRequest, parse_request
from trainer.same_origin import SameOrigin, is_json
from trainer.step import StepError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import BatchEncoding, Pipeline, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Settings:
    model: Path
    host: str = "127.0.0.1"
    port: int = 0


class ChatModel:
    """The loaded model; one conversation batch at a time, as generation already uses all the threads it may."""

    def __init__(self, folder: Path) -> None:
        from mlflow.transformers import load_model

        pipeline = cast("Pipeline", load_model(str(folder)))
        self.model = pipeline.model
        self.tokenizer = cast("PreTrainedTokenizerBase", pipeline.tokenizer)
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.lock = threading.Lock()

    def answer(self, request: ChatRequest) -> list[str]:
        """One text a conversation.

        Raises: BadRequest when a conversation leaves no room for an answer.
        """
        encoded = self.tokenizer.apply_chat_template(
            request.conversations, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        prompts = cast("BatchEncoding", encoded).to(self.model.device)
        length = prompts["input_ids"].shape[1]
        room = self.model.config.max_position_embeddings - length
        if room < 1:
            raise BadRequest(
                f"The longest conversation has {length} tokens; the model takes {length + room - 1}. Shorten it."
            )
        parameters = request.parameters | {"max_new_tokens": min(room, request.parameters["max_new_tokens"])}
        generate = cast("Callable[..., torch.Tensor]", self.model.generate)
        with self.lock:
            generated = generate(**prompts, **parameters)
        texts = self.tokenizer.batch_decode(generated[:, length:], skip_special_tokens=True)
        return [text.strip() for text in texts]


def main() -> None:
    settings = step.parse_arguments(Settings, __doc__)
    step.forbid_downloads()
    folder = find_model(settings.model)
    import uvicorn

    with socket.create_server((settings.host, settings.port)) as listener, ThreadPoolExecutor(1) as loader:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        loading = loader.submit(load_model, folder)
        app = Starlette(routes=[Route("/", health), Route("/score", score, methods=["POST"])])
        app.state.loading = loading
        guarded = SameOrigin(app, scheme="http", port=listener.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(guarded, log_level="warning", access_log=False))
        loading.add_done_callback(lambda done: setattr(server, "should_exit", done.exception() is not None))
        server.run(sockets=[listener])
        loading.result()


def find_model(path: Path) -> Path:
    """The folder with MLmodel at a path: itself, or the only one somewhere below."""
    folders = sorted(file.parent for file in path.rglob("MLmodel")) if path.is_dir() else []
    if len(folders) != 1:
        raise StepError(f"{str(path)!r} should be or hold one MLflow model; found {len(folders)} files named MLmodel.")
    return folders[0]


def load_model(folder: Path) -> ChatModel:
    started = time.monotonic()
    model = ChatModel(folder)
    print(f"model {folder.name!r} ready after {time.monotonic() - started:.1f} s", flush=True)
    return model


async def health(request: Request) -> Response:
    if not request.app.state.loading.done():
        return PlainTextResponse("Loading", status_code=503)
    return PlainTextResponse("Healthy")


async def score(request: Request) -> Response:
    started = time.monotonic()
    if not request.app.state.loading.done():
        return log_request(started, "loading", JSONResponse({"error": "The model is still loading. Try again."}, 503))
    if not is_json(request.headers):
        return log_request(started, "not JSON", JSONResponse({"error": NOT_JSON}, 415))
    try:
        chat = parse_request(await request.body())
        texts = await run_in_threadpool(request.app.state.loading.result().answer, chat)
    except BadRequest as error:
        return log_request(started, str(error), JSONResponse({"error": str(error)}, 400))
    answer = texts if chat.batched else {"output": texts[0]}
    return log_request(started, f"{len(texts)} conversation(s)", JSONResponse(answer))


def log_request(started: float, outcome: str, response: Response) -> Response:
    milliseconds = (time.monotonic() - started) * 1000
    print(f"POST /score {response.status_code} {milliseconds:.0f} ms {outcome}", flush=True)
    return response


if __name__ == "__main__":
    step.run(main)

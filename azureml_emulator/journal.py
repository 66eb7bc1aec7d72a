"""What was asked and answered: one line a request in HOME/requests.jsonl, and on demand whole exchanges for checking.

Neither holds a token, a key or a signature: queries are reduced to the api-version, and exchanges to resource manager
calls with their headers left out but those of long-running operations, and secrets in their bodies replaced.
"""

import json
import os
import re
import threading
from pathlib import Path
from urllib.parse import urlencode

from azureml_emulator.json_types import Json
from azureml_emulator.wire import DEEPEST_JSON, NULL, Answer, Call, Route, is_deeper, now

EXCHANGES_VARIABLE = "AZUREML_EMULATOR_EXCHANGES"
KEPT_HEADERS = ("location", "azure-asyncoperation", "retry-after", "x-ms-async-operation-timeout")


# The fields of answers that hold a secret alone.
SECRET_FIELDS = {"accessToken", "key", "keyValue", "primaryKey", "sasToken", "secondaryKey"}
SIGNATURE = re.compile(r"(?<=[?&]sig=)[^&\s]+")


class Journal:
    """The request log of one home, and the folder of exchanges when one is wanted."""

    def __init__(self, file: Path, exchanges: Path | None = None) -> None:
        self._file = file
        self._exchanges = exchanges
        self._lock = threading.Lock()
        self._count = 0
        file.touch()
        if exchanges:
            exchanges.mkdir(parents=True, exist_ok=True)

    def write(self, call: Call, answer: Answer, seconds: float) -> None:
        """Adds the request's line."""
        line = {
            "time": now(),
            "method": call.method,
            "path": call.path,
            "api_version": call.query.get("api-version"),
            "status": answer.status,
            "milliseconds": round(seconds * 1000, 1),
        }
        with self._lock, self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def keep_exchange(self, call: Call, route: Route | None, answer: Answer) -> None:
        """Writes request and answer of a resource manager's call to a file, where exchanges are wanted."""
        if not self._exchanges or (route and route.auth != "arm"):
            return
        with self._lock:
            self._count += 1
            file = self._exchanges / f"{os.getpid()}-{self._count:06}.json"
        file.write_text(json.dumps(exchange(call, answer), indent=1))


def read_log(file: Path) -> list[Json]:
    """The lines of a request log."""
    with file.open("rb") as lines:
        return [json.loads(line) for line in lines]


def exchange(call: Call, answer: Answer) -> dict[str, object]:
    """Request and response as JSON; bodies that are not JSON are left out."""
    query = {
        name: value for name, value in call.query.items() if name in ("api-version", "$skipToken", "$top", "$orderBy")
    }
    body = "null" if answer.body is NULL else answer.body
    return {
        "request": {
            "method": call.method,
            "url": f"{call.path}?{urlencode(query)}",
            "body": without_secrets(parse(call.body)),
        },
        "response": {
            "status": answer.status,
            "headers": {name: value for name, value in answer.headers.items() if name.lower() in KEPT_HEADERS},
            "body": None if isinstance(body, bytes | str) else without_secrets(body),
        },
    }


def without_secrets(document: object) -> object:
    """A document with other texts in the place of keys, tokens and signatures."""
    match document:
        case dict(members):
            return {
                name: "left-out" if name in SECRET_FIELDS and isinstance(value, str) else without_secrets(value)
                for name, value in members.items()
            }
        case list(entries):
            return [without_secrets(entry) for entry in entries]
        case str(text):
            return SIGNATURE.sub("left-out", text)
    return document


def parse(body: bytes) -> object:
    """The body's document; None where it is none that the emulator reads."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return None if is_deeper(document, DEEPEST_JSON) else document

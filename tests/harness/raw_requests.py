"""Requests to the emulator byte by byte: paths that no client library would send, and headers of a browser's choice."""

import json
import ssl
import urllib.error
import urllib.request
from http.client import HTTPSConnection
from pathlib import Path
from typing import NamedTuple

from conftest import Emulator

from azureml_emulator.app import Application
from azureml_emulator.identity import STORAGE
from azureml_emulator.journal import Journal
from azureml_emulator.store import Store
from azureml_emulator.wire import Route
from azureml_emulator.world import Settings, Timing, World

WORKSPACE = {
    "subscription": "11111111-1111-1111-1111-111111111111",
    "group": "local",
    "workspace": "local",
    "registry": "azureml",
}

# What a browser sends for pages of other addresses, and for names that were made to point here.
FOREIGN = {
    "null": {"Origin": "null"},
    "another site": {"Origin": "https://evil.test", "Sec-Fetch-Site": "cross-site"},
    "another port": {"Origin": "https://localhost:1", "Sec-Fetch-Site": "same-site"},
    "own name as a prefix": {"Origin": "https://localhost:PORT.evil.test"},
    "own address as a user": {"Origin": "https://localhost:PORT@evil.test"},
    "another scheme": {"Origin": "ftp://localhost:PORT"},
    "a link": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    "a form of another port": {"Sec-Fetch-Site": "same-site", "Content-Type": "text/plain"},
    "an unknown relation": {"Sec-Fetch-Site": "sideways"},
    "an empty origin": {"Origin": ""},
    "rebound": {"Host": "evil.test:PORT"},
    "rebound, same origin": {
        "Host": "evil.test:PORT",
        "Origin": "https://evil.test:PORT",
        "Sec-Fetch-Site": "same-origin",
    },
    "without a port": {"Host": "localhost"},
    "another name's end": {"Host": "evil-localhost:PORT"},
    "no host": {"Host": ""},
    "every address": {"Host": "0.0.0.0:PORT"},
}


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Raw:
    """Sends requests exactly as given, with the token for the route."""

    def __init__(self, emulator: Emulator) -> None:
        from azure.identity import DefaultAzureCredential

        credential, url = DefaultAzureCredential(), emulator.ready["url"]
        self.port = int(emulator.ready["port"])
        self.tokens = {
            "arm": credential.get_token(f"{url}/.default").token,
            "tracking": credential.get_token(f"{url}/.default").token,
            "storage": credential.get_token(f"{STORAGE}/.default").token,
            "admin": emulator.ready["admin_token"],
            "key": "no endpoint has this key",
            "none": "",
        }
        context = ssl.create_default_context(cafile=emulator.ready["ca_bundle"])
        self._connection = HTTPSConnection("localhost", self.port, context=context, timeout=60)

    def send(
        self, method: str, target: str, *, auth: str = "none", body: object = None, **headers: str | None
    ) -> Reply:
        """One request; keywords are headers, with `_` for `-`. A body is sent as JSON, bytes as they are."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        given = {"Host": f"localhost:{self.port}", "Content-Type": "application/json" if content else None}
        given |= {"Authorization": f"Bearer {self.tokens[auth]}" if self.tokens[auth] else None}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        # It closes itself after an answer that says so, and opens again for the next request.
        connection = self._connection
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in given.items():
            if value is not None:
                connection.putheader(name, value)
        if content is not None:
            connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content)
        answer = connection.getresponse()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def close(self) -> None:
        self._connection.close()


def target_of(route: Route, **parameters: str) -> str:
    """The path and query of a call of a route; parameters stand in it as they are given, `xyz` where none is."""
    path = route.full_template.replace(":path}", "}")
    for name, value in {**WORKSPACE, **parameters}.items():
        path = path.replace(f"{{{name}}}", value)
    while "{" in path:
        before, _, rest = path.partition("{")
        path = f"{before}xyz{rest.partition('}')[2]}"
    return f"{path}?api-version={sorted(route.api_versions)[0]}" if route.api_versions else path


def all_routes(folder: Path) -> list[Route]:
    """The emulator's own route table."""
    folder.mkdir()
    world = World(Settings(folder, 1), Store(folder / "documents"), Timing())
    return Application(world, Journal(folder / "requests.jsonl")).routes


def kept(home: Path) -> dict[str, bytes]:
    """What the emulator remembers, and what lies beside its home."""
    files = [file for file in home.rglob("*") if file.is_file() and file.name != "requests.jsonl"]
    return {str(file.relative_to(home.parent)): file.read_bytes() for file in [*files, home.parent / "canary"]}


def with_port(headers: dict[str, str], port: int) -> dict[str, str]:
    return {name: value.replace("PORT", str(port)) for name, value in headers.items()}


def status_of(url: str, headers: dict[str, str], body: bytes | None = None) -> int:
    """The status of a request to a server without TLS."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def http(headers: dict[str, str], port: int) -> dict[str, str]:
    return {name: value.replace("https:", "http:") for name, value in with_port(headers, port).items()}

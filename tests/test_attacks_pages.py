"""Requests as a browser sends them for a page of another address: every server of ours refuses them."""

import base64
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from commands import ROOT, wait_for
from conftest import Emulator
from raw_requests import FOREIGN, Raw, all_routes, http, kept, status_of, target_of, with_port
from test_emulator_core import WORKSPACE
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from retune.sign_in import profile_file, read_profile
from trainer import rehearsal
from trainer.same_origin import refusal

# Headers that must be accepted.
OWN = {
    "a program": {},
    "a program by number": {"Host": "127.0.0.1:PORT"},
    "upper case": {"Host": "LOCALHOST:PORT"},
    "an own page": {"Origin": "https://localhost:PORT", "Sec-Fetch-Site": "same-origin"},
    "typed by a person": {"Sec-Fetch-Site": "none"},
}


def test_no_route_of_the_emulator_answers_a_foreign_page(raw: Raw, attacked: Emulator, tmp_path: Path) -> None:
    """Every route, with the right token: 403 before anything else is looked at, and nothing has changed."""
    before = kept(attacked.home)
    answers = {}
    for route in all_routes(tmp_path / "table"):
        body = {"properties": {}} if route.method in ("PUT", "POST", "PATCH") else None
        for name, headers in FOREIGN.items():
            headers = with_port(headers, raw.port)
            target = target_of(route)
            answers[route.method, target, name] = raw.send(route.method, target, auth=route.auth, body=body, **headers)

    assert len(answers) > 900
    assert {call: answer.status for call, answer in answers.items() if answer.status != 403} == {}
    allowed = [call for call, answer in answers.items() if "access-control-allow-origin" in answer.headers]
    assert allowed == []
    assert kept(attacked.home) == before


@pytest.mark.parametrize("headers", OWN.values(), ids=OWN)
def test_programs_and_own_pages_are_answered(raw: Raw, headers: dict[str, str]) -> None:
    """What is refused are pages of other addresses, and nothing else."""
    assert raw.send("GET", "/admin/status", auth="admin", **with_port(headers, raw.port)).status == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
)
def test_what_is_not_said_to_be_json_is_not_read_as_json(raw: Raw, attacked: Emulator, kind: str | None) -> None:
    """A form of a page can send JSON under these names without being asked about first."""
    before = kept(attacked.home)
    answer = raw.send("PUT", "/admin/timing", auth="admin", body=b'{"queue_seconds": 9}', Content_Type=kind)

    assert answer.status == 415
    assert "must be application/json" in json.loads(answer.body)["error"]["message"]
    assert kept(attacked.home) == before


def test_no_get_changes_anything(raw: Raw, attacked: Emulator, tmp_path: Path) -> None:
    """A picture on a page is a GET: with every right it still only reads."""
    before = kept(attacked.home)
    routes = [route for route in all_routes(tmp_path / "table") if route.method in ("GET", "HEAD")]
    # MLflow's own process starts with the first request, and keeps its own files.
    answers = [
        raw.send(route.method, target_of(route), auth=route.auth).status for route in routes if route.auth != "tracking"
    ]

    assert len(answers) > 30 and {status for status in answers if status >= 500} <= {501}
    assert kept(attacked.home) == before


def test_mlflow_s_own_server_refuses_pages(raw: Raw, attacked: Emulator) -> None:
    """It stands behind the emulator; asked at its own port it wants the emulator's secret, of a program."""
    search = "api/2.0/mlflow/experiments/search?max_results=1"
    assert raw.send("GET", f"/mlflow/v1.0{WORKSPACE}/{search}", auth="tracking").status == 200
    port = json.loads((attacked.home / "mlflow.log").read_text().strip().splitlines()[-1])["port"]
    url = f"http://127.0.0.1:{port}/{search}"

    assert {name for name, headers in FOREIGN.items() if status_of(url, http(headers, port)) != 403} == set()
    assert status_of(url, {}) == status_of(url, {"x-secret": "guessed"}) == 401


def test_a_model_s_server_refuses_pages(tmp_path: Path) -> None:
    """It asks for no key: the endpoint in front of it does. So no page may get there by itself."""
    model = tmp_path / "model"
    rehearsal.save(rehearsal.count([["hello"]], seed=0), model)
    command = [sys.executable, "-m", "trainer.rehearsal_serve", "--model", model]
    question = json.dumps({"input_data": {"input_string": [{"role": "user", "content": "Hi"}]}}).encode()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        port = json.loads(process.stdout.readline())["port"]
        url, json_kind = f"http://127.0.0.1:{port}", {"Content-Type": "application/json"}
        try:
            wait_for(lambda: status_of(f"{url}/", {}) == 200, "the model")

            assert status_of(f"{url}/score", json_kind, question) == 200
            assert status_of(f"{url}/score", {"Content-Type": "text/plain"}, question) == 415
            for name, headers in FOREIGN.items():
                headers = http(headers, port)
                assert status_of(f"{url}/score", json_kind | headers, question) == 403, name
                assert status_of(f"{url}/", headers) == 403, name
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"host": "localhost:8000"}, None),
        ({"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, None),
        ({"host": "localhost:8000", "origin": "http://127.0.0.1:8000"}, "pages of 'http://127.0.0.1:8000'"),
        ({"host": "localhost:8000", "origin": "https://localhost:8000"}, "pages of 'https://localhost:8000'"),
        ({"host": "localhost:8001"}, "Host"),
        ({}, "Host"),
    ],
)
def test_the_rule(headers: dict[str, str], reason: str | None) -> None:
    """A page's origin is its scheme, its name and its port; each of our names is an origin of its own."""
    said = refusal(headers, scheme="http", port=8000)

    assert said is None if reason is None else reason in said


def test_prefect_s_server_knows_nobody_without_the_string(prefect_api: str) -> None:
    """Every way in: requests, sockets, a page that asks first; its pages and its health are open, and hold nothing."""
    page = prefect_api.removesuffix("/api")
    port = int(page.rpartition(":")[2])
    file = profile_file(port)
    assert file.stat().st_mode & 0o777 == 0o600
    string = read_profile(file).string
    basic = {"Authorization": f"Basic {base64.b64encode(string.encode()).decode()}"}
    asked = {"Content-Type": "application/json"}

    assert status_of(f"{prefect_api}/health", {}) == 200
    for path in ("flow_runs/filter", "deployments/filter", "flow_runs/", "work_pools/", "automations/filter"):
        assert status_of(f"{prefect_api}/{path}", asked, b"{}") in (401, 403)
    for path in ("admin/settings", "admin/version", "csrf-token?client=x", "block_types/slug/secret"):
        assert status_of(f"{prefect_api}/{path}", {}) == 401
        assert status_of(f"{prefect_api}/{path}", {"Authorization": "Basic cmV0dW5lOg=="}) == 401
    # A page that knew the string could still change nothing: it cannot read the token that a change needs.
    assert status_of(f"{prefect_api}/flow_runs/filter", basic | asked, b"{}") == 403
    for headers in FOREIGN.values():
        sent = http(headers, port)
        if "Origin" in sent:
            assert preflight(f"{prefect_api}/flow_runs/filter", sent["Origin"]) == 400
    for path in ("events/in", "events/out", "logs/out"):
        address = f"{prefect_api.replace('http', 'ws', 1)}/{path}"
        with (
            connect(address, subprotocols=["prefect"], open_timeout=10) as socket,
            pytest.raises(ConnectionClosed),
        ):
            socket.send(json.dumps({"type": "auth", "token": "guessed"}))
            socket.recv(timeout=10)


def preflight(url: str, origin: str) -> int:
    """What a browser is told that asks whether a page of another address may send JSON."""
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    headers["Access-Control-Request-Headers"] = "content-type,authorization"
    try:
        request = urllib.request.Request(url, headers=headers, method="OPTIONS")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code

"""Requests of every kind to every route: the emulator answers each, never with 500, and touches nothing but its home.

    make fuzz       20,000 of them; `make test` sends 2,000

Names, queries, headers and bodies are drawn: right ones, right ones with one thing changed, and wrong ones. What a
failure shows is the smallest request that still fails, which hypothesis looks for.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import QUICK, Emulator
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from raw_requests import Raw, all_routes, kept, target_of

from azureml_emulator.tracking_rules import OFFERED
from azureml_emulator.wire import Route

ENVIRONMENT = "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112"
COMMAND = {
    "jobType": "Command",
    "command": "true",
    "experimentName": "fuzz",
    "inputs": {"x": {"jobInputType": "literal"}},
}
STEP = {"type": "command", "componentId": "fuzz:1", "inputs": {"x": {"job_input_type": "literal", "value": "1"}}}
COMPONENT = {
    "name": "fuzz",
    "type": "command",
    "command": "echo ${{inputs.x}}",
    "environment": ENVIRONMENT,
    "inputs": {"x": {"type": "string"}},
    "outputs": {"y": {"type": "uri_folder"}},
}
FILES = "azureml://datastores/workspaceblobstore/paths/fuzz"
SIZE = {"instanceType": "Standard_DS3_v2"}
# Bodies that a route takes, by the end of its template and its method.
BODIES: dict[tuple[str, str], list[object]] = {
    ("PUT", "/jobs/{job}"): [
        {"properties": COMMAND},
        {"properties": {"jobType": "Pipeline", "experimentName": "fuzz", "jobs": {"a": STEP}, "outputs": {}}},
    ],
    ("PUT", "/models/{asset}/versions/{version}"): [{"properties": {"modelUri": FILES, "modelType": "mlflow_model"}}],
    ("PUT", "/data/{asset}/versions/{version}"): [{"properties": {"dataUri": FILES, "dataType": "uri_folder"}}],
    ("PUT", "/codes/{asset}/versions/{version}"): [{"properties": {"codeUri": "https://localhost/x"}}],
    ("PUT", "/components/{asset}/versions/{version}"): [{"properties": {"componentSpec": COMPONENT}}],
    ("PUT", "/environments/{asset}/versions/{version}"): [{"properties": {"image": "ubuntu", "tags": {"a": "b"}}}],
    ("POST", "/startPendingUpload"): [{"pendingUploadType": "TemporaryBlobReference"}],
    ("PUT", "/computes/{compute}"): [
        {
            "location": "eastus",
            "properties": {
                "computeType": "AmlCompute",
                "properties": {"vmSize": "STANDARD_DS3_V2", "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 1}},
            },
        }
    ],
    ("PUT", "/onlineEndpoints/{endpoint}"): [
        {"location": "eastus", "properties": {"authMode": "Key", "traffic": {"blue": 100}}, "tags": {"a": "b"}}
    ],
    ("PUT", "/deployments/{deployment}"): [
        {
            "location": "eastus",
            "sku": {"name": "Default", "capacity": 1},
            "properties": {
                "endpointComputeType": "Managed",
                "model": "x",
                "requestSettings": {"requestTimeout": "PT5S", "maxConcurrentRequestsPerInstance": 1},
                "livenessProbe": {"initialDelay": "PT10S", "failureThreshold": 30},
                **SIZE,
            },
        }
    ],
    ("POST", "/getLogs"): [{"containerType": "InferenceServer", "tail": 10}],
    ("POST", "/regenerateKeys"): [{"keyType": "Primary"}],
    ("POST", "/listSecrets"): [{"expireAfterHours": 1}],
    ("POST", "/rundata"): [{"runId": "x", "selectRunMetadata": True}],
    ("POST", "/batchGetResolvedUris"): [{"values": ["azureml://x"]}],
    ("PATCH", "/runs/{run}"): [{"tags": {"a": "b"}, "displayName": "x"}],
    ("PUT", "/admin/timing"): [QUICK],
    ("PUT", "/admin/faults"): [[{"on": "request", "method": "GET", "path": "never", "effect": "error", "status": 503}]],
    ("PUT", "/admin/quota"): [{"dedicated": 10}],
    ("POST", "/score"): [{"input_data": {"input_string": [{"role": "user", "content": "x"}]}}],
    ("POST", "/{rest:path}"): [{"run_id": "x", "experiment_id": "0", "key": "a", "value": "b", "metrics": []}],
}
QUERIES = (
    *("$top", "$skip", "$skipToken", "count", "listViewType", "tag", "jobType", "orderBy", "comp", "restype", "prefix"),
    *("delimiter", "marker", "maxresults", "include", "blockid", "sig", "se", "sp", "sr", "sv", "resource", "run_id"),
    *("api-version", "bypass_cache", "run_uuid", "path", "metric_key", "experiment_name", "max_results", "filter"),
)
HEADERS = (
    *("Range", "x-ms-range", "If-Match", "If-None-Match", "x-ms-blob-type", "x-ms-meta-a", "Content-Type", "Accept"),
    *("azureml-model-deployment", "X-IDENTITY-HEADER", "x-ms-copy-source", "x-ms-client-request-id", "Expect"),
)
VALUES = (
    *(
        "",
        "0",
        "1",
        "-1",
        "x",
        "list",
        "container",
        "block",
        "blocklist",
        "metadata",
        "bytes=0-",
        "bytes=9-2",
        "bytes=-",
    ),
    *("bytes=0-1,4-5", "BlockBlob", "PageBlob", "*", "1e9", "99999999999999999999", "NaN", "٣", "ä", "%"),
    *(
        "%00",
        "%zz",
        "a" * 300,
        "../..",
        "'",
        '"',
        "<x>",
        "true",
        "null",
        "[]",
        "{}",
        "application/json",
        "text/plain",
        "multipart/x",
    ),
    *(
        "2023-04-01-preview",
        "2024-01-01",
        "2026-99-99T99:99:99Z",
        "rl",
        "eA==",
        "PT",
        "P1Y",
        "PT9e9S",
        "json;charset=x",
    ),
)
# In the place of one part of a right body.
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [0, -1, 10**9, 10**30, 1.5, 1e300, "", "x", "ä" * 200, "../..", "${{x}}", "${{inputs.x", "[]", "{}"]
    ),
    st.sampled_from(
        ["azureml://", "azureml:x:1", "azureml:x@latest", "https://[", "file:///etc/passwd", "PT-1S", "\x01"]
    ),
    st.text(max_size=20),
    st.just([]),
    st.just({}),
    st.just([None]),
    st.just({"": None}),
    st.just([[[[1]]]]),
)
ODD_TOKEN = "é.ü.ß"
RAW_BODIES = st.sampled_from(
    [
        *(b"", b"null", b"[]", b"1", b'"x"', b"{", b"\xff\xfe", b"NaN", b'{"a": Infinity}', b'{"a": 1e999}', b"{}" * 2),
        *(b"[" * 5000, b'{"a":' * 500 + b"1" + b"}" * 500, b"1" * 5000, b"<x>", b"<BlockList><Latest/></BlockList>"),
        *(b'<!DOCTYPE x [<!ENTITY a "a">]><x>&a;</x>', b'{"a": "\\ud800"}', b'{"a": "\\u0000"}', b'{"a": 1, "a": 2}'),
    ]
)
NAMES = (
    "fuzz",
    "fuzz-1",
    "local",
    "azureml",
    "1",
    "latest",
    "blue",
    "gpu-cluster",
    "workspaceblobstore",
    "a.b",
    "x" * 300,
)


class Drawn(NamedTuple):
    """One request."""

    method: str
    target: str
    auth: str
    body: object
    headers: dict[str, str]


def places_of(document: object, above: tuple = ()) -> Iterator[tuple]:
    """The way to each part of a document, itself included."""
    yield above
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, part in inner:
        yield from places_of(part, (*above, key))


@st.composite
def changed(draw: st.DrawFn, document: object) -> object:
    """The document with one part replaced, left out or added to."""
    document = copy.deepcopy(document)
    place = draw(st.sampled_from(sorted(places_of(document), key=repr)))
    if not place:
        return draw(ODD)
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    match draw(st.sampled_from(["replace", "replace", "leave out", "add"])):
        case "replace":
            holder[place[-1]] = draw(ODD)
        case "leave out":
            del holder[place[-1]]
        case "add" if isinstance(holder, dict):
            holder[draw(st.text(max_size=5))] = draw(ODD)
    return document


class Table(list[Route]):
    """Routes, which hypothesis would spell out in what it says of a failure."""

    def __repr__(self) -> str:
        return "routes"


@st.composite
def requests(draw: st.DrawFn, routes: Table) -> Drawn:
    """A request to one of the routes."""
    route = draw(st.sampled_from(routes))
    names = {
        name: draw(st.sampled_from(NAMES)) for name in ("job", "asset", "version", "endpoint", "deployment", "run")
    }
    names |= {
        "account": "localstore",
        "suffix": "localhost",
        "blob": draw(st.sampled_from(["fuzz", "fuzz/x", "%2e", "a//b"])),
    }
    names |= {"container": draw(st.sampled_from(["azureml", "fuzz", "azureml-registry"])), "compute": "fuzz"}
    names["rest"] = draw(st.sampled_from(sorted({path[1:] for _, path in OFFERED})))
    names["datastore"] = draw(st.sampled_from(["workspaceblobstore", "fuzz"]))
    target = target_of(route, **names)
    query = draw(st.dictionaries(st.sampled_from(QUERIES), st.sampled_from(VALUES), max_size=3))
    pairs = "&".join(f"{name}={value}" for name, value in query.items())
    target += f"{'&' if '?' in target else '?'}{pairs}" if pairs else ""
    body = None
    if route.method in ("PUT", "POST", "PATCH"):
        known = next((found for (method, end), found in BODIES.items() if fits(route, method, end)), [{}])
        right = known[draw(st.integers(0, len(known) - 1))]
        kind = draw(st.sampled_from(["right", "changed", "changed", "raw"]))
        body = {"right": st.just(right), "changed": changed(right), "raw": RAW_BODIES}[kind]
        body = draw(body)
    headers = draw(st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(VALUES), max_size=2))
    auth = draw(st.sampled_from([route.auth] * 9 + ["odd"]))
    return Drawn(route.method, target.replace(" ", "%20"), auth, body, headers)


def fits(route: Route, method: str, end: str) -> bool:
    return route.method == method and route.full_template.endswith(end)


def send(raw: Raw, drawn: Drawn) -> tuple[int, bytes]:
    """What the emulator answers to it."""
    headers = {name: value.encode("utf-8").decode("latin-1") for name, value in drawn.headers.items()}
    target = "".join(c if c.isascii() and c.isprintable() else "%C3%A4" for c in drawn.target)
    answer = raw.send(drawn.method, target, auth=drawn.auth, body=drawn.body, **headers)
    if drawn.target.startswith("/admin/") and drawn.method == "PUT":
        # What it may have set would change the answers that follow.
        raw.send("DELETE", "/admin/faults", auth="admin")
        raw.send("PUT", "/admin/timing", auth="admin", body=QUICK)
    return answer.status, answer.body


def test_without_a_token_nothing_changes(raw: Raw, attacked: Emulator, tmp_path: Path) -> None:
    """Right bodies to every route that changes something."""
    before = kept(attacked.home)
    raw.tokens["odd"] = ODD_TOKEN
    answers = {}
    for route in all_routes(tmp_path / "table"):
        if route.method in ("PUT", "POST", "PATCH", "DELETE"):
            body = next((found[0] for (method, end), found in BODIES.items() if fits(route, method, end)), {})
            target = target_of(
                route, job="fuzz", asset="fuzz", endpoint="fuzz", account="localstore", suffix="localhost"
            )
            for auth in ("none", "odd", "key"):
                answers[route.method, target, auth] = raw.send(route.method, target, auth=auth, body=body).status

    assert len(answers) > 100 and set(answers.values()) <= {401, 403, 404}, answers
    assert kept(attacked.home) == before


def test_every_request_is_answered_and_none_with_500(
    raw: Raw, attacked: Emulator, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """And no file of elsewhere is read or written."""
    routes = Table(all_routes(tmp_path / "table"))
    seen: dict[int, int] = {}
    raw.tokens["odd"] = ODD_TOKEN

    @settings(
        max_examples=pytestconfig.getoption("--fuzz"),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(drawn=requests(routes))
    def check(drawn: Drawn) -> None:
        status, body = send(raw, drawn)
        seen[status] = seen.get(status, 0) + 1
        # 501 is what the emulator knows that it lacks; a model that is asked may answer what it likes.
        assert status < 500 or status == 501 or "/scoring/" in drawn.target, (status, body[:500])
        assert b"root:x:0" not in body

    check()
    assert {200, 201, 400, 401, 404} <= set(seen), seen
    assert sorted(path.name for path in attacked.home.parent.iterdir()) == ["canary", "exchanges", "home", "home.log"]
    assert (attacked.home.parent / "canary").read_text() == "untouched"
    assert attacked.process.poll() is None
    assert "Traceback" not in attacked.home.with_suffix(".log").read_text()


def test_a_body_is_written_for_every_route_that_takes_one(tmp_path: Path) -> None:
    """Of a new route at least one right request is drawn."""
    taking = [route for route in all_routes(tmp_path / "table") if route.method in ("PUT", "PATCH")]
    lacking = [
        route.full_template
        for route in taking
        if not any(fits(route, method, end) for method, end in BODIES) and route.auth not in ("storage", "tracking")
    ]

    # A container of an asset is made with nothing in it.
    assert [template for template in lacking if not template.endswith("/{asset}")] == []
    assert json.dumps(list(BODIES.values()))

"""Names that are paths, commands, scripts or no names at all: nothing is stored under them, no other file touched."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from commands import wait_for
from conftest import Emulator
from raw_requests import Raw, all_routes, kept, target_of

from azureml_emulator.deployment_rules import checked
from azureml_emulator.names import ASSET, COMPUTE, ENDPOINT, JOB, PARAMETERS, Rule, path_below
from azureml_emulator.wire import Answer, Route, ServiceError
from retune.errors import BadRequest
from retune.folders import check_file_names

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "wire" / "recordings"
# As they stand in a request's path.
HOSTILE = [
    *(".", "..", "...", "%2e", "%2e%2e", "%2E%2e", "..%2f..%2f..%2fetc", "a%2f..%2fb", "%2fetc%2fpasswd", "..%5c.."),
    *("a%00b", "%00", "name%0a", "%0d%0a", "a%1b[31mb", "%7f", "%c2%85", "%e2%80%ae", "%ff%fe", "%c0%ae%c0%ae"),
    *("%3Cscript%3Ealert(1)%3C%2Fscript%3E", "a%20b", "%20", "a'b", "a%22b", "a;b", "$(id)", "%60id%60", "a%26b"),
    *("-a", "_a", ".hidden", "~", "%C3%A4", "%F0%9F%98%80", "x" * 256, "x" * 5000),
]
PUT_JOB = Route("PUT", "{workspace}/jobs/{job}", frozenset(["2025-01-01-preview"]), lambda call: Answer())
GET_JOB = Route("GET", "{workspace}/jobs/{job}", frozenset(["2024-01-01-preview"]), lambda call: Answer())
# The status, and whether the rule was said. A HEAD has no body; a path may be too long to be looked at.
REFUSED = [(400, True), ("another path", False), (400, False), (414, False)]
JOB_BODY = {"properties": {"jobType": "Command", "command": "true", "experimentName": "attacks"}}


def test_no_route_takes_a_hostile_name(raw: Raw, attacked: Emulator, tmp_path: Path) -> None:
    """Every route that names a resource, every method: refused as the service refuses, and nothing has changed."""
    before = kept(attacked.home)
    routes = [route for route in all_routes(tmp_path / "table") if re.findall(r"\{(\w+)\}", route.full_template)]
    answers = {}
    for route in routes:
        for kind in sorted(set(re.findall(r"\{(\w+)\}", route.template)) & set(PARAMETERS)):
            for name in HOSTILE:
                target = target_of(route, **{kind: name})
                body = JOB_BODY if route.method in ("PUT", "POST", "PATCH") else None
                answer = raw.send(route.method, target, auth=route.auth, body=body)
                # An encoded slash, or none but dots to a client, makes another path, which may have no route.
                said = "another path" if answer.status == 501 and "/" in unquote(name) else answer.status
                answers[route.method, target] = said, b" is invalid; it must be " in answer.body

    assert len(answers) > 1000 and {call: answer for call, answer in answers.items() if answer not in REFUSED} == {}
    assert kept(attacked.home) == before


def test_every_route_s_parameters_are_ruled_or_known(tmp_path: Path) -> None:
    """A new route's parameter has a rule, or is one of those that are compared with what is there."""
    compared = {"subscription", "group", "workspace", "registry", "location", "operation", "experiment"}
    # Checked as paths, or handed on.
    others = {"account", "suffix", "blob", "rest"}
    found = {name for route in all_routes(tmp_path / "table") for name in re.findall(r"\{(\w+)", route.full_template)}

    assert found - set(PARAMETERS) == compared | others


def test_a_job_named_as_a_parent_folder_deletes_nothing(raw: Raw, attacked: Emulator) -> None:
    """`..` and `.` were working folders, and were emptied before the job began."""
    before = kept(attacked.home)
    for name in ("%2e%2e", "%2e", "..", "."):
        answer = raw.send("PUT", target_of(PUT_JOB, job=name), auth="arm", body=JOB_BODY)

        assert answer.status == 400
        assert "beginning with a letter or a digit" in json.loads(answer.body)["error"]["message"]
    assert kept(attacked.home) == before


@pytest.mark.parametrize("where", ["inputs", "outputs", "environmentVariables"])
@pytest.mark.parametrize("name", ["..", "../../x", "a/b", "a\nb", "a\x00b", "", "x" * 256, "\ud800"])
def test_names_within_a_job_are_checked_before_it_is_stored(
    raw: Raw, attacked: Emulator, where: str, name: str
) -> None:
    """Names of inputs, outputs and variables become paths and parts of an environment."""
    value = "text" if where == "environmentVariables" else {"jobOutputType": "uri_folder", "value": "text"}
    before = kept(attacked.home)
    body = {"properties": {**JOB_BODY["properties"], where: {name: value}}}

    assert raw.send("PUT", target_of(PUT_JOB), auth="arm", body=body).status == 400
    assert kept(attacked.home) == before


@pytest.mark.parametrize(
    "blob",
    ["../secrets.json", "%2e%2e/secrets.json", "..%2f..%2fcanary", "a/../../x", "a%00b", "%0a", "x" * 256, "a/./b"],
)
def test_no_blob_lies_outside_its_container(raw: Raw, attacked: Emulator, blob: str) -> None:
    """Read, written, listed or deleted: the account's folder is the root of every path."""
    before = kept(attacked.home)
    account = f"/localstore.blob.localhost:{raw.port}/azureml"
    calls = [("GET", f"{account}/{blob}"), ("HEAD", f"{account}/{blob}"), ("DELETE", f"{account}/{blob}")]
    calls += [("PUT", f"{account}/{blob}"), ("PUT", f"{account}/{blob}?comp=block&blockid=Li4%3D")]
    calls += [("GET", f"{account}?restype=container&comp=list&prefix={blob}/")]
    for method, target in calls:
        body = b"planted" if method == "PUT" else None
        answer = raw.send(method, target, auth="storage", body=body, x_ms_blob_type="BlockBlob")

        assert 400 <= answer.status < 500, (method, target, answer)
        assert b"token_key" not in answer.body and b"untouched" not in answer.body
    assert kept(attacked.home) == before


def test_a_job_may_have_255_characters(raw: Raw, attacked: Emulator) -> None:
    """The longest name that the service takes runs to its end, and its log is there to read."""
    name = "j" * 255
    body = {"properties": {"jobType": "Command", "command": "echo the log of a long name"}}
    assert raw.send("PUT", target_of(PUT_JOB, job=name), auth="arm", body=body).status == 201

    def status() -> str:
        return json.loads(raw.send("GET", target_of(GET_JOB, job=name), auth="arm").body)["properties"]["status"]

    assert wait_for(lambda: status() == "Completed", "the job")
    (log,) = attacked.home.glob("blobs/azureml/ExperimentRun/dcid.*/user_logs/std_log.txt")
    assert log.read_text() == "the log of a long name\n"


@pytest.mark.parametrize(
    ("rule", "fine", "wrong"),
    [
        (JOB, ["a", "0", "a-b_c", "A" * 255], ["", "a.b", "_a", "-a", "a b", "a\n", "A" * 256, "ä"]),
        (ASSET, ["Phi-3.5-mini", "1.0", "0.0.82", "sha256-0", "A" * 255], ["", ".a", "..", "a/b", "a\n", "a:b"]),
        (ENDPOINT, ["abc", "a-b", "a--b", "a" * 32], ["ab", "1bc", "abc-", "a_c", "a.c", "a" * 33, "abc\n"]),
        (COMPUTE, ["abc", "gpu-cluster", "a1b2", "a" * 24], ["ab", "1bc", "gpu-1", "a_c", "a" * 25, "abc\n"]),
    ],
    ids=["job", "asset", "endpoint", "compute"],
)
def test_the_rules_at_their_limits(rule: Rule, fine: list[str], wrong: list[str]) -> None:
    """Lengths and characters at their limits."""
    assert [name for name in fine if not rule.pattern.fullmatch(name)] == []
    assert [name for name in wrong if rule.pattern.fullmatch(name)] == []


def test_names_of_the_real_service_pass() -> None:
    """Every job, asset, version, compute, endpoint and deployment in recorded sessions has a name that is taken."""
    if not RECORDINGS.is_dir():
        pytest.skip(f"the recorded sessions are not at {RECORDINGS}")
    kinds = {"jobs": JOB, "computes": COMPUTE, "onlineEndpoints": ENDPOINT, "datastores": ASSET}
    kinds |= dict.fromkeys(("models", "data", "codes", "components", "environments"), ASSET)
    found, wrong = set(), set()
    for file in RECORDINGS.glob("*.json"):
        for uri in re.findall(r'"RequestUri": "([^"]+)"', file.read_text(encoding="utf-8")):
            for plural, name, part in re.findall(
                r"/workspaces/[^/?]+/(\w+)/([^/?]+)(?:/(?:versions|deployments)/([^/?]+))?", uri
            ):
                rule = kinds.get(plural)
                inner = ENDPOINT if plural == "onlineEndpoints" else ASSET
                for value, of in ((name, rule), (part, rule and inner)):
                    if value and of:
                        found.add(value)
                        wrong |= set() if of.pattern.fullmatch(value) else {value}

    assert len(found) > 50 and wrong == set()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/passwd", "a\0b", "a\nb", "x" * 256, "é" * 128, "\ud800"])
def test_a_name_of_a_data_asset_or_blob_leads_nowhere_else(name: str) -> None:
    """The service's names become files of Retune's: they are refused before anything is downloaded."""
    with pytest.raises(BadRequest, match="Blob 'a' cannot be saved: "):
        check_file_names("Blob 'a'", "fine", name)


def test_a_path_is_made_of_checked_parts_only(tmp_path: Path) -> None:
    """The one function from names to a path takes no part that leads elsewhere."""
    assert path_below(tmp_path, "a", "b.c") == tmp_path / "a" / "b.c"
    for part in ("", ".", "..", "a/b", "/etc", "a\0b", "\n", "\ud800", "é" * 128):
        with pytest.raises(ServiceError) as refused:
            path_below(tmp_path, "a", part)

        assert refused.value.status == 400


def version(plural: str, api: str, properties: object) -> tuple[str, object]:
    """A PUT of an asset's version."""
    path = f"{{workspace}}/{plural}/{{asset}}/versions/{{version}}"
    return target_of(Route("PUT", path, frozenset([api]), lambda call: Answer())), {"properties": properties}


def job(**properties: object) -> tuple[str, object]:
    """A PUT of a job."""
    return target_of(PUT_JOB), {"properties": JOB_BODY["properties"] | properties}


ADDRESSES = [
    "azureml://datastores/workspaceblobstore/paths/../../../x",
    "azureml://datastores/workspaceblobstore/paths/a/%2e%2e/b",
    "azureml://jobs/../outputs/../paths/../..",
    "/etc/passwd",
    "file:///etc/passwd",
    "https://[",
    "../../etc",
    "",
]
COMPONENT = {"type": "command", "command": "true"}
HOSTILE_BODIES = {
    **{f"data {uri}": version("data", "2023-04-01-preview", {"dataUri": uri}) for uri in ADDRESSES},
    **{f"model {uri}": version("models", "2023-08-01-preview", {"modelUri": uri}) for uri in ADDRESSES},
    **{f"code {uri}": version("codes", "2023-04-01", {"codeUri": uri}) for uri in ADDRESSES},
    **{f"input {uri}": job(inputs={"x": {"uri": uri, "jobInputType": "uri_file"}}) for uri in ADDRESSES if uri},
    **{
        f"component's {kind}": version(
            "components", "2024-01-01-preview", {"componentSpec": COMPONENT | {kind: {"../..": {"type": "uri_folder"}}}}
        )
        for kind in ("inputs", "outputs", "jobs")
    },
    "no spec": version("components", "2024-01-01-preview", {"componentSpec": "text"}),
    "no command": job(command=None),
    "code of a job": job(codeId="../../etc"),
    "long experiment": job(experimentName="x" * 300_000),
    "experiment": job(experimentName="a\x1b[31m"),
    "experiment that is no text": job(experimentName={"a": 1}),
    "title": job(displayName="a\nb"),
    "long value": job(inputs={"x": {"value": "x" * 200_000}}),
    "many values": job(inputs={f"x{number}": {"value": "x" * 99_000} for number in range(30)}),
    "long command": job(command="true " + "x" * 200_000),
    "variables that are a list": job(environmentVariables=["A=B"]),
    "variable's name": job(environmentVariables={"A=B": "1"}),
}


@pytest.mark.parametrize(("target", "body"), HOSTILE_BODIES.values(), ids=HOSTILE_BODIES)
def test_a_body_is_checked_before_anything_is_stored(raw: Raw, attacked: Emulator, target: str, body: object) -> None:
    """Addresses, names within it, and what no process can be given: 400, and nothing has changed."""
    before = kept(attacked.home)
    answer = raw.send("PUT", target, auth="arm", body=body)

    assert answer.status == 400, answer.body
    assert kept(attacked.home) == before


@pytest.mark.parametrize("query", ["", "?comp=block&blockid=AA%3D%3D", "?comp=metadata"])
@pytest.mark.parametrize("container", ["azureml-registry", "not-there"])
def test_only_a_container_of_the_workspace_is_written_to(
    raw: Raw, attacked: Emulator, container: str, query: str
) -> None:
    """The registry's weights are links to files elsewhere; a container that is not there keeps no blocks."""
    before = kept(attacked.home)
    blob = f"/localstore.blob.localhost:{raw.port}/{container}/Phi-4/8/MLmodel"
    for method in ("PUT", "DELETE"):
        answer = raw.send(method, blob + query, auth="storage", body=b"x", x_ms_blob_type="BlockBlob")

        assert answer.status == (403 if container == "azureml-registry" else 404)
    assert kept(attacked.home) == before


def test_a_deployment_s_variables_are_checked() -> None:
    """A server that cannot be started would hold the deployment in Creating for ever."""
    for variables in ({"A=B": "1"}, {"A": "x" * 200_000}, ["A"], {"": "1"}):
        model = "/subscriptions/s/resourceGroups/g/providers/p/workspaces/w/models/m/versions/1"
        body = {"properties": {"endpointComputeType": "Managed", "model": model, "environmentVariables": variables}}
        with pytest.raises(ServiceError) as refused:
            checked(body, "endpoint", "deployment")

        assert refused.value.status == 400

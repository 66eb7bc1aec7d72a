"""What benchmarks.hub answers: the hub's API for data sets, the addresses of their files, and the CDN's.

A handler takes the site and a call and returns an answer, or raises Refused. No route is known beyond ROUTES.
Source: huggingface_hub 2.4.0 (hf_api, file_download, hf_file_system, utils/_http), https://huggingface.co/docs/hub/api
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

from benchmarks.hub_data import MODELS, Blob, Commit, DataSet, DataSets, Refused, card_data

SIGNATURE_SECONDS = 3600
PAGE, EXPANDED_PAGE = 1000, 50
SAFE = {"status": "safe", "avScan": None, "pickleImportScan": None}


class Site:
    """The data sets and models, the two addresses, and the key of the signatures."""

    def __init__(self, root: Path) -> None:
        self.data_sets = DataSets(root)
        self.models = DataSets(root / MODELS)
        self.url = ""
        self.cdn = ""
        self._secret = secrets.token_bytes(32)

    def sign(self, path: str, expires: int) -> str:
        return hmac.new(self._secret, f"{path} {expires}".encode(), "sha256").hexdigest()


@dataclass(frozen=True)
class Answer:
    """A status, headers and a body: bytes, or a part of a file."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    blob: Blob | None = None
    start: int = 0
    length: int = 0


class Call(NamedTuple):
    """A request as a handler sees it; `groups` are those of its route's pattern."""

    groups: dict[str, str]
    query: dict[str, list[str]]
    address: str
    token: str
    range: str
    body: dict[str, list[str]]

    def data_set(self, site: Site, *, content: bool = False) -> DataSet:
        return site.data_sets.open_to(self.groups["name"], self.token, content=content)

    def revision(self) -> str:
        return self.groups.get("revision") or "main"

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[-1].lower() in ("1", "true")


def info(site: Site, call: Call) -> Answer:
    data_set = call.data_set(site)
    commit = data_set.commit(call.revision())
    document = {
        "_id": hashlib.sha1(data_set.name.encode()).hexdigest()[:24],
        "id": data_set.name,
        "author": data_set.name.partition("/")[0],
        "sha": commit.id,
        "lastModified": commit.date,
        "createdAt": data_set.commits[0].date,
        "private": data_set.private,
        "gated": "auto" if data_set.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "cardData": card_data(commit),
        "siblings": [sibling(path, blob, call.flag("blobs")) for path, blob in commit.files.items()],
        "usedStorage": sum(blob.size for blob in commit.files.values()),
    }
    return as_json(document)


def sibling(path: str, blob: Blob, with_blob: bool) -> dict[str, object]:
    if not with_blob:
        return {"rfilename": path}
    lfs = {"lfs": {"sha256": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}} if blob.sha256 else {}
    return {"rfilename": path, "size": blob.size, "blobId": blob.oid, **lfs}


def tree(site: Site, call: Call) -> Answer:
    """One page of the entries below a folder; a Link header leads to the next."""
    commit = call.data_set(site).commit(call.revision())
    folder = call.groups["path"] or ""
    paths = commit.tree(folder, recursive=call.flag("recursive"))
    if folder and not paths:
        raise Refused(404, "EntryNotFound", f"{folder} does not exist on '{call.revision()}'", X_Repo_Commit=commit.id)
    expand = call.flag("expand")
    page = EXPANDED_PAGE if expand else PAGE
    page = min(page, int(call.query.get("limit", [page])[-1]))
    start = int(base64.urlsafe_b64decode(call.query.get("cursor", ["MA=="])[-1]))
    headers = {}
    if start + page < len(paths):
        cursor = base64.urlsafe_b64encode(str(start + page).encode()).decode()
        query = urlencode({**call.query, "cursor": [cursor]}, doseq=True)
        headers["Link"] = f'<{site.url}{call.address}?{query}>; rel="next"'
    return as_json([entry(commit, path, expand) for path in paths[start : start + page]], **headers)


def entry(commit: Commit, path: str, expand: bool) -> dict[str, object]:
    """A file or a folder of a listing."""
    more: dict[str, object] = {}
    if expand:
        more["lastCommit"] = {"id": commit.id, "title": "Upload dataset", "date": commit.date}
    blob = commit.files.get(path)
    if blob is None:
        oids = "".join(commit.files[file].oid for file in commit.files if file.startswith(f"{path}/"))
        return {"type": "directory", "oid": hashlib.sha1(oids.encode()).hexdigest(), "size": 0, "path": path, **more}
    if expand:
        more["securityFileStatus"] = SAFE
    if blob.sha256:
        more["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}
    return {"type": "file", "oid": blob.oid, "size": blob.size, "path": path, **more}


def paths_info(site: Site, call: Call) -> Answer:
    commit = call.data_set(site).commit(call.revision())
    known = {*commit.files, *commit.tree("", recursive=True)}
    expand = call.body.get("expand", [""])[-1].lower() == "true"
    return as_json([entry(commit, path, expand) for path in call.body.get("paths", []) if path in known])


def refs(site: Site, call: Call) -> Answer:
    head = call.data_set(site).commits[-1]
    document = {
        "branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": head.id}],
        "tags": [],
        "converts": [],
    }
    return as_json(document | ({"pullRequests": []} if call.flag("include_prs") else {}))


def commits(site: Site, call: Call) -> Answer:
    """The commits up to a revision, newest first."""
    data_set = call.data_set(site)
    upto = data_set.commits.index(data_set.commit(call.revision())) + 1
    author = {"user": data_set.name.partition("/")[0], "avatar": ""}
    documents = [
        {"id": commit.id, "title": "Upload dataset", "message": "", "date": commit.date, "authors": [author]}
        for commit in reversed(data_set.commits[:upto])
    ]
    return as_json(documents, **{"X-Total-Count": str(len(documents))})


def resolve(site: Site, call: Call) -> Answer:
    """A small file, or the redirect to the address of a large one."""
    data_set = call.data_set(site, content=True)
    commit, blob = data_set.blob(call.revision(), call.groups["path"])
    headers = {"X-Repo-Commit": commit.id, "ETag": blob.etag(), "Accept-Ranges": "bytes"}
    if blob.sha256 is None:
        return part_of(blob, call.range, headers)
    path = f"/cdn/{quote(data_set.name)}/{blob.sha256}/{quote(call.groups['path'])}"
    expires = int(time.time()) + SIGNATURE_SECONDS
    name = Path(call.groups["path"]).name
    query = {
        "response-content-disposition": f'inline; filename="{name}";',
        "Expires": expires,
        "Signature": site.sign(path, expires),
    }
    headers |= {
        "Location": f"{site.cdn}{path}?{urlencode(query)}",
        "X-Linked-Size": str(blob.size),
        "X-Linked-ETag": blob.etag(),
    }
    return Answer(302, headers, f"Found. Redirecting to {headers['Location']}".encode())


def resolve_model(site: Site, call: Call) -> Answer:
    """A file of a model, such as its tokenizer; all are served in place."""
    model = site.models.open_to(call.groups["name"], call.token, content=True)
    commit, blob = model.blob(call.revision(), call.groups["path"])
    headers = {"X-Repo-Commit": commit.id, "ETag": blob.etag(), "Accept-Ranges": "bytes"}
    return part_of(blob, call.range, headers)


def download(site: Site, call: Call) -> Answer:
    """A large file or a part of it, for an address that `resolve` signed."""
    expires = call.query.get("Expires", [""])[-1]
    given = call.query.get("Signature", [""])[-1]
    good = expires.isdigit() and hmac.compare_digest(given, site.sign(call.address, int(expires)))
    if not good or time.time() > int(expires):
        raise Refused(403, "", "AccessDenied: the signature is wrong or has expired")
    blob = site.data_sets.signed(call.groups["name"], call.groups["sha256"])
    headers = {"ETag": blob.etag(), "Accept-Ranges": "bytes", "Content-Type": "binary/octet-stream"}
    headers["Content-Disposition"] = call.query.get("response-content-disposition", ["inline"])[-1]
    return part_of(blob, call.range, headers)


def part_of(blob: Blob, wanted: str, headers: dict[str, str]) -> Answer:
    """The whole file, or the range that was asked for. Several ranges at once get the whole, as from S3."""
    if not blob.is_unchanged():
        raise Refused(500, "", f"{blob.path} was changed after its commit. Put new content into a folder of its own.")
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", wanted)
    if match is None or match.groups() == ("", ""):
        return Answer(200, headers, blob=blob, length=blob.size)
    first, last = match.groups()
    start = int(first) if first else max(0, blob.size - int(last))
    end = min(blob.size, int(last) + 1) if first and last else blob.size
    if start >= end:
        raise Refused(416, "", "The requested range is not satisfiable", Content_Range=f"bytes */{blob.size}")
    headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{blob.size}"}
    return Answer(206, headers, blob=blob, start=start, length=end - start)


def auth_check(site: Site, call: Call) -> Answer:
    call.data_set(site, content=True)
    return as_json({})


def agent_harnesses(site: Site, call: Call) -> Answer:
    return as_json({"standardEnvVars": [], "harnesses": {}})


def as_json(document: object, status: int = 200, **headers: str) -> Answer:
    headers = {"Content-Type": "application/json; charset=utf-8", **headers}
    return Answer(status, headers, json.dumps(document, default=str).encode())


NAME = r"(?P<name>[^/]+/[^/]+)"
API = rf"/api/datasets/{NAME}"
REVISION = r"(?P<revision>[^/]+)"
# Method, pattern of the path before it is unquoted, what answers. The CDN's port serves the last only.
ROUTES: tuple[tuple[str, str, Callable[[Site, Call], Answer]], ...] = (
    ("GET", rf"{API}(/revision/{REVISION})?", info),
    ("GET", rf"{API}/tree/{REVISION}(/(?P<path>.+))?", tree),
    ("POST", rf"{API}/paths-info/{REVISION}", paths_info),
    ("GET", rf"{API}/refs", refs),
    ("GET", rf"{API}/commits/{REVISION}", commits),
    ("GET", rf"{API}/auth-check", auth_check),
    ("GET", r"/api/agent-harnesses", agent_harnesses),
    ("GET|HEAD", rf"/datasets/{NAME}/resolve/{REVISION}/(?P<path>.+)", resolve),
    ("GET|HEAD", rf"/{NAME}/resolve/{REVISION}/(?P<path>.+)", resolve_model),
    ("GET|HEAD", rf"/cdn/{NAME}/(?P<sha256>[0-9a-f]{{64}})/.+", download),
)

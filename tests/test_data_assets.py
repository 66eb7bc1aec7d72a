"""The prepared files are data assets of the workspace: uploaded once, never half, seen from the job and the model."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from azure.core.exceptions import HttpResponseError
from commands import REHEARSAL
from conftest import Emulator, Run

from retune import names
from retune.errors import CloudError
from retune.report import PreparedData, Split
from retune.request import load
from tasks import data_assets
from tasks.data_assets import register_data

ROLES = ("train", "validation", "test")
REQUEST = load("local", [])
KEY = "data-assets"


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    """Three prepared files with rows, and a source, that no other test has."""
    return prepare(tmp_path / uuid4().hex)


def prepare(folder: Path, *, rows: str | None = None, file_name: str = "{}.jsonl") -> PreparedData:
    folder.mkdir(exist_ok=True)
    splits = {}
    for role in ROLES:
        file = folder / file_name.format(role)
        file.write_text(rows or f"{role} {folder.name}\n")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        splits[role] = Split(rows=1, sha256=digest, path=str(file))
    return PreparedData(source=f"org/{folder.name}", revision="a-commit", splits=splits)


def requests_of(emulator: Emulator, method: str, part: str, since: int = 0) -> list[str]:
    """Paths of the requests after the first `since` ones, by method and a part of the path."""
    log = emulator.admin("GET", "/admin/requests")["value"][since:]
    return [line["path"] for line in log if line["method"] == method and part in line["path"]]


def count_requests(emulator: Emulator) -> int:
    return len(emulator.admin("GET", "/admin/requests")["value"])


def with_faults(emulator: Emulator, *faults: dict[str, object]) -> None:
    emulator.admin("PUT", "/admin/faults", list(faults))


@pytest.fixture(autouse=True)
def no_faults(emulator: Emulator) -> None:
    emulator.admin("DELETE", "/admin/faults")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("HuggingFaceH4/ultrachat_200k", "ultrachat_200k-train"),
        ("deployments/data/chat_sample/", "chat_sample-train"),
        ("azureml:chats:3", "chats-train"),
        ("azureml:chats@latest", "chats-train"),
        ("abfss://lab@account.dfs.core.windows.net/raw/chats v1.5.jsonl", "chats-v1-5-jsonl-train"),
        ("../..", "data-train"),
    ],
    ids=lambda text: text.partition("-train")[0],
)
def test_the_source_names_the_asset(source: str, name: str) -> None:
    """A hub id, a folder, an asset or a URL: what comes out is a name that the service takes."""
    assert names.data_asset_name(source, "train") == name


def test_a_second_registration_reads_and_sends_nothing(emulator: Emulator, data: PreparedData) -> None:
    """The same content is found by a GET a file: no blob request at all, and the files need not even be there."""
    first = register_data.fn(REQUEST, data)
    before = count_requests(emulator)
    for split in data.splits.values():
        Path(split.path).unlink()
    again = register_data.fn(REQUEST, data)

    assert first == again
    assert list(first.assets) == list(ROLES)
    assert requests_of(emulator, "PUT", "", before) == requests_of(emulator, "HEAD", "", before) == []
    assert len(requests_of(emulator, "GET", "/data/", before)) == 3


def test_a_version_says_what_it_is(emulator: Emulator, data: PreparedData) -> None:
    """A uri_file named by source, role and content, with its lineage in tags, and the file's bytes behind it."""
    asset_id = register_data.fn(REQUEST, data).assets["train"]
    name, version = names.asset_reference(asset_id).split(":")[1:]
    asset = emulator.client().data.get(name, version=version)
    digest = data.splits["train"].sha256

    assert (name, version) == (f"{data.source.partition('/')[2]}-train", f"sha256-{digest[:16]}")
    assert (asset.type, asset.id) == ("uri_file", asset_id)
    assert asset.tags == {
        "owner": "retune",
        "sha256": digest,
        "source": data.source,
        "revision": "a-commit",
        "rows": "1",
    }
    assert stored(emulator, asset.path) == Path(data.splits["train"].path).read_bytes()


def stored(emulator: Emulator, uri: str) -> bytes:
    """The blob behind a datastore path: the emulator's storage is plain files."""
    (file,) = emulator.home.glob(f"blobs/azureml-blobstore-*/{uri.partition('/paths/')[2]}")
    return file.read_bytes()


def test_other_rows_are_another_version(emulator: Emulator, tmp_path: Path) -> None:
    """New content of the same source makes a new version; the old one stays as it was."""
    folder = tmp_path / uuid4().hex
    old = register_data.fn(REQUEST, prepare(folder, rows="old\n"))
    new = register_data.fn(REQUEST, prepare(folder, rows="new\n"))
    name = names.data_asset_name(old.source, "train")

    assert {asset.version for asset in emulator.client().data.list(name)} == {
        names.data_asset_version(made.splits["train"].sha256) for made in (old, new)
    }


def test_a_lost_answer_finds_the_version_that_was_made(emulator: Emulator, data: PreparedData) -> None:
    """The PUT has had its effect and its answer is lost: the file is uploaded once, the version is there once."""
    before = count_requests(emulator)
    with_faults(
        emulator, {"on": "request", "method": "PUT", "path": "/data/[^/]+-train/versions/", "effect": "drop_after"}
    )
    made = register_data.fn(REQUEST, data)

    assert len(list(emulator.client().data.list(names.data_asset_name(data.source, "train")))) == 1
    # A blob and its mark of completion for each file.
    assert len(requests_of(emulator, "PUT", "/LocalUpload/", before)) == 6
    assert register_data.fn(REQUEST, data) == made


def test_a_version_of_another_start_is_taken(emulator: Emulator, tmp_path: Path) -> None:
    """Another machine has made the version and the service does not show it yet: the refused PUT waits for it."""
    folder = tmp_path / uuid4().hex
    hidden = {"on": "asset", "name": "data/*-train", "effect": "not_found", "seconds": 8}
    with_faults(emulator, hidden)
    first = register_data.fn(REQUEST, prepare(folder))
    before = count_requests(emulator)
    second = register_data.fn(REQUEST, prepare(folder, file_name="{}-elsewhere.jsonl"))

    assert second.assets == first.assets
    assert requests_of(emulator, "PUT", "/data/", before) != []


def test_a_refusal_is_named(emulator: Emulator, data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that the service does not take, and that is not there either, ends with its words."""
    monkeypatch.setattr(data_assets, "VISIBLE_SECONDS", 0)
    with_faults(
        emulator, {"on": "request", "method": "PUT", "path": "/data/", "status": 400, "message": "No more assets."}
    )
    with pytest.raises(CloudError, match=r"No more assets\.") as refusal:
        register_data.fn(REQUEST, data)

    assert refusal.value.code == "DataAssetRefused"


def test_a_broken_upload_is_no_version(emulator: Emulator, data: PreparedData) -> None:
    """Without the mark of a completed upload no version is made, and the next start uploads the file again."""
    mark = {"on": "request", "method": "PUT", "path": "/LocalUpload/", "from_call": 2, "status": 403}
    with_faults(emulator, mark)
    with pytest.raises(HttpResponseError):
        register_data.fn(REQUEST, data)
    name = names.data_asset_name(data.source, "train")
    versions = requests_of(emulator, "PUT", f"/data/{name}/")
    before = count_requests(emulator)
    made = register_data.fn(REQUEST, data)
    uploads = requests_of(emulator, "PUT", "/train.jsonl", before)

    assert versions == []
    assert len(uploads) == 2
    assert list(made.assets) == list(ROLES)


def test_a_changed_file_is_not_uploaded(emulator: Emulator, data: PreparedData) -> None:
    """A file whose digest is not the checked one would make a version that lies."""
    Path(data.splits["train"].path).write_text("something else\n")
    before = count_requests(emulator)
    with pytest.raises(CloudError, match="has changed since it was checked") as error:
        register_data.fn(REQUEST, data)

    assert error.value.code == "DataChanged"
    assert requests_of(emulator, "PUT", "", before) == []


def test_a_foreign_version_is_named(emulator: Emulator, data: PreparedData, tmp_path: Path) -> None:
    """Somebody else's version under the name is neither used nor touched."""
    from azure.ai.ml.entities import Data

    name = names.data_asset_name(data.source, "train")
    version = names.data_asset_version(data.splits["train"].sha256)
    other = tmp_path / "other.jsonl"
    other.write_text("theirs\n")
    client = emulator.client()
    client.data.create_or_update(Data(name=name, version=version, path=other, type="uri_file", tags={"team": "b"}))
    client.data.archive(name, version=version)
    before = count_requests(emulator)
    with pytest.raises(CloudError, match=r"rename the data source") as error:
        register_data.fn(REQUEST, data)

    assert error.value.code == "DataAssetTaken"
    assert requests_of(emulator, "PUT", "", before) == []


def test_an_archived_version_of_the_same_rows_serves(emulator: Emulator, data: PreparedData) -> None:
    """Archiving hides a version from lists; what it holds is the same."""
    made = register_data.fn(REQUEST, data)
    name, version = names.asset_reference(made.assets["train"]).split(":")[1:]
    emulator.client().data.archive(name, version=version)
    before = count_requests(emulator)

    assert register_data.fn(REQUEST, data) == made
    assert requests_of(emulator, "PUT", "", before) == []


def test_job_and_model_carry_the_assets(emulator: Emulator, finetune: Callable[..., Run]) -> None:
    """The job's inputs are the assets, the model's tags name them, and runs after the first upload nothing."""
    first = finetune(*REHEARSAL, key=KEY)
    before = count_requests(emulator)
    attached = finetune(*REHEARSAL, key=KEY)
    other = finetune(*REHEARSAL, key=f"{KEY}-2")
    report, client = first.report, emulator.client()
    assets = report["data"]["assets"]
    job = client.jobs.get(report["job"]["name"])
    model = client.models.get(report["registered_model"]["name"], version=report["registered_model"]["version"])
    details = client.jobs._runs_operations.get_run_details(job.name)

    assert (first.code, attached.code, other.code) == (0, 0, 0), first.errors + attached.errors + other.errors
    assert (attached.report["job"]["attached"], other.report["job"]["attached"]) == (True, False)
    assert attached.report["data"]["assets"] == other.report["data"]["assets"] == assets
    assert requests_of(emulator, "PUT", "/LocalUpload/", before) == []
    assert {name: f"azureml:{entry.path}" for name, entry in job.inputs.items()} == {
        f"{role}_file_path": names.asset_reference(assets[role]) for role in ROLES
    }
    assert {role: model.tags[f"data_{role}_asset"] for role in ROLES} == {
        role: names.asset_reference(assets[role]) for role in ROLES
    }
    assert model.tags["data_train_sha256"] == report["data"]["splits"]["train"]["sha256"]
    assert {name: entry.asset_id.rpartition("/data/")[2] for name, entry in details.inputs.items()} == {
        f"{role}_file_path": assets[role].rpartition("/data/")[2] for role in ROLES
    }
    assert "register_data" in json.dumps(report["steps"])

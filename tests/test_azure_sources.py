"""Chat data in Azure: data assets are pinned with what is behind them and fetched whole, storage is read by range."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from azure.ai.ml.entities import Data
from azure.storage.blob import ContainerClient
from conftest import Emulator

from chatdata.azure import PinnedAsset, fetch_asset, open_storage, pin_asset
from chatdata.data_step import prepare
from retune.errors import BadRequest, CloudError
from retune.request import Workspace, load

ROOT = Path(__file__).resolve().parent.parent
LOCAL = Workspace(emulator=True)
SPLITS = {"train": "train_sft", "validation": "test_sft", "test": "test_gen"}
ACCOUNT = "AZURE_STORAGE_ACCOUNT_NAME"


@pytest.fixture
def name() -> str:
    """Name of a data asset that no other test has."""
    return f"chats-{uuid4().hex[:8]}"


@pytest.fixture(autouse=True)
def no_faults(emulator: Emulator) -> None:
    emulator.admin("DELETE", "/admin/faults")


@pytest.fixture
def storage(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[ContainerClient]:
    """The container of the default datastore, and the variable that names its account."""
    from retune_cloud import workspace as cloud

    datastore = emulator.client().datastores.get_default()
    monkeypatch.setenv(ACCOUNT, datastore.account_name)
    url = f"https://{datastore.account_name}.blob.{cloud.storage_suffix()}"
    with ContainerClient(url, datastore.container_name, credential=cloud.credential()) as client:
        yield client


def make_folder(folder: Path) -> Path:
    """Three files, one of them empty and one below a folder of its own."""
    (folder / "more").mkdir(parents=True)
    (folder / "train.jsonl").write_text("one\n" * 1000)
    (folder / "empty.jsonl").write_text("")
    (folder / "more" / "test.jsonl").write_text("two\n")
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def blob_reads(emulator: Emulator, since: int = 0) -> list[str]:
    log = emulator.admin("GET", "/admin/requests")["value"][since:]
    return [line["path"] for line in log if line["method"] == "GET" and "/LocalUpload/" in line["path"]]


def count_requests(emulator: Emulator) -> int:
    return len(emulator.admin("GET", "/admin/requests")["value"])


def test_a_folder_asset_is_downloaded_once(emulator: Emulator, name: str, tmp_path: Path) -> None:
    """Pinning reads no blob; fetching brings every file; a second fetch reads none."""
    made = make_folder(tmp_path / "source")
    emulator.client().data.create_or_update(Data(name=name, version="7", path=made, type="uri_folder"))
    before = count_requests(emulator)
    asset = pin_asset(LOCAL, f"azureml:{name}:7")
    reads_to_pin = blob_reads(emulator, before)
    place = fetch_asset(LOCAL, asset, tmp_path / "assets")
    before = count_requests(emulator)
    again = fetch_asset(LOCAL, asset, tmp_path / "assets")

    assert reads_to_pin == blob_reads(emulator, before) == []
    assert contents(place) == contents(made)
    assert again == place
    assert (asset.kind, [blob.name for blob in asset.blobs]) == (
        "uri_folder",
        ["empty.jsonl", "more/test.jsonl", "train.jsonl"],
    )
    assert asset.revision.startswith("7@")


def test_the_latest_version_of_a_file_asset(emulator: Emulator, name: str, tmp_path: Path) -> None:
    """The label stands for the newest version, and what is fetched is the file."""
    client = emulator.client()
    for version, text in (("1", "old\n"), ("2", "new\n")):
        file = tmp_path / f"rows-{version}.jsonl"
        file.write_text(text)
        client.data.create_or_update(Data(name=name, version=version, path=file, type="uri_file"))
    latest, first = (pin_asset(LOCAL, f"azureml:{name}{which}") for which in ("@latest", ":1"))
    file = fetch_asset(LOCAL, latest, tmp_path / "assets")

    assert (latest.version, file.name, file.read_text()) == ("2", "rows-2.jsonl", "new\n")
    assert latest.revision != first.revision


def test_other_content_behind_a_version_is_noticed(
    emulator: Emulator, storage: ContainerClient, name: str, tmp_path: Path
) -> None:
    """The version stays, its blob is written anew: another revision, and what was pinned cannot be fetched."""
    asset = make_file_asset(emulator, name, tmp_path)
    storage.upload_blob(asset.blobs[0].path, b"other\n", overwrite=True)
    later = pin_asset(LOCAL, f"azureml:{name}:1")
    with pytest.raises(CloudError, match="has changed since the run began") as error:
        fetch_asset(LOCAL, asset, tmp_path / "assets")

    assert later.revision != asset.revision
    assert error.value.code == "DataChanged"
    assert [path for path in (tmp_path / "assets").rglob("*") if path.is_file()] == []
    assert fetch_asset(LOCAL, later, tmp_path / "assets").read_bytes() == b"other\n"


def make_file_asset(emulator: Emulator, name: str, folder: Path) -> PinnedAsset:
    file = folder / f"{name}.jsonl"
    file.write_text(f"{name}\n")
    emulator.client().data.create_or_update(Data(name=name, version="1", path=file, type="uri_file"))
    return pin_asset(LOCAL, f"azureml:{name}:1")


def test_a_broken_download_leaves_nothing(emulator: Emulator, name: str, tmp_path: Path) -> None:
    """A folder of which one file could not be read is not there; what is half there from elsewhere is made anew."""
    made = make_folder(tmp_path / "source")
    emulator.client().data.create_or_update(Data(name=name, version="1", path=made, type="uri_folder"))
    asset = pin_asset(LOCAL, f"azureml:{name}:1")
    fault = {"on": "request", "method": "GET", "path": "/LocalUpload/.*/test.jsonl", "status": 403, "calls": None}
    emulator.admin("PUT", "/admin/faults", [fault])
    with pytest.raises(CloudError, match="Storage Blob Data Reader") as error:
        fetch_asset(LOCAL, asset, tmp_path / "assets")
    left = list((tmp_path / "assets" / name).iterdir())
    emulator.admin("DELETE", "/admin/faults")
    place = fetch_asset(LOCAL, asset, tmp_path / "assets")
    (place / "train.jsonl").write_text("cut off")

    assert (error.value.code, left) == ("StorageNotAllowed", [])
    assert contents(fetch_asset(LOCAL, asset, tmp_path / "assets")) == contents(made)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("azureml:no-such-asset:1", r"no such data asset.*az ml data list"),
        ("azureml:no-such-asset@latest", r"no such data asset"),
        ("azureml:chats", r"Write azureml:NAME:VERSION or azureml:NAME@latest"),
        ("azureml:chats@newest", r"Write azureml:NAME:VERSION or azureml:NAME@latest"),
    ],
    ids=lambda text: text.partition("azureml:")[2] or "",
)
def test_what_is_no_asset_is_refused(emulator: Emulator, source: str, said: str) -> None:
    """The forms, and how to see what there is."""
    with pytest.raises(BadRequest, match=said):
        pin_asset(LOCAL, source)


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        ("azureml://datastores/workspaceblobstore/paths/LocalUpload/table/", "mltable", "of type mltable, a recipe"),
        ("https://example.org/chats.jsonl", "uri_file", "not in a datastore of this workspace"),
        ("azureml://datastores/workspaceblobstore/paths/nowhere/", "uri_folder", "there is nothing at 'nowhere/'"),
        ("azureml://datastores/workspaceblobstore/paths/no.jsonl", "uri_file", "there is nothing at 'no.jsonl'"),
    ],
    ids=["mltable", "web", "empty folder", "no file"],
)
def test_an_asset_that_cannot_be_read_is_refused(
    emulator: Emulator, name: str, path: str, kind: str, said: str
) -> None:
    """Before anything is downloaded, with what was found."""
    properties = {"dataType": kind, "dataUri": path, "isArchived": False, "isAnonymous": False}
    ready = emulator.ready
    base = f"/subscriptions/{ready['subscription_id']}/resourceGroups/{ready['resource_group']}/providers"
    url = f"{base}/Microsoft.MachineLearningServices/workspaces/{ready['workspace_name']}/data/{name}/versions/1"
    status, answer = emulator.request(
        "PUT", f"{url}?api-version=2023-04-01-preview", token=arm_token(emulator), content={"properties": properties}
    )
    with pytest.raises(BadRequest, match=said):
        pin_asset(LOCAL, f"azureml:{name}:1")

    assert status == 201, answer


def arm_token(emulator: Emulator) -> str:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential().get_token(f"{emulator.ready['url']}/.default").token


def test_storage_is_listed_and_read_by_range(emulator: Emulator, storage: ContainerClient, name: str) -> None:
    """az:// with the account from the environment: glob, information, a range, and a whole file."""
    for path, content in (("a/train-0.jsonl", b"0123456789" * 1000), ("a/train-1.jsonl", b""), ("b/other.jsonl", b"x")):
        storage.upload_blob(f"{name}/{path}", content)
    files, root = open_storage(f"az://{storage.container_name}/{name}")
    found = files.glob(f"{root}/a/train-*.jsonl")
    about = files.info(found[0])
    before = count_requests(emulator)
    with files.open(found[0], "rb", cache_type="none") as file:
        file.seek(5003)
        part = file.read(4)
    reads = [line for line in emulator.admin("GET", "/admin/requests")["value"][before:] if name in line["path"]]

    assert found == [f"{root}/a/train-0.jsonl", f"{root}/a/train-1.jsonl"]
    assert (about["size"], bool(about["etag"])) == (10000, True)
    assert part == b"3456"
    assert {line["status"] for line in reads if line["method"] == "GET"} == {206}
    assert files.cat_file(found[0]) == b"0123456789" * 1000
    assert files.cat_file(found[1]) == b""
    assert (files.exists(f"{root}/a/train-0.jsonl"), files.exists(f"{root}/a/train-2.jsonl")) == (True, False)
    assert sorted(files.ls(root, detail=False)) == [f"{root}/a", f"{root}/b"]


def test_parquet_over_storage(storage: ContainerClient, name: str, tmp_path: Path) -> None:
    """A parquet file's columns are read without the file being fetched whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"messages": ["a", "b", "c"], "other": ["x" * 1000] * 3})
    pq.write_table(table, tmp_path / "rows.parquet")
    storage.upload_blob(f"{name}/rows.parquet", (tmp_path / "rows.parquet").read_bytes())
    files, path = open_storage(f"az://{storage.container_name}/{name}/rows.parquet")
    with files.open(path, "rb", cache_type="none") as file:
        read = pq.ParquetFile(file).read(columns=["messages"])

    assert read == table.select(["messages"])


def test_the_same_rows_from_everywhere(emulator: Emulator, storage: ContainerClient, name: str) -> None:
    """A folder, the same folder as a data asset, and its files in storage are prepared into the same files."""
    sample = ROOT / "deployments" / "data" / "chat_sample"
    emulator.client().data.create_or_update(Data(name=name, version="1", path=sample, type="uri_folder"))
    for file in sample.rglob("*.parquet"):
        storage.upload_blob(f"{name}/{file.name}", file.read_bytes())
    splits = [f"data.{role}_split={split}-*.parquet" for role, split in SPLITS.items()]
    requests = [
        load("local", []),
        load("local", [f"data.source=azureml:{name}@latest"]),
        load("local", [f"data.source=az://{storage.container_name}/{name}", *splits]),
    ]
    here, asset, stored = [prepare(request) for request in requests]

    assert {role: split.sha256 for role, split in asset.splits.items()} == {
        role: split.sha256 for role, split in here.splits.items()
    }
    assert {role: split.sha256 for role, split in stored.splits.items()} == {
        role: split.sha256 for role, split in here.splits.items()
    }
    assert asset.revision.startswith("1@")
    assert len({here.revision, asset.revision, stored.revision}) == 3


def test_the_account_of_a_url(emulator: Emulator) -> None:
    """abfss:// names its account; where blobs are follows from the cloud's own suffix."""
    port = emulator.ready["port"]
    files, path = open_storage(f"abfss://lab@account1.dfs.localhost:{port}/raw/chats.jsonl")

    assert (files.account_url, path) == (f"https://account1.blob.localhost:{port}", "lab/raw/chats.jsonl")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("az://lab/chats.jsonl", "Set AZURE_STORAGE_ACCOUNT_NAME"),
        ("abfss://lab@account1.dfs.core.windows.net.example.org/chats", "is no storage account of this cloud"),
        ("abfss://lab@evil.example.org/chats", "is no storage account of this cloud"),
        ("az:///chats.jsonl", "names no container"),
    ],
    ids=["no account", "other host", "no host", "no container"],
)
def test_a_url_without_a_known_account_is_refused(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    """The run's token is sent to storage accounts of this cloud only."""
    monkeypatch.delenv(ACCOUNT, raising=False)
    with pytest.raises(BadRequest, match=said):
        open_storage(url)


def test_keys_in_the_environment_are_not_used(
    storage: ContainerClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection string that other programs use leads nowhere else."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=other;AccountKey=AAAA;EndpointSuffix=x.invalid")
    storage.upload_blob(f"{name}.txt", b"here")
    files, path = open_storage(f"az://{storage.container_name}/{name}.txt")

    assert files.cat_file(path) == b"here"


def test_a_missing_extra_says_what_to_install(emulator: Emulator, storage: ContainerClient) -> None:
    """Without adlfs, in a process of its own: the command that installs it."""
    code = (
        "import sys; sys.modules['adlfs'] = None\nfrom chatdata.azure import open_storage\n"
        "from retune.errors import BadRequest\ntry: open_storage('az://lab/x')\n"
        "except BadRequest as error: print(error.fix)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "Install it: pip install 'retune[azure]'"

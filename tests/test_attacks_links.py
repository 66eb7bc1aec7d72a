"""Links and files that a job may leave in its output, or a data set bring along: none leads out of its folder."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import Emulator
from raw_requests import WORKSPACE, Raw

from chatdata.source_files import open_source
from chatdata.sources import pin
from retune.errors import BadRequest
from retune.request import Data, Workspace

STORAGE = "/localstore.blob.localhost:{port}"
MODELS = (
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices"
    "/workspaces/{workspace}/models"
).format(**WORKSPACE)
VERSION = "api-version=2023-08-01-preview"
ROW = '{"prompt": "q", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


@pytest.fixture(scope="module")
def outside(attacked: Emulator) -> Path:
    """A folder beside the emulator's home."""
    folder = attacked.home.parent / "outside"
    folder.mkdir()
    (folder / "secret").write_text("kept outside")
    return folder


@pytest.fixture(scope="module")
def output(attacked: Emulator, outside: Path) -> Path:
    """The output of a job that has left links in it."""
    (container,) = (attacked.home / "blobs").glob("azureml-blobstore-*")
    folder = container / "azureml" / "job" / "made"
    folder.mkdir(parents=True)
    (folder / "file").write_text("inside")
    (folder / "inside").symlink_to("file")
    (folder / "out").symlink_to(outside / "secret")
    (folder / "folder").symlink_to(outside)
    (folder / "up").symlink_to("../../../../..")
    (folder / "loop").symlink_to("loop")
    (folder / "round").symlink_to(".")
    (folder / "new").symlink_to(outside / "new")
    return folder


@pytest.fixture
def place(attacked: Emulator, output: Path) -> str:
    """The address of that output."""
    return STORAGE.format(port=attacked.ready["port"]) + f"/{output.relative_to(attacked.home / 'blobs')}"


@pytest.mark.parametrize("name", ["out", "folder/secret", "folder/planted", "up/secrets.json", "loop", "new"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PUT metadata", "PUT block"])
def test_no_link_leads_out_of_the_storage(raw: Raw, place: str, outside: Path, method: str, name: str) -> None:
    """Not for reading, writing or deleting; the answer names the blob."""
    method, _, component = method.partition(" ")
    target = f"{place}/{name}?comp={component}&blockid=eA%3D%3D" if component else f"{place}/{name}"
    body = b"planted" if method == "PUT" else None
    answer = raw.send(method, target, auth="storage", body=body, x_ms_blob_type="BlockBlob")

    assert answer.status == 403, answer
    assert method == "HEAD" or name.encode() in answer.body
    assert [(file.name, file.read_text()) for file in outside.iterdir()] == [("secret", "kept outside")]


def test_a_link_that_stays_inside_is_read(raw: Raw, place: str) -> None:
    """What a checkpoint folder may have."""
    assert raw.send("GET", f"{place}/inside", auth="storage").body == b"inside"


@pytest.mark.parametrize("prefix", ["", "azureml/job/made/", "azureml/job/made/round/", "azureml/job/made/r"])
def test_a_list_shows_nothing_of_outside(raw: Raw, place: str, prefix: str) -> None:
    """Nor does it go round in circles."""
    container = place.partition("/azureml/")[0]
    listed = raw.send("GET", f"{container}?restype=container&comp=list&prefix={prefix}", auth="storage")

    assert listed.status == 200
    assert b"secret" not in listed.body and b"round/round" not in listed.body


@pytest.mark.parametrize("prefix", ["azureml/job/made/folder/", "azureml/job/made/up/"])
def test_a_list_through_a_link_is_refused(raw: Raw, place: str, prefix: str) -> None:
    """As the files behind it are."""
    container = place.partition("/azureml/")[0]

    assert raw.send("GET", f"{container}?restype=container&comp=list&prefix={prefix}", auth="storage").status == 403


def register(raw: Raw, folder: Path, name: str) -> tuple[int, bytes]:
    """The answer to the registration of a folder as an MLflow model."""
    path = str(folder).partition("/azureml/")[2]
    properties = {"modelUri": f"azureml://datastores/workspaceblobstore/paths/azureml/{path}"}
    body = {"properties": properties | {"modelType": "mlflow_model"}}
    answer = raw.send("PUT", f"{MODELS}/{name}/versions/1?{VERSION}", auth="arm", body=body)
    return answer.status, answer.body


def test_an_mlmodel_that_is_a_link_is_not_read(raw: Raw, output: Path, outside: Path) -> None:
    """Its content is not in the message either."""
    folder = output / "linked"
    folder.mkdir()
    (folder / "MLmodel").symlink_to(outside / "secret")
    status, text = register(raw, folder, "linked")

    assert status == 403 and b"kept outside" not in text


BOMB = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefg"))


@pytest.mark.parametrize(
    "text",
    [
        b"- a\n- list\n",
        b"just text",
        b"",
        b"flavors: [a, b]\n",
        b"flavors: {a: text}\n",
        b"flavors: {a: !!python/object/apply:os.system [id]}\n",
        b"flavors: " + b"[" * 3000 + b"]" * 3000,
        b"flavors: {a: 1\n",
        b"\xff\xfe\x00",
        b"flavors: {a: {x: 1e9999999, y: 9999-99-99}}\nz: 2026-99-99\n",
        f"{BOMB}flavors: {{a: {{x: *g}}}}\n".encode(),
        b"flavors: {a: {x: " + b"y" * (1 << 20) + b"}}\n",
    ],
)
def test_an_mlmodel_that_is_no_mlmodel_is_refused(raw: Raw, output: Path, text: bytes) -> None:
    """With what is wrong, whatever a job has written there."""
    folder = output / f"model-{abs(hash(text))}"
    folder.mkdir()
    (folder / "MLmodel").write_bytes(text)
    status, answer = register(raw, folder, "broken")

    assert (status, b"The MLmodel file in" in answer) == (400, True), answer


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A folder with a split of its own, and a file beside it."""
    (tmp_path / "private.jsonl").write_text(ROW.replace('"b"', '"private"'))
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text(ROW)
    return folder


def request_for(folder: Path, **splits: str) -> Data:
    """The files of the folder as splits."""
    named = {f"{split}_split": f"{split}.jsonl" for split in ("train", "validation", "test")}
    return Data(source=str(folder), fraction=1.0, **named | splits)


@pytest.mark.parametrize("target", ["../private.jsonl", "/etc/passwd", "../data/../private.jsonl"])
def test_a_link_in_a_data_folder_is_named(data: Path, target: str) -> None:
    """A data set that was copied from elsewhere must not bring this machine's files into a training."""
    (data / "train.jsonl").unlink()
    (data / "train.jsonl").symlink_to(target)

    with pytest.raises(BadRequest, match=r"train\.jsonl.*outside"):
        open_source(pin(request_for(data), Workspace(emulator=True)))


def test_a_link_to_a_folder_of_data_is_named(data: Path, tmp_path: Path) -> None:
    """Also where a pattern goes through it."""
    (data / "more").symlink_to(tmp_path)

    with pytest.raises(BadRequest, match=r"more/private\.jsonl.*outside"):
        open_source(pin(request_for(data, train_split="more/*.jsonl"), Workspace(emulator=True)))


@pytest.mark.parametrize("path", ["PLACE/private.jsonl", "../private.jsonl", "../*.jsonl", "x/../../private.jsonl"])
def test_a_card_names_no_file_of_elsewhere(data: Path, tmp_path: Path, path: str) -> None:
    """`data_files` of a data set's README is the author's word, not the user's."""
    named = path.replace("PLACE", str(tmp_path))
    splits = "".join(f"  - split: {split}\n    path: '{named}'\n" for split in ("train", "validation", "test"))
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n"
    (data / "README.md").write_text(card)
    plain = {f"{split}_split": split for split in ("train", "validation", "test")}

    with pytest.raises(BadRequest):
        open_source(pin(request_for(data, **plain), Workspace(emulator=True)))

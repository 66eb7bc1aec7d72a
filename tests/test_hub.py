"""The loopback hub as its real clients see it, and the data set that it serves in benchmarks.

The clients run in one process of their own, which is started with the hub's variables as a user's would be.
"""

import http.client
import json
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pyarrow.parquet as pq
import pytest
from hub_client import CHAT, Client, Failed

from benchmarks import ultrachat
from benchmarks.hub import Hub
from benchmarks.hub_data import DataSets, read_commit

ROOT = Path(__file__).parent.parent
SCALE = 0.0005


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ultrachat_200k, the same gated and private, a data set with many files and one with certain sizes."""
    root = tmp_path_factory.mktemp("hub")
    ultrachat.write(root / CHAT, SCALE)
    for name in ("gated", "private"):
        shutil.copytree(root / CHAT, root / "lab" / name)
        (root / "lab" / f"{name}.json").write_text(json.dumps({name: True, "token": f"hf_{name}"}))
    (root / "lab/many/notes").mkdir(parents=True)
    for number in range(1005):
        (root / f"lab/many/notes/{number:04}.txt").write_text(f"{number}\n")
    (root / "lab/sizes").mkdir()
    (root / "lab/sizes/thousand.txt").write_bytes(b"0123456789" * 100)
    # The client keeps 10 MiB at a time: only from there on it resumes instead of starting again.
    (root / "lab/sizes/large.bin").write_bytes(random.Random(0).randbytes(11 << 20))
    return root


def data_file(root: Path, split: str = "train_sft", number: int = 0) -> Path:
    return sorted((root / CHAT / "data").glob(f"{split}-*"))[number]


DOWNLOAD = "result = hf_hub_download(name, file, repo_type='dataset', cache_dir=cache, revision=revision, token=token)"


def download(client: Client, cache: Path, file: str, name: str = CHAT, revision: str = "main", token: object = False):
    """The path of a file that `hf_hub_download` fetched into a cache of the test's own."""
    return Path(str(client.run(DOWNLOAD, name=name, file=file, cache=cache, revision=revision, token=token)))


def test_a_branch_is_resolved_to_a_commit(hub: Hub, client: Client, root: Path) -> None:
    """`main` has a commit of 40 hex digits that the content decides, with the files and what the card says of them."""
    info = client.run(
        """
        found = HfApi().dataset_info(name, files_metadata=True)
        refs = HfApi().list_repo_refs(name, repo_type="dataset")
        lfs = [file.rfilename for file in found.siblings if file.lfs]
        rows = {split["name"]: split["num_examples"] for split in found.card_data.dataset_info["splits"]}
        result = [found.sha, len(found.siblings), len(lfs), rows, refs.branches[0].target_commit, found.gated]
        """,
        name=CHAT,
    )

    commit = read_commit(root / CHAT).id
    assert re.fullmatch("[0-9a-f]{40}", commit)
    rows = {"train_sft": 104, "test_sft": 12, "train_gen": 128, "test_gen": 14}
    assert info == [commit, 9, 8, rows, commit, False]


def test_main_moves_and_old_commits_stay(hub: Hub, client: Client, root: Path, tmp_path: Path) -> None:
    """After a move `main` is the new content, the commit before it is read as before, and moving back is the old id."""
    first = read_commit(root / CHAT).id
    shutil.copytree(root / CHAT, tmp_path / "next")
    with (tmp_path / "next/README.md").open("a") as file:
        file.write("\nMended.\n")
    second = hub.commit(CHAT, tmp_path / "next")
    history = client.run(
        "result = [c.commit_id for c in HfApi().list_repo_commits(name, repo_type='dataset')]", name=CHAT
    )
    new = download(client, tmp_path / "cache", "README.md").read_text()
    old = download(client, tmp_path / "cache", "README.md", revision=first).read_text()

    assert second != first
    assert history == [second, first]
    assert new == old + "\nMended.\n"
    assert hub.commit(CHAT, root / CHAT) == first


def test_a_file_that_changes_after_its_commit_is_refused(tmp_path: Path) -> None:
    """Bytes of another content never pass for those of a commit."""
    folder = tmp_path / "lab/notes"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    _, blob = DataSets(tmp_path).open_to("lab/notes", "", content=True).blob("main", "a.txt")
    before = blob.is_unchanged()
    (folder / "a.txt").write_text("three")

    assert (before, blob.is_unchanged()) == (True, False)


def test_a_large_file_comes_from_the_second_port(hub: Hub, client: Client, root: Path, tmp_path: Path) -> None:
    """A file in LFS is a redirect with its digest and size, and one GET of the signed address."""
    source = data_file(root)
    path = download(client, tmp_path, f"data/{source.name}")
    log = [(entry["method"], entry["path"].split("/")[1], entry["status"]) for entry in hub.requests()]

    assert path.read_bytes() == source.read_bytes()
    assert log == [("HEAD", "datasets", 302), ("GET", "cdn", 200)]
    assert hub.bytes_sent("/cdn/*") == source.stat().st_size


def test_a_small_file_is_served_in_place(hub: Hub, client: Client, root: Path, tmp_path: Path) -> None:
    """README.md needs no redirect."""
    path = download(client, tmp_path, "README.md")

    assert path.read_text() == (root / CHAT / "README.md").read_text()
    assert [(entry["method"], entry["status"]) for entry in hub.requests()] == [("HEAD", 200), ("GET", 200)]


def test_a_file_system_reads_ranges(hub: Hub, client: Client, root: Path) -> None:
    """Opened without a cache, a file costs the bytes that are read and no more."""
    source = data_file(root)
    found = client.run(
        """
        files = HfFileSystem(token=False, skip_instance_cache=True)
        names = files.glob(f"datasets/{name}/data/train_sft-*.parquet")
        with files.open(names[0], cache_type="none") as file:
            file.seek(1000)
            content = file.read(100)
        result = [len(names), content.hex(), files.info(names[0])["size"]]
        """,
        name=CHAT,
    )
    ranges = [(entry["range"], entry["status"], entry["bytes"]) for entry in hub.requests() if "/cdn/" in entry["path"]]

    assert found == [3, source.read_bytes()[1000:1100].hex(), source.stat().st_size]
    assert ranges == [("bytes=1000-1099", 206, 100)]


@pytest.mark.parametrize(
    ("wanted", "status", "content_range", "length"),
    [
        ("", 200, None, 1000),
        ("bytes=0-9", 206, "bytes 0-9/1000", 10),
        ("bytes=990-", 206, "bytes 990-999/1000", 10),
        ("bytes=-5", 206, "bytes 995-999/1000", 5),
        ("bytes=990-2000", 206, "bytes 990-999/1000", 10),
        ("bytes=0-1,5-6", 200, None, 1000),
        ("bytes=1000-", 416, "bytes */1000", None),
    ],
)
def test_ranges(hub: Hub, wanted: str, status: int, content_range: str | None, length: int | None) -> None:
    """A range is answered with 206 and its place in the file, one behind the end with 416."""
    connection = http.client.HTTPConnection(urlsplit(hub.url).netloc, timeout=10)
    headers = {"Range": wanted} if wanted else {}
    connection.request("GET", "/datasets/lab/sizes/resolve/main/thousand.txt", headers=headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()

    assert (response.status, response.headers["Content-Range"]) == (status, content_range)
    assert length is None or len(content) == length


def test_listings_come_in_pages(hub: Hub, client: Client) -> None:
    """A thousand entries a page, fifty with details, and the client follows the links."""
    counts = client.run(
        """
        listing = dict(repo_type="dataset", recursive=True)
        plain = list(HfApi().list_repo_tree(name, **listing))
        full = list(HfApi().list_repo_tree(name, expand=True, **listing))
        below = list(HfApi().list_repo_tree(name, "notes", repo_type="dataset"))
        files = HfFileSystem(skip_instance_cache=True).find(f"datasets/{name}")
        info = HfApi().get_paths_info(name, ["notes", "notes/0004.txt", "absent"], repo_type="dataset", expand=True)
        result = [len(plain), len(full), len(below), len(files), [i.path for i in info], info[1].last_commit.title]
        """,
        name="lab/many",
    )
    pages = [entry["query"] for entry in hub.requests() if entry["path"] == "/api/datasets/lab/many/tree/main"]

    assert counts == [1006, 1006, 1005, 1005, ["notes", "notes/0004.txt"], "Upload dataset"]
    assert sum("expand=true" in query for query in pages) == 21
    assert sum("cursor=" in query for query in pages if "expand=true" not in query) == 2


@pytest.mark.parametrize(
    ("name", "file", "revision", "error"),
    [
        ("lab/absent", "README.md", "main", "RepositoryNotFoundError: 401"),
        (CHAT, "absent.txt", "main", "RemoteEntryNotFoundError: 404"),
        (CHAT, "README.md", "absent", "RevisionNotFoundError: 404"),
        (CHAT, "README.md", "0" * 40, "RevisionNotFoundError: 404"),
    ],
    ids=["data set", "file", "branch", "commit"],
)
def test_what_is_not_there(
    hub: Hub, client: Client, tmp_path: Path, name: str, file: str, revision: str, error: str
) -> None:
    """The client raises its own error for each thing that is missing."""
    with pytest.raises(Failed, match=error):
        download(client, tmp_path, file, name, revision)


@pytest.mark.parametrize(
    ("name", "token", "error"),
    [
        ("lab/gated", False, "GatedRepoError: 401"),
        ("lab/gated", "hf_private", "GatedRepoError: 403"),
        ("lab/gated", "hf_gated", None),
        ("lab/private", False, "RepositoryNotFoundError: 401"),
        ("lab/private", "hf_gated", "RepositoryNotFoundError: 404"),
        ("lab/private", "hf_private", None),
        (CHAT, "hf_unknown", "HfHubHTTPError: .*401 Unauthorized.*Invalid credentials"),
        (CHAT, "hf_gated", None),
    ],
)
def test_who_may_read(
    hub: Hub, client: Client, tmp_path: Path, root: Path, name: str, token: object, error: str | None
) -> None:
    """A gated data set shows itself and no file to a stranger, a private one hides, a wrong token opens nothing."""
    file = f"data/{data_file(root).name}"
    if error:
        with pytest.raises(Failed, match=f"(?s){error}"):
            download(client, tmp_path, file, name, token=token)
    else:
        assert download(client, tmp_path, file, name, token=token).stat().st_size > 0


def test_a_gated_data_set_is_listed_for_everyone(hub: Hub, client: Client) -> None:
    """Its page, and so its API, tells what it holds."""
    found = client.run("i = HfApi().dataset_info('lab/gated', token=False); result = [i.gated, len(i.siblings)]")

    assert found == ["auto", 9]


def test_a_percent_slice_of_a_data_set(hub: Hub, client: Client, root: Path) -> None:
    """`load_dataset` reads a share of a split, and asks no host but the hub and its viewer."""
    found = client.run(
        """
        import datasets
        builder = datasets.load_dataset_builder(name)
        rows = datasets.load_dataset(name, split="train_sft[0%:5%]")
        roles = [message["role"] for message in rows[0]["messages"]]
        result = [len(rows), rows[0]["prompt"], roles[:2], builder.info.splits["test_gen"].num_examples]
        """,
        name=CHAT,
    )
    first = pq.read_table(data_file(root), columns=["prompt"])["prompt"][0].as_py()
    other = {entry["path"] for entry in hub.requests() if not entry["path"].startswith("/")}

    assert found == [5, first, ["user", "assistant"], 14]
    assert {urlsplit(path).hostname for path in other} == {"datasets-server.127.0.0.1"}


@pytest.mark.parametrize("url", ["https://hub.example/api", "http://hub.example/api"])
def test_no_other_host_is_reached(hub: Hub, client: Client, url: str) -> None:
    """The hub is the clients' proxy too: it refuses, and shows what was asked for."""
    with pytest.raises(Failed, match="403 Forbidden"):
        client.run("from huggingface_hub.utils import get_session; get_session().get(url).raise_for_status()", url=url)

    assert [(entry["path"], entry["status"]) for entry in hub.requests()] == [
        ("hub.example:443" if url.startswith("https") else url, 403)
    ]


def test_a_stream_begins_at_once(hub: Hub, client: Client, root: Path) -> None:
    """The first rows of a streamed split come before its last file is asked for, and no other split is read."""
    found = client.run(
        """
        import datasets
        rows = datasets.load_dataset(name, split="train_gen", streaming=True)
        result = [row["prompt_id"] for row in rows.take(2)]
        """,
        name=CHAT,
    )
    first, last = data_file(root, "train_gen", 0), data_file(root, "train_gen", 2)
    read = {Path(str(entry["path"])).name for entry in hub.requests() if entry["bytes"] and "/cdn/" in entry["path"]}

    assert found == pq.read_table(first, columns=["prompt_id"])["prompt_id"][:2].to_pylist()
    assert first.name in read
    assert last.name not in read
    assert all(name.startswith("train_gen") for name in read)


def test_load_dataset_needs_the_token_of_a_gated_data_set(hub: Hub, client: Client) -> None:
    """Without one it says that the data set is gated, with one it loads."""
    load = "import datasets; result = len(datasets.load_dataset('lab/gated', split='test_sft', token=token))"
    with pytest.raises(Failed, match="is a gated dataset on the Hub"):
        client.run(load, token=False)

    assert client.run(load, token="hf_gated") == 12


INFO = "result = HfApi().dataset_info(name, timeout=0.5).id"
LIST = "result = len(list(HfApi().list_repo_tree(name, repo_type='dataset', recursive=True)))"


@pytest.mark.parametrize(
    ("effects", "error"),
    [
        ({"status": 500}, "HfHubHTTPError.*500 Internal Server Error"),
        ({"status": 503}, "HfHubHTTPError.*503 Service Unavailable"),
        ({"status": 429}, "429 Too Many Requests for url"),
        ({"status": 429, "rate_limit": 7}, "429 Too Many Requests.*Retry after 7 seconds .0/1000 requests"),
        ({"drop": True}, "RemoteProtocolError: Server disconnected without sending a response"),
        ({"drop": True, "reset": True}, "ReadError"),
        ({"cut_after": 20}, "RemoteProtocolError: peer closed connection .*received 20 bytes"),
        ({"short_by": 20}, "JSONDecodeError"),
        ({"delay_seconds": 1.0}, "ReadTimeout"),
    ],
    ids=["500", "503", "429", "rate limit", "dropped", "reset", "cut", "short", "late"],
)
def test_faults_of_a_call_without_retry(hub: Hub, client: Client, effects: dict, error: str) -> None:
    """`dataset_info` asks once and raises what befell it; the next call is answered."""
    hub.fault(f"/api/datasets/{CHAT}", **effects)
    with pytest.raises(Failed, match=f"(?s){error}"):
        client.run(INFO, name=CHAT)

    assert client.run(INFO, name=CHAT) == CHAT


@pytest.mark.parametrize(
    ("effects", "seconds"),
    [
        ({"status": 429}, 1),
        ({"status": 429, "retry_after": 1}, 2),
        ({"status": 429, "rate_limit": 1}, 2),
        ({"status": 503}, 1),
    ],
    ids=["429", "Retry-After", "RateLimit", "503"],
)
def test_faults_of_a_call_with_retry(hub: Hub, client: Client, effects: dict, seconds: float) -> None:
    """A listing waits and asks again, a second later than the headers say."""
    hub.fault("*/tree/*", **effects)
    started = time.monotonic()

    assert client.run(LIST, name=CHAT) == 10
    assert [e["status"] for e in hub.requests() if "/tree/" in e["path"]] == [effects["status"], 200]
    assert time.monotonic() - started >= seconds


@pytest.mark.parametrize(
    ("effects", "log"),
    [
        ({"drop": True}, [("", 0, 0), ("", 200, 11 << 20)]),
        ({"cut_after": 5000}, [("", 200, 5000), ("", 200, 11 << 20)]),
        ({"cut_after": 11_000_000}, [("", 200, 11_000_000), ("bytes=10485760-", 206, 1 << 20)]),
    ],
    ids=["dropped", "cut early", "cut late"],
)
def test_a_download_goes_on_after_a_fault(
    hub: Hub, client: Client, root: Path, tmp_path: Path, effects: dict, log: list
) -> None:
    """`hf_hub_download` asks again, after a late cut only for what it lacks, and the file is whole."""
    hub.fault("/cdn/*", **effects)
    path = download(client, tmp_path, "large.bin", "lab/sizes")
    asked = [entry for entry in hub.requests() if entry["path"].startswith("/cdn/")]

    assert path.read_bytes() == (root / "lab/sizes/large.bin").read_bytes()
    assert [(entry["range"], entry["status"], entry["bytes"]) for entry in asked] == log


@pytest.mark.parametrize(
    ("effects", "error"),
    [
        ({"short_by": 3}, "OSError: Consistency check failed"),
        ({"cut_after": 5000, "reset": True}, "ReadError"),
        ({"status": 403}, "HfHubHTTPError.*403 Forbidden"),
    ],
    ids=["short", "reset", "expired"],
)
def test_a_download_fails_after_a_fault(
    hub: Hub, client: Client, root: Path, tmp_path: Path, effects: dict, error: str
) -> None:
    """What the client does not ride out it raises, and no file appears."""
    hub.fault("/cdn/*", **effects)
    with pytest.raises(Failed, match=f"(?s){error}"):
        download(client, tmp_path, f"data/{data_file(root).name}")

    assert list(tmp_path.rglob("*.parquet")) == []


def test_a_slow_download(hub: Hub, client: Client, root: Path, tmp_path: Path) -> None:
    """A file at its own size a second takes about a second, and every byte arrives."""
    source = data_file(root, "test_sft")
    hub.fault("/cdn/*", bytes_per_second=source.stat().st_size)
    started = time.monotonic()
    path = download(client, tmp_path, f"data/{source.name}")

    assert path.read_bytes() == source.read_bytes()
    assert time.monotonic() - started > 0.8


def test_faults_are_counted_and_chosen_by_path(hub: Hub, client: Client) -> None:
    """A fault takes as many calls as it says, of its path alone; an unknown effect is refused by name."""
    hub.fault("/api/datasets/lab/*", status=500, calls=2)
    failures = 0
    for name in (CHAT, "lab/many", "lab/many", "lab/many"):
        try:
            client.run(INFO, name=name)
        except Failed:
            failures += 1
    with pytest.raises(ValueError, match="A fault has no field 'stauts'"):
        hub.fault("*", stauts=500)

    assert failures == 2


def test_the_hub_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed leaves no server behind."""
    code = "import sys; from pathlib import Path; from benchmarks.hub import Hub\n"
    code += "with Hub(Path(sys.argv[1])) as hub: print(hub.process.pid, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait(10)
    gone, alive = psutil.wait_procs([server], timeout=10)

    assert (len(gone), alive) == (1, [])


def test_the_same_seed_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    """Names and content of all files; another seed has other prompts, and a complete folder is not written again."""
    again = ultrachat.write(tmp_path / "again", SCALE)
    other = ultrachat.write(tmp_path / "other", SCALE, seed=1)
    before = {path: path.stat().st_mtime_ns for path in again.rglob("*")}
    ultrachat.write(again, SCALE)
    prompts = [
        {prompt for file in folder.glob("data/*") for prompt in pq.read_table(file)["prompt"].to_pylist()}
        for folder in (again, other)
    ]

    assert read_commit(again).id == read_commit(root / CHAT).id
    assert {path: path.stat().st_mtime_ns for path in again.rglob("*")} == before
    assert [len(texts) for texts in prompts] == [258, 258]
    assert prompts[0].isdisjoint(prompts[1])


def test_rows_are_those_of_the_data_set(root: Path) -> None:
    """Turns alternate and end with the assistant, and the prompt is the first of them."""
    for file in (root / CHAT / "data").iterdir():
        for row in pq.read_table(file).to_pylist():
            roles = [message["role"] for message in row["messages"]]
            assert roles == ["user", "assistant"] * (len(roles) // 2)
            assert 2 <= len(roles) <= 14
            assert row["prompt"] == row["messages"][0]["content"]
            assert all(message["content"].strip() for message in row["messages"])


def test_other_data_is_not_overwritten(tmp_path: Path) -> None:
    """A folder that holds anything else is refused and left as it is."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.parquet").write_bytes(b"PAR1")
    with pytest.raises(FileExistsError, match=r"holds 'data/mine.parquet' of something else. Choose another folder"):
        ultrachat.write(tmp_path, SCALE)

    assert [path.name for path in tmp_path.rglob("*")] == ["data", "mine.parquet"]

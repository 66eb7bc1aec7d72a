"""The data step against a hub on loopback, as its real clients see it: what is fetched, pinned, survived and refused.

Hugging Face's libraries read the hub's address when they are imported, so `prepare` runs in a process of its own, which
is started with the hub's variables as a user's would be.
"""

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_client import CHAT, Client

from benchmarks import ultrachat
from benchmarks.hub import Hub
from benchmarks.hub_data import read_commit
from chatdata import checks
from chatdata.data_step import prepare
from retune import sign_in
from retune.request import Data, Request

ROOT = Path(__file__).resolve().parent.parent
SCALE = 0.01
LINES = {"train_split": "train", "validation_split": "validation", "test_split": "test"}
Prepare = Callable[..., dict]

PREPARE = """
import os
os.environ["RETUNE_HOME"] = home
os.environ.pop("HF_TOKEN", None)
if token:
    os.environ["HF_TOKEN"] = token
from retune.errors import RetuneError
from retune.request import Data, Request
from chatdata.data_step import prepare
try:
    result = prepare(Request(data=Data(**settings), training=training)).model_dump(mode="json")
except RetuneError as error:
    result = {"error": type(error).__name__, "code": error.code, "text": error.message, "fix": error.fix}
"""

# The task's own retries, with Prefect around them.
FLOW = """
import os
from pathlib import Path
os.environ["RETUNE_HOME"] = home
from prefect import flow
from retune import sign_in
from retune.request import Data, Request
from tasks.data import prepare_data

@flow(name="prepare", persist_result=False)
def run():
    state = prepare_data(Request(data=Data(**settings)), return_state=True)
    return [state.name, state.result().splits["test"].rows]

with sign_in.signed_in(Path(profile)):
    result = run()
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ultrachat_200k in row groups of a hundred rows, the same gated and private, JSON lines, and a model."""
    root = tmp_path_factory.mktemp("hub")
    ultrachat.write(root / CHAT, SCALE)
    for file in (root / CHAT / "data").iterdir():
        pq.write_table(pq.read_table(file), file, row_group_size=100)
    for name in ("gated", "private"):
        shutil.copytree(root / CHAT, root / "lab" / name)
        (root / "lab" / f"{name}.json").write_text(json.dumps({name: True, "token": f"hf_{name}"}))
    write_lines(root / "lab/lines", 200)
    for name, kind in (("single", "parquet"), ("texts", "jsonl")):
        turns = [("user", "{}?"), ("assistant", "It is {}.")]
        chats = [[{"role": role, "content": text.format(n)} for role, text in turns] for n in range(200)]
        write = {"parquet": write_parquet, "jsonl": write_jsonl}[kind]
        write(root / "lab" / name / "data" / f"train-00000-of-00001.{kind}", chats)
    (root / ".models/lab/tiny").mkdir(parents=True)
    shutil.copy(ROOT / "azureml_emulator/registry/weights/tiny-phi3/tokenizer.json", root / ".models/lab/tiny")
    return root


def write_parquet(path: Path, chats: list) -> None:
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"messages": chats}), path)


def write_jsonl(path: Path, chats: list) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))


def write_lines(folder: Path, rows: int) -> Path:
    """A data set of JSON lines, a file for each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        chats = [
            [
                {"role": "user", "content": f"{split} {row}?"},
                {"role": "assistant", "content": f"It is {row} of {split}."},
            ]
            for row in range(rows)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return folder


@pytest.fixture
def prepare_from_hub(client: Client, tmp_path: Path) -> Prepare:
    """The prepared data of a request in a home of the test's own, or the error."""

    def run(
        source: str = CHAT, token: str | None = None, training: dict[str, object] | None = None, **settings: object
    ) -> dict:
        data = {"source": source, "fraction": 0.05, "on_bad_row": "drop"} | settings
        values = {"home": tmp_path / "home", "token": token, "settings": data, "training": training or {}}
        return client.run(PREPARE, **values)

    return run


def content_sent(hub: Hub) -> int:
    """Bytes that the hub sent of data files, wherever it keeps them."""
    return hub.bytes_sent("/cdn/*") + hub.bytes_sent("/datasets/*.jsonl")


def files_read(hub: Hub) -> set[str]:
    """The splits of the parquet files of which anything was sent."""
    sent = [str(entry["path"]) for entry in hub.requests() if entry["bytes"] and entry["path"].startswith("/cdn/")]
    return {Path(path).name.partition("-")[0] for path in sent}


def rows_of(made: dict) -> dict[str, int]:
    return {role: split["rows"] for role, split in made["splits"].items()}


def digests_of(made: dict) -> dict[str, str]:
    return {role: split["sha256"] for role, split in made["splits"].items()}


@pytest.mark.parametrize("name", ["lab/single", "https://huggingface.co/datasets/lab/texts"])
def test_a_dataset_with_only_a_training_split_is_split_here(name: str, hub: Hub, prepare_from_hub: Prepare) -> None:
    """By its id or its page's address; its file is fetched once, though it is read for each role."""
    made = prepare_from_hub(name, fraction=1)

    rows, splits = rows_of(made), made["splits"]
    assert sum(rows.values()) == 200
    assert {role for role, split in splits.items() if split["held_out"]} == {"validation", "test"}
    assert 0 < content_sent(hub) < 3 * sum(split["bytes"] for split in splits.values())


def test_only_what_is_wanted_is_fetched(hub: Hub, prepare_from_hub: Prepare, root: Path) -> None:
    """A twentieth of each split is its first row group, read by range; a split that is not named is never touched."""
    made = prepare_from_hub()

    first = {
        split: sorted((root / CHAT / "data").glob(f"{split}-*"))[0] for split in ("train_sft", "test_sft", "test_gen")
    }
    footers = 5 * 65_536
    # 104 rows of the training split are in two groups.
    groups = sum(group_size(file, 2 if split == "train_sft" else 1) for split, file in first.items())
    assert rows_of(made) == {"train": 104, "validation": 12, "test": 14}
    assert files_read(hub) == {"train_sft", "test_sft", "test_gen"}
    assert content_sent(hub) <= groups + footers
    assert made["fetched_bytes"] == content_sent(hub)


def group_size(file: Path, groups: int) -> int:
    """Compressed size of the first row groups."""
    about = [pq.read_metadata(file).row_group(number) for number in range(groups)]
    return sum(group.column(number).total_compressed_size for group in about for number in range(group.num_columns))


def test_a_branch_is_pinned_to_its_commit(hub: Hub, prepare_from_hub: Prepare, root: Path) -> None:
    """The report holds the commit, whatever the revision was called; a second run asks for the commit alone."""
    commit = read_commit(root / CHAT).id
    runs = [prepare_from_hub(), prepare_from_hub(revision="main")]
    hub.reset()
    runs.append(prepare_from_hub(revision="main"))
    asked = [(entry["method"], entry["path"]) for entry in hub.requests()]

    assert [run["revision"] for run in runs] == [commit] * 3
    assert [run["cached"] for run in runs] == [False, True, True]
    assert asked == [("GET", f"/api/datasets/{CHAT}/revision/main")]
    assert (content_sent(hub), runs[-1]["fetched_bytes"]) == (0, 0)


def test_a_pinned_commit_needs_no_request_on_a_hit(hub: Hub, prepare_from_hub: Prepare, root: Path) -> None:
    """What was prepared from `main` is that commit's."""
    commit = read_commit(root / CHAT).id
    prepare_from_hub()
    hub.reset()
    made = prepare_from_hub(revision=commit)

    assert (made["cached"], made["revision"], hub.requests()) == (True, commit, [])


def test_a_branch_that_moved_is_prepared_anew(hub: Hub, prepare_from_hub: Prepare, root: Path, tmp_path: Path) -> None:
    """The new commit is another key; the commit before it is still there, and still a hit."""
    first = prepare_from_hub("lab/lines", fraction=1, **LINES)
    second = hub.commit("lab/lines", write_lines(tmp_path / "next", 150))
    moved = prepare_from_hub("lab/lines", fraction=1, **LINES)
    old = prepare_from_hub("lab/lines", fraction=1, revision=first["revision"], **LINES)
    back = hub.commit("lab/lines", root / "lab/lines")

    assert (moved["cached"], moved["revision"], rows_of(moved)["train"]) == (False, second, 150)
    assert (old["cached"], old["revision"], rows_of(old)["train"]) == (True, back, 200)
    assert old["key"] != moved["key"]


def test_json_lines_on_the_hub_are_fetched_whole_and_once(hub: Hub, prepare_from_hub: Prepare, root: Path) -> None:
    """Text has no row groups: each file comes once, though its rows are counted before they are read."""
    made = prepare_from_hub("lab/lines", fraction=0.5, **LINES)

    size = sum(file.stat().st_size for file in (root / "lab/lines").glob("*.jsonl"))
    assert rows_of(made) == {"train": 100, "validation": 100, "test": 100}
    assert made["fetched_bytes"] == content_sent(hub) == size


def test_a_choice_by_digest_is_that_of_a_local_copy(
    hub: Hub, prepare_from_hub: Prepare, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows in the same files, wherever the source is."""
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "local"))
    chosen = {"selection": "hash", "seed": 3, "fraction": 0.1, "on_bad_row": "drop"}
    made = prepare_from_hub(**chosen)
    local = prepare(Request(data=Data(source=str(root / CHAT), **chosen)))

    assert digests_of(made) == {role: split.sha256 for role, split in local.splits.items()}
    assert made["fetched_bytes"] == content_sent(hub)
    assert "train_gen" not in files_read(hub)


def test_a_split_can_be_a_file_of_the_data_set(prepare_from_hub: Prepare) -> None:
    """All three, or one beside splits that are found; a file that is not there is named with the data set."""
    files = {f"{role}_split": f"{role}.jsonl" for role in ("train", "validation", "test")}

    named = prepare_from_hub("lab/lines", **files)
    by_pattern = prepare_from_hub("lab/lines", test_split="t*t.jsonl")
    absent = prepare_from_hub("lab/lines", train_split="absent.jsonl")

    assert rows_of(named) == rows_of(by_pattern) == {"train": 10, "validation": 10, "test": 10}
    assert digests_of(named) == digests_of(by_pattern)
    assert re.search(r"Split 'absent\.jsonl': no file of that name below 'lab/lines@", absent["text"])


@pytest.mark.parametrize("name", ["private", "gated"])
def test_a_token_opens_what_is_not_public(hub: Hub, prepare_from_hub: Prepare, name: str) -> None:
    """HF_TOKEN is all that is needed; without it, or with that of another, the error says to set it."""
    refused = [
        prepare_from_hub(f"lab/{name}", token) for token in (None, "hf_gated" if name == "private" else "hf_private")
    ]
    made = prepare_from_hub(f"lab/{name}", f"hf_{name}")

    assert [one["error"] for one in refused] == ["BadRequest", "BadRequest"]
    assert all(f"data.source 'lab/{name}'" in one["text"] for one in refused)
    assert all("for a private or gated one set HF_TOKEN" in one["text"] for one in refused)
    assert rows_of(made) == {"train": 104, "validation": 12, "test": 14}
    assert "hf_" not in json.dumps(made)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"source": "lab/absent"},
            r"data\.source 'lab/absent' is neither a folder here nor a data set that the hub shows",
        ),
        ({"revision": "absent"}, r"at revision 'absent' is neither .* Check the name and the revision"),
        ({"revision": "0" * 40}, r"Revision '0{40}' doesn't exist for dataset .* Check the name and the revision"),
        (
            {"source": "lab/private", "revision": "0" * 40},
            r"'lab/private' doesn't exist .* or cannot be accessed.*HF_TOKEN",
        ),
        ({"train_split": "train"}, r"has no split 'train'\. Its splits: test_gen, test_sft, train_gen, train_sft"),
        ({"subset": "other"}, r"'other' not found\. Available: \['default'\]"),
        ({"source": "lab/lines:x"}, r"'lab/lines:x' is neither a folder nor a hub id"),
    ],
    ids=["data set", "branch", "commit", "private at a commit", "split", "subset", "no name at all"],
)
def test_what_the_hub_does_not_have_is_named(hub: Hub, prepare_from_hub: Prepare, settings: dict, message: str) -> None:
    """One request tells, no content is fetched, and the message says what there is or what to check."""
    found = prepare_from_hub(**settings)

    assert found["error"] == "BadRequest"
    assert re.search(message, found["text"])
    assert content_sent(hub) == 0


@pytest.mark.parametrize(
    "fault",
    [
        {"path": "/cdn/*", "status": 429, "retry_after": 0},
        {"path": "*/tree/*", "status": 429, "rate_limit": 0},
        {"path": "/cdn/*", "status": 503},
        {"path": "/cdn/*", "drop": True},
        {"path": "/cdn/*", "cut_after": 5000},
        {"path": "/cdn/*", "cut_after": 5000, "reset": True},
    ],
    ids=["429 for content", "429 for a listing", "503", "dropped", "cut off", "reset"],
)
def test_a_fault_of_the_hub_is_ridden_out(hub: Hub, prepare_from_hub: Prepare, fault: dict) -> None:
    """The client asks again, and the files are those of a quiet day."""
    hub.fault(**fault)
    disturbed = prepare_from_hub(seed=1)
    statuses = [entry["status"] for entry in hub.requests()]
    quiet = prepare_from_hub(seed=2)

    assert "status" not in fault or fault["status"] in statuses
    assert disturbed["cached"] is False
    assert digests_of(disturbed) == digests_of(quiet)
    assert disturbed["fetched_bytes"] == quiet["fetched_bytes"]


def test_retry_after_is_waited_for(hub: Hub, prepare_from_hub: Prepare) -> None:
    """A hub that says two seconds is not asked before."""
    hub.fault("/cdn/*", status=429, retry_after=2)
    made = prepare_from_hub()

    assert made["seconds"] >= 2


@pytest.mark.parametrize(
    "fault",
    [
        {"path": f"/api/datasets/{CHAT}", "drop": True},
        {"path": f"/api/datasets/{CHAT}", "status": 429},
        {"path": "/cdn/*", "status": 403},
        {"path": "/cdn/*", "short_by": 100},
    ],
    ids=["dropped look-up", "429 look-up", "expired address", "short answer"],
)
def test_what_the_client_does_not_repeat_is_a_named_error(hub: Hub, prepare_from_hub: Prepare, fault: dict) -> None:
    """DataUnreachable, which the task repeats; never a data set that is called broken. The next run goes on."""
    hub.fault(**fault)
    failed = prepare_from_hub()
    made = prepare_from_hub()

    assert (failed["error"], failed["code"]) == ("CloudError", "DataUnreachable")
    assert "HF_ENDPOINT" in failed["fix"]
    assert rows_of(made) == {"train": 104, "validation": 12, "test": 14}


@pytest.mark.usefixtures("prefect_api")
def test_the_task_repeats_what_the_client_does_not(hub: Hub, client: Client, tmp_path: Path) -> None:
    """A look-up that was dropped or refused for its rate is made again, and the run goes on."""
    hub.fault(f"/api/datasets/{CHAT}", drop=True)
    settings = {"source": CHAT, "fraction": 0.05, "on_bad_row": "drop"}
    profile = os.environ[sign_in.PROFILES_PATH]
    ended = client.run(FLOW, home=tmp_path / "home", profile=profile, settings=settings)
    looked_up = [entry["status"] for entry in hub.requests() if entry["path"] == f"/api/datasets/{CHAT}"]

    assert ended == ["Completed", 14]
    assert looked_up == [0, 200]


def test_a_hub_that_is_away_is_a_named_error(hub: Hub, tmp_path: Path) -> None:
    """The message names the source, the fix says what to check."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        away = Hub(tmp_path)
        away.env = {**hub.env, "HF_ENDPOINT": f"http://127.0.0.1:{free.getsockname()[1]}"}
        client = Client(away, tmp_path / "hf")
        settings = {"source": CHAT}
        found = client.run(PREPARE, home=tmp_path / "home", token=None, settings=settings, training={})
        client.close()

    assert (found["error"], found["code"]) == ("CloudError", "DataUnreachable")
    assert f"'{CHAT}' is no folder or file here" in found["text"]
    assert "HF_ENDPOINT" in found["fix"]


def test_a_tokenizer_comes_from_the_hub(hub: Hub, prepare_from_hub: Prepare) -> None:
    """Its counts take the place of the estimate; a model that is not there is named."""
    made = prepare_from_hub(tokenizer="lab/tiny", training={"max_seq_length": 512})
    estimated = prepare_from_hub(training={"max_seq_length": 512})
    absent = prepare_from_hub(tokenizer="lab/absent")

    train = made["splits"]["train"]
    assert train["statistics"]["token_rows"] == 6
    assert train["statistics"]["tokens"]["p50"] > 100
    assert re.search(r"\(\d+ tokens\)", train["bad_rows"][0]["examples"][0])
    assert re.search(r"\(about \d+ tokens\)", estimated["splits"]["train"]["bad_rows"][0]["examples"][0])
    assert (absent["error"], "'lab/absent' is neither a folder with a tokenizer.json" in absent["text"]) == (
        "BadRequest",
        True,
    )


def test_every_control_character_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However JSON escapes it; tabs and line ends alone are kept."""
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    folder = write_lines(tmp_path / "chats", 20)
    characters = [chr(code) for code in (*range(32), 127, *range(128, 160))]
    rows = [
        [{"role": "user", "content": f"a{one}b {number}?"}, {"role": "assistant", "content": f"It is {number}."}]
        for number, one in enumerate(characters)
    ]
    with (folder / "train.jsonl").open("a") as file:
        file.writelines(json.dumps({"messages": row}) + "\n" for row in rows)
    files = {name: f"{split}.jsonl" for name, split in LINES.items()}
    made = prepare(Request(data=Data(source=str(folder), on_bad_row="drop", drop_limit=1, **files)))

    assert made.splits["train"].dropped == {"control characters": len(characters) - len("\t\n\x0b\x0c\r\x85")}


def test_every_kind_of_bad_row_is_documented() -> None:
    """The table of docs/data.md names the kinds of chatdata.checks, in their order."""
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    _, _, table = page.partition("| kind | ")
    named = re.findall(r"^\| ([^|]+?) \|", table.partition("\n\n")[0], re.MULTILINE)
    kinds = [value for name, value in vars(checks).items() if name.isupper() and isinstance(value, str)]

    assert [name for name in named if not name.startswith("-")] == kinds

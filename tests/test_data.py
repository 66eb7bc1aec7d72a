"""Chat data: sources, row checks, the cache that is verified, and files that appear whole."""

import json
from pathlib import Path

import pandas as pd
import pytest
from prefect import flow

import tasks.data
from retune.errors import BadRequest, CloudError
from retune.request import Data
from tasks.data import bad_reason, pin, write_splits

ASK = {"role": "user", "content": "Hello?"}
SAY = {"role": "assistant", "content": "Hi."}


@pytest.fixture(autouse=True)
def retune_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prepared data goes to the test's own folder."""
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write_folder(folder: Path, rows: int = 40, **splits: list) -> Path:
    """A folder in the hub's layout with three splits of parquet; `splits` replaces whole `messages` columns."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    good = [[{"role": "user", "content": f"Question {number}?"}, SAY] for number in range(rows)]
    for split in ("train_sft", "test_sft", "test_gen"):
        frame = pd.DataFrame({"messages": splits.get(split, good)})
        frame["prompt"] = "p"
        frame.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def prepare(folder: Path, **settings: object) -> dict:
    """The manifest's splits for a folder, without Prefect."""
    return write_splits.fn(pin(Data(source=str(folder), **{"fraction": 1.0} | settings))).splits


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([ASK, SAY], None),
        ([{"role": "system", "content": "Be brief."}, ASK, SAY], None),
        (None, "no messages"),
        ("", "fewer than two messages"),
        ([], "fewer than two messages"),
        ([ASK], "fewer than two messages"),
        ([ASK, ASK], "no assistant turn"),
        ([ASK, {"role": "assistant", "content": "  "}], "no assistant turn"),
        ("hello", "messages is not a list"),
        ([ASK, "Hi."], "a message without role and content"),
        ([ASK, {"role": "assistant"}], "a message without role and content"),
        ([ASK, {"role": "bot", "content": "Hi."}], "unknown role 'bot'"),
        ([ASK, {"role": "assistant", "content": None}], "content is not text"),
        ([ASK, {"role": "assistant", "content": 4}], "content is not text"),
    ],
)
def test_a_row_is_judged_as_the_component_would(messages: object, reason: str | None) -> None:
    """Rows that the component drops or fails on are known before a GPU is paid for."""
    assert bad_reason({"messages": messages}) == reason


def test_a_row_without_the_column_has_no_messages() -> None:
    """A missing key counts like an empty one."""
    assert bad_reason({"prompt": "Hello?"}) == "no messages"


def test_the_leading_share_of_each_split_is_written_as_jsonl(tmp_path: Path) -> None:
    """A quarter of 40 rows is the first ten, all columns kept."""
    splits = prepare(write_folder(tmp_path / "chats"), fraction=0.25)

    lines = Path(splits["train"].path).read_text(encoding="utf-8").splitlines()
    assert [splits[role].rows for role in ("train", "validation", "test")] == [10, 10, 10]
    assert json.loads(lines[9])["messages"][0]["content"] == "Question 9?"
    assert json.loads(lines[0])["prompt"] == "p"


def test_rows_that_the_component_drops_are_counted(tmp_path: Path) -> None:
    """What the component leaves out without a word stands in the report."""
    rows = [[ASK, SAY]] * 20 + [[ASK]] * 3 + [[ASK, ASK]]
    splits = prepare(write_folder(tmp_path / "chats", train_sft=rows))

    assert splits["train"].rows == 20
    assert splits["train"].dropped == {"fewer than two messages": 3, "no assistant turn": 1}


def test_bad_rows_are_named_all_at_once(tmp_path: Path) -> None:
    """Every kind of bad row in every split is one message with row numbers."""
    train = [[ASK, SAY]] * 20 + [None, [ASK, {"role": "bot", "content": "x"}], None]
    test = [[ASK, SAY]] * 5 + [[{"role": "user", "content": None}, SAY]]
    folder = write_folder(tmp_path / "chats", train_sft=train, test_gen=test)

    with pytest.raises(BadRequest) as caught:
        prepare(folder)

    assert caught.value.problems == [
        f"Split 'train_sft' of '{folder}': 2 row(s) with no messages, e.g. row 21, 23.",
        f"Split 'train_sft' of '{folder}': 1 row(s) with unknown role 'bot', e.g. row 22.",
        f"Split 'test_gen' of '{folder}': 1 row(s) with content is not text, e.g. row 6.",
    ]
    assert "data.on_bad_row=drop" in caught.value.fix


def test_bad_rows_are_left_out_on_request(tmp_path: Path) -> None:
    """`data.on_bad_row: drop` counts them instead."""
    splits = prepare(write_folder(tmp_path / "chats", train_sft=[[ASK, SAY]] * 20 + [None]), on_bad_row="drop")

    assert (splits["train"].rows, splits["train"].dropped) == (20, {"no messages": 1})


def test_too_few_training_rows_are_refused(tmp_path: Path) -> None:
    """The component needs ten training rows for a generative task."""
    with pytest.raises(BadRequest, match=r"'train_sft' has 9 usable row\(s\), train needs at least 10"):
        prepare(write_folder(tmp_path / "chats", train_sft=[[ASK, SAY]] * 9))


def test_jsonl_in_hub_layout_is_a_source_too(tmp_path: Path) -> None:
    """`datasets` reads the folder, whatever the file format."""
    for split in ("train_sft", "test_sft", "test_gen"):
        path = tmp_path / "chats" / "data" / f"{split}-00000-of-00001.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{json.dumps({'messages': [ASK, SAY]})}\n" * 12, encoding="utf-8")

    assert prepare(tmp_path / "chats")["validation"].rows == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_split": "train"}, "train_sft"),
        ({"subset": "nothing"}, "nothing"),
    ],
    ids=["unknown split", "unknown subset"],
)
def test_what_the_source_does_not_hold_is_named(settings: dict, message: str, tmp_path: Path) -> None:
    """An unknown split or subset shows what there is."""
    with pytest.raises(BadRequest, match=message):
        prepare(write_folder(tmp_path / "chats"), **settings)


def test_a_missing_folder_is_refused() -> None:
    """A path that is no folder is not looked up on the hub."""
    with pytest.raises(BadRequest, match="no such folder"):
        pin(Data(source="./nowhere"))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """An empty data set is a bad request."""
    (tmp_path / "empty").mkdir()

    with pytest.raises(BadRequest, match="is an empty folder"):
        pin(Data(source=str(tmp_path / "empty")))


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    """A file that is no parquet is named with the reason."""
    folder = write_folder(tmp_path / "chats")
    (folder / "data" / "test_gen-00000-of-00001.parquet").write_bytes(b"not parquet")

    with pytest.raises(BadRequest, match=r"(?i)parquet"):
        prepare(folder)


def test_a_hub_that_does_not_answer_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the error says what to check."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(CloudError) as caught:
        pin(Data(source="someone/chats"))

    assert caught.value.code == "DataUnreachable"
    assert "HF_ENDPOINT" in caught.value.fix


@pytest.mark.usefixtures("prefect_api")
def test_prepared_data_is_used_again_until_it_changes(tmp_path: Path) -> None:
    """A second run is a hit; an edited or deleted file, other settings or other content are not."""
    folder = write_folder(tmp_path / "chats")
    data = Data(source=str(folder), fraction=1.0)
    prepare_data = flow(name="prepare", persist_result=False)(tasks.data.prepare_data.fn)

    first, second = prepare_data(data), prepare_data(data)
    Path(first.splits["train"].path).write_text("edited\n", encoding="utf-8")
    third = prepare_data(data)
    Path(first.splits["test"].path).unlink()
    fourth = prepare_data(data)
    half = prepare_data(data.model_copy(update={"fraction": 0.5}))
    write_folder(folder, rows=30)
    changed = prepare_data(data)

    assert [run.cached for run in (first, second, third, fourth, half, changed)] == [
        False,
        True,
        False,
        False,
        False,
        False,
    ]
    assert third.splits["train"].sha256 == first.splits["train"].sha256
    assert [run.splits["train"].rows for run in (fourth, half, changed)] == [40, 20, 30]


def test_an_interrupted_preparation_leaves_no_half_file(tmp_path: Path, retune_home: Path) -> None:
    """Files appear together, after all were checked."""
    folder = write_folder(tmp_path / "chats", test_gen=[None])

    with pytest.raises(BadRequest):
        prepare(folder)

    assert list((retune_home / "data").iterdir()) == []

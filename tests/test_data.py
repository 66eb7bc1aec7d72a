"""Chat data: sources, the choice of rows, the cache that is verified, and files that appear whole."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from prefect import flow

import tasks.data
from chatdata import cache
from chatdata.data_step import prepare
from chatdata.sources import pin
from retune.errors import BadRequest, CloudError
from retune.report import PreparedData
from retune.request import Data, Request, Workspace

SAY = {"role": "assistant", "content": "Hi."}
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def retune_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prepared data goes to the test's own folder."""
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def chats(name: str, rows: int) -> list[list[dict[str, str]]]:
    """Conversations that differ from those of any other name."""
    return [[{"role": "user", "content": f"{name} question {number}?"}, SAY] for number in range(rows)]


def write_folder(folder: Path, rows: int = 40, **splits: list) -> Path:
    """A folder in the hub's layout with three splits of parquet; `splits` replaces whole `messages` columns."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split in ("train_sft", "test_sft", "test_gen"):
        frame = pd.DataFrame({"messages": splits.get(split, chats(split, rows))})
        frame["prompt"] = "p"
        frame.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def write_lines(path: Path, rows: list[list[dict[str, str]]]) -> Path:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows), encoding="utf-8")
    return path


def request(source: Path | str, **settings: object) -> Request:
    """A request for all rows of a source."""
    return Request(data=Data(source=str(source), **{"fraction": 1.0} | settings))


def prepared(source: Path | str, **settings: object) -> dict:
    """What is prepared of a source, by role."""
    return prepare(request(source, **settings)).splits


def questions(path: str) -> list[str]:
    """First turns of a prepared file."""
    return [json.loads(line)["messages"][0]["content"] for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_the_leading_share_of_each_split_is_written_as_jsonl(tmp_path: Path) -> None:
    """A quarter of 40 rows is the first ten; columns that the component drops are not written."""
    splits = prepared(write_folder(tmp_path / "chats"), fraction=0.25)

    lines = Path(splits["train"].path).read_text(encoding="utf-8").splitlines()
    assert [splits[role].rows for role in ("train", "validation", "test")] == [10, 10, 10]
    assert json.loads(lines[9]) == {"messages": [{"role": "user", "content": "train_sft question 9?"}, SAY]}


def test_the_leading_share_is_that_of_a_percent_slice(tmp_path: Path) -> None:
    """The guide's `train_sft[0%:5%]` and a fraction of 0.05 are the same rows."""
    import datasets

    folder = write_folder(tmp_path / "chats", train_sft=chats("train", 507))
    slice_ = datasets.load_dataset(str(folder), split="train_sft[0%:5%]", cache_dir=str(tmp_path / "cache"))

    splits = prepared(folder, fraction=0.05)

    assert questions(splits["train"].path) == [messages[0]["content"] for messages in slice_["messages"]]


def test_rows_chosen_by_digest_do_not_depend_on_their_place(tmp_path: Path) -> None:
    """The same seed takes the same rows of a shuffled file in another format; a larger share contains the smaller."""
    rows = chats("train", 1000)
    one = write_folder(tmp_path / "one", train_sft=rows)
    names = {"validation_split": "test_sft.jsonl", "test_split": "test_gen.jsonl", "train_split": "train.jsonl"}
    for split in ("test_sft", "test_gen"):
        write_lines(tmp_path / "other" / f"{split}.jsonl", chats(split, 40))
    write_lines(tmp_path / "other" / "train.jsonl", rows[::-1])

    small = questions(prepared(one, selection="hash", fraction=0.1)["train"].path)
    other = questions(prepared(tmp_path / "other", selection="hash", fraction=0.1, **names)["train"].path)
    large = questions(prepared(one, selection="hash", fraction=0.3)["train"].path)
    seeded = questions(prepared(one, selection="hash", fraction=0.1, seed=1)["train"].path)

    assert sorted(other) == sorted(small)
    assert set(small) < set(large)
    assert (70 < len(small) < 130, 250 < len(large) < 350, set(seeded) == set(small)) == (True, True, False)


def test_only_the_wanted_row_groups_are_read(tmp_path: Path) -> None:
    """The first tenth of ten row groups is one of them."""
    from chatdata.parquet_ranges import groups_to_fetch

    path = write_folder(tmp_path / "chats", train_sft=chats("train", 1000)) / "data" / "train.parquet"
    pd.DataFrame({"messages": chats("train", 1000)}).to_parquet(path, row_group_size=100)

    assert list(groups_to_fetch(pq.ParquetFile(path).metadata, 100)) == [[0]]
    assert list(groups_to_fetch(pq.ParquetFile(path).metadata, 101)) == [[0, 1]]


@pytest.mark.parametrize(("beside_bytes", "ranges"), [(1000, 1), (1_000_000, 3)], ids=["slim", "wide"])
def test_a_wide_column_between_the_wanted_ones_is_not_fetched(beside_bytes: int, ranges: int, tmp_path: Path) -> None:
    """Row groups are fetched in one range, but for what is worth a request of its own to leave out."""
    from chatdata.parquet_ranges import ranges_to_fetch

    frame = pd.DataFrame({"messages": chats("train", 30)})
    frame["picture"] = [random.Random(row).randbytes(beside_bytes // 10) for row in range(30)]
    frame.to_parquet(tmp_path / "chats.parquet", row_group_size=10)
    found = ranges_to_fetch(pq.read_metadata(tmp_path / "chats.parquet"), [0, 1, 2])

    assert len(found) == ranges
    assert sum(end - start for start, end in found) < 10_000


def test_too_few_training_rows_are_refused(tmp_path: Path) -> None:
    """The component needs ten training rows for a generative task."""
    with pytest.raises(BadRequest, match=r"'train_sft' has 9 usable row\(s\), train needs at least 10"):
        prepared(write_folder(tmp_path / "chats", train_sft=chats("train", 9)))


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv", "tsv", "parquet", "json"])
def test_files_of_any_kind_are_a_source(ending: str, tmp_path: Path) -> None:
    """A split may be a file name or a pattern below a folder; every kind of file gives the same rows."""
    for split in ("train", "validation", "test"):
        rows = [json.dumps(messages) for messages in chats(split, 20)]
        path = tmp_path / "chats" / f"{split}-1.{ending}"
        path.parent.mkdir(exist_ok=True)
        match ending:
            case "csv" | "tsv":
                separator = "," if ending == "csv" else "\t"
                pd.DataFrame({"id": range(20), "messages": rows}).to_csv(path, index=False, sep=separator)
            case "parquet":
                pd.DataFrame({"messages": chats(split, 20)}).to_parquet(path)
            case "json":
                path.write_text(json.dumps([{"messages": messages} for messages in chats(split, 20)]))
            case _:
                pd.DataFrame({"messages": chats(split, 20)}).to_json(path, orient="records", lines=True)
    names = {f"{split}_split": f"{split}-*.{ending}" for split in ("train", "validation", "test")}

    splits = prepared(tmp_path / "chats", **names)

    assert questions(splits["train"].path) == [f"train question {number}?" for number in range(20)]
    assert splits["validation"].rows == splits["test"].rows == 20


def test_a_url_is_a_source(tmp_path: Path) -> None:
    """Any file system of fsspec; a split that names no file there says how to name one."""
    for split in ("train", "validation", "test"):
        write_lines(tmp_path / "chats" / f"{split}.jsonl", chats(split, 20))
    names = {f"{split}_split": f"{split}.jsonl" for split in ("train", "validation", "test")}

    splits = prepared(f"file://{tmp_path}/chats", **names)

    assert splits["train"].rows == 20
    assert prepared(f"file://{tmp_path}/chats")["train"].sha256 == splits["train"].sha256
    with pytest.raises(BadRequest, match=r"has no split 'more'\. Its splits: test, train, validation"):
        prepared(f"file://{tmp_path}/chats", **names | {"train_split": "more"})


def test_a_store_that_cannot_tell_one_content_from_another_is_refused() -> None:
    """What cannot be hashed is an error, not a wider key."""
    import fsspec

    memory = fsspec.filesystem("memory")
    for split in ("train", "validation", "test"):
        memory.pipe(f"/chats/{split}.jsonl", b"{}")
    names = {f"{split}_split": f"{split}.jsonl" for split in ("train", "validation", "test")}

    with pytest.raises(BadRequest, match=r"gives no ETag or digest for 'validation\.jsonl'"):
        prepared("memory://chats", **names)


def test_one_split_may_judge_twice(tmp_path: Path) -> None:
    """The same split as validation and test is written for both."""
    splits = prepared(write_folder(tmp_path / "chats"), validation_split="test_sft", test_split="test_sft")

    assert splits["test"].sha256 == splits["validation"].sha256


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
        prepared(write_folder(tmp_path / "chats"), **settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("chats", {"revision": "main"}), ("one.jsonl", {"subset": "default"})],
    ids=["a revision of a folder", "a subset of a file"],
)
def test_a_setting_without_effect_is_refused(name: str, settings: dict, tmp_path: Path) -> None:
    """By its name, with what the source is."""
    write_folder(tmp_path / "chats")
    write_lines(tmp_path / "one.jsonl", chats("one", 40))
    (setting,) = settings

    with pytest.raises(BadRequest, match=rf"data\.{setting} has no effect.* is a f") as caught:
        prepared(tmp_path / name, **settings)

    assert f"--set data.{setting}=null" in caught.value.fix


def test_a_folder_below_one_named_cache_is_pinned_by_its_files(tmp_path: Path) -> None:
    """Hidden caches of tools count only below the source."""
    folder = write_folder(tmp_path / ".cache" / "chats")
    before = pin(Data(source=str(folder)), Workspace()).revision

    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("x")

    assert pin(Data(source=str(folder)), Workspace()).revision == before


def test_a_missing_folder_is_refused() -> None:
    """A path that is no folder is not looked up on the hub."""
    with pytest.raises(BadRequest, match="no such folder"):
        pin(Data(source="./nowhere"), Workspace())
    with pytest.raises(BadRequest, match="no such folder or file"):
        pin(Data(source="nowhere.jsonl"), Workspace())


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """An empty data set is a bad request."""
    (tmp_path / "empty").mkdir()

    with pytest.raises(BadRequest, match="is an empty folder"):
        pin(Data(source=str(tmp_path / "empty")), Workspace())


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    """A file that is no parquet is named with the reason."""
    folder = write_folder(tmp_path / "chats")
    (folder / "data" / "test_gen-00000-of-00001.parquet").write_bytes(b"not parquet")

    with pytest.raises(BadRequest, match=r"test_gen-00000-of-00001\.parquet: not readable as parquet"):
        prepared(folder)


def test_a_hub_that_does_not_answer_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the error says what to check."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(CloudError) as caught:
        pin(Data(source="someone/chats"), Workspace())

    assert caught.value.code == "DataUnreachable"
    assert "HF_ENDPOINT" in caught.value.fix


def test_prepared_data_is_used_again_until_it_changes(tmp_path: Path) -> None:
    """A second run is a hit; an edited or deleted file or manifest, other settings or other content are not."""
    folder = write_folder(tmp_path / "chats")

    runs = [prepare(request(folder)), prepare(request(folder))]
    train, test = (Path(runs[0].splits[role].path) for role in ("train", "test"))
    train.write_text("edited\n", encoding="utf-8")
    runs.append(prepare(request(folder)))
    test.unlink()
    runs.append(prepare(request(folder)))
    (train.parent / "manifest.json").write_text("{", encoding="utf-8")
    runs += [prepare(request(folder)), prepare(request(folder)), prepare(request(folder, fraction=0.5))]
    write_folder(folder, rows=30)
    runs.append(prepare(request(folder)))

    assert [run.cached for run in runs] == [False, True, False, False, False, True, False, False]
    assert runs[2].splits["train"].sha256 == runs[0].splits["train"].sha256
    assert [run.splits["train"].rows for run in runs[5:]] == [40, 20, 30]


def test_a_changed_tokenizer_is_not_the_same_settings(tmp_path: Path) -> None:
    """Its counts are in the report, so what it counts belongs to the key; a file that is none is named."""
    folder, tokenizer = write_folder(tmp_path / "chats"), tmp_path / "model" / "tokenizer.json"
    tokenizer.parent.mkdir()
    content = (ROOT / "azureml_emulator/registry/weights/tiny-phi3/tokenizer.json").read_text(encoding="utf-8")
    wanted = request(folder, tokenizer=str(tokenizer.parent))

    found = []
    for text in (content, content, content + " "):
        tokenizer.write_text(text, encoding="utf-8")
        found.append(prepare(wanted).cached)
    tokenizer.write_text("{", encoding="utf-8")
    with pytest.raises(BadRequest, match=r"model': .*tokenizer\.json is not readable"):
        prepare(wanted)

    assert found == [False, True, False]


@pytest.mark.usefixtures("prefect_api")
def test_prefect_shows_a_hit(tmp_path: Path) -> None:
    """The task's state says whether the rows were prepared or found."""
    folder = write_folder(tmp_path / "chats")

    @flow(name="prepare", persist_result=False)
    def twice() -> list[tuple[str, bool]]:
        states = [tasks.data.prepare_data(request(folder), return_state=True) for _ in range(2)]
        return [(state.name, state.result().cached) for state in states]

    assert twice() == [("Completed", False), ("Cached", True)]


def test_two_runs_at_one_moment_do_the_work_once(tmp_path: Path) -> None:
    """Of four processes, one prepares and three find what it made."""
    folder = write_folder(tmp_path / "chats", train_sft=chats("train", 20_000))
    program = (
        "import sys\nfrom retune.request import Data, Request\nfrom chatdata.data_step import prepare\n"
        "print(prepare(Request(data=Data(source=sys.argv[1], fraction=1.0))).cached)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in processes]

    assert sorted(said) == ["False", "True", "True", "True"]


def test_a_person_hears_of_many_rows_that_were_left_out(tmp_path: Path) -> None:
    """One of 41 is a figure in the report, 20 of 60 are a warning too."""
    few = prepare(request(write_folder(tmp_path / "few", train_sft=[*chats("train", 40), None]), on_bad_row="drop"))
    many = [*chats("train", 40), *[None] * 20]
    warned = prepare(request(write_folder(tmp_path / "many", train_sft=many), on_bad_row="drop"))

    assert few.warnings == []
    assert warned.warnings == ["20 of 60 chosen rows were left out of the train file: 20 no messages."]


def test_what_a_killed_process_left_is_removed(tmp_path: Path, retune_home: Path) -> None:
    """The next preparation of the same data clears it away; files appear together, after all were checked."""
    folder = write_folder(tmp_path / "chats")
    key = prepare(request(folder)).key
    cache.clear([key])
    (retune_home / "data" / f".partial-{key}-x").mkdir()

    prepare(request(folder))
    with pytest.raises(BadRequest):
        prepare(request(write_folder(tmp_path / "bad", test_gen=[None])))

    assert [path.name for path in (retune_home / "data").iterdir() if not path.name.endswith(".lock")] == [key]


def test_a_folder_that_is_removed_meanwhile_is_a_named_error(retune_home: Path) -> None:
    """As by somebody who clears a disk; a file that is missing elsewhere is told as what it is."""

    def lose_all(folder: Path) -> PreparedData:
        shutil.rmtree(retune_home / "data")
        return PreparedData(source=(folder / "train.jsonl").read_text(), revision="", splits={})

    with pytest.raises(CloudError, match="was removed while data was being written") as caught:
        cache.find_or_make("lost", lose_all)
    assert caught.value.code == "DataLost"

    with pytest.raises(FileNotFoundError):
        cache.find_or_make("elsewhere", lambda folder: Path("not-there").read_text())


def test_the_cache_is_listed_verified_and_cleared(tmp_path: Path) -> None:
    """Entries say what they hold; a changed file is a problem only for who looks."""
    made = prepare(request(write_folder(tmp_path / "chats")))
    Path(made.splits["train"].path).write_bytes(b"")

    (listed,), (checked,) = cache.entries(check=False), cache.entries(check=True)
    cleared = cache.clear()

    assert (listed.key, listed.rows["train"], listed.problem) == (made.key, 40, None)
    assert checked.problem == "has another train.jsonl than was written"
    assert ([entry.key for entry in cleared], list(cache.entries(check=False))) == ([made.key], [])

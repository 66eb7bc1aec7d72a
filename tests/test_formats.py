"""Data sets of public shapes are recognised, converted and split with no setting but their source."""

import json
from pathlib import Path

import pytest
from public_shapes import ROWS, SHAPES, Case, Row, chat, lines
from pydantic import ValidationError

from chatdata.formats import UnknownFormat, recognise
from chatdata.prepare import prepare
from chatdata.sources import pin
from retune.data_facts import data_sheet
from retune.errors import BadRequest
from retune.report import PreparedData
from retune.request import Data, Workspace
from retune.summary import sheet_to_markdown


def prepared(source: Path, folder: Path, **settings: object) -> PreparedData:
    """The files of a source, in a folder."""
    folder.mkdir()
    return prepare(pin(Data(source=str(source), **settings), Workspace()), folder)


def rows_of(data: PreparedData, role: str) -> list[dict]:
    text = Path(data.splits[role].path).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1]]


@pytest.mark.parametrize("name", SHAPES)
def test_a_public_shape_needs_no_setting_but_its_source(name: str, tmp_path: Path) -> None:
    """It is recognised, every row is converted and kept, and what has no split is held out from the training rows."""
    case: Case = SHAPES[name](tmp_path / "source")

    data = prepared(case.source, tmp_path / "out", **case.settings)

    rows = {role: rows_of(data, role) for role in data.splits}
    given = case.given or ("train",)
    assert {split.format.partition(" ")[0] for split in data.splits.values()} == {case.format}
    assert {role for role, split in data.splits.items() if not split.held_out} == set(given)
    assert sum(map(len, rows.values())) == ROWS * len(given)
    assert all(rows.values())
    texts = {role: [json.dumps(row["messages"], sort_keys=True) for row in rows[role]] for role in rows}
    everything = [text for part in texts.values() for text in part]
    assert len(set(everything)) == len(everything)
    if case.first:
        assert json.dumps(case.first, sort_keys=True) in everything
        return
    expected = {
        role: {json.dumps(chat(number, case.names.get(role, "")), sort_keys=True) for number in range(ROWS)}
        for role in given
    }
    assert set(everything) == set.union(*expected.values())
    assert all(set(texts[role]) <= expected.get(role, expected["train"]) for role in texts)


def test_the_report_says_what_was_recognised_and_shows_a_row_before_and_after(tmp_path: Path) -> None:
    """Format, columns, what is not read, and the first row as it was."""
    case = SHAPES["sharegpt"](tmp_path / "source")

    data = prepared(case.source, tmp_path / "out")

    split = data.splits["train"]
    assert split.format == "sharegpt (ShareGPT): conversations as messages; not read: id"
    assert split.source_row.startswith('{"id": "x0", "conversations": [{"from": "human"')
    assert split.statistics.preview[0].startswith('{"messages":[{"role":"user"')
    page = sheet_to_markdown(data_sheet(data))
    assert "sharegpt (ShareGPT)" in page
    assert '{"id": "x0", "conversations": \\[{"from": "human"' in page


UNKNOWN = {
    "other names": (
        {"frage": "Was?", "antwort": "Das."},
        ["its columns: frage, antwort", "data.columns={", ": frage, ", ": antwort}"],
    ),
    "a letter more": ({"promt": "What?", "completion": "That."}, ["prompt-completion", "prompt: promt"]),
    "running text": ({"text": "Once upon a time."}, ["its columns: text", "a question and an answer"]),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_shape_is_answered_with_its_columns_and_the_line_to_add(case: str, tmp_path: Path) -> None:
    """And the line makes it known."""
    row, expected = UNKNOWN[case]
    path = lines(tmp_path / "chats.jsonl", [{name: f"{text} {n}" for name, text in row.items()} for n in range(ROWS)])

    with pytest.raises(BadRequest) as caught:
        prepared(path, tmp_path / "out")

    (problem,) = caught.value.problems
    assert [part for part in expected if part not in problem] == []
    if "data.columns=" in problem:
        mapping = problem.partition("data.columns={")[2].partition("}")[0]
        columns = dict(part.split(": ") for part in mapping.split(", "))
        assert prepared(path, tmp_path / "again", columns=columns).splits["train"].rows > 0


def test_a_format_that_is_named_is_used(tmp_path: Path) -> None:
    """A row with two shapes is read as the one that the request names."""
    rows = [{"messages": chat(n), "question": f"What is {n}?", "answer": f"It is {n}."} for n in range(ROWS)]
    path = lines(tmp_path / "chats.jsonl", rows)

    data = prepared(path, tmp_path / "out", format="question-answer")
    with pytest.raises(BadRequest, match=r"rows are not alpaca, which needs instruction.* Set data\.format=auto"):
        prepared(path, tmp_path / "refused", format="alpaca")

    assert rows_of(data, "train")[0]["messages"][0]["content"].startswith("What is")


ADDRESSES: dict[str, dict[str, str]] = {
    "https://huggingface.co/datasets/lab/chats": {},
    "https://huggingface.co/datasets/lab/chats/tree/main": {},
    "https://huggingface.co/datasets/lab/chats/tree/v2": {"revision": "v2"},
    "https://huggingface.co/datasets/lab/chats/tree/refs%2Fconvert%2Fparquet": {"revision": "refs/convert/parquet"},
    "https://huggingface.co/datasets/lab/chats/viewer/default/train?row=3": {"train_split": "train"},
    "https://huggingface.co/datasets/lab/chats/viewer/german/all": {"subset": "german", "train_split": "all"},
    "https://huggingface.co/datasets/lab/chats/resolve/main/train.jsonl?download=true": {"train_split": "train.jsonl"},
    "https://huggingface.co/datasets/lab/chats/blob/v2/a/b.csv": {"revision": "v2", "train_split": "a/b.csv"},
    "hf://datasets/lab/chats": {},
    "hf://datasets/lab/chats@v2": {"revision": "v2"},
    "hf://datasets/lab/chats@v2/data/*.parquet": {"revision": "v2", "train_split": "data/*.parquet"},
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_of_the_hub_is_its_settings(address: str) -> None:
    """As a browser shows it, or as `hf://` writes it."""
    assert Data(source=address).model_dump(exclude_defaults=True) == {"source": "lab/chats"} | ADDRESSES[address]


@pytest.mark.parametrize(
    ("rest", "settings", "message"),
    [
        ("/tree/main/data", {}, r"folder 'data'; write data\.source=lab/chats .* data\.train_split=data/\*\.parquet"),
        ("/discussions/3", {}, r"'discussions' of the address names no data; write data\.source=lab/chats"),
        ("/tree/v2", {"revision": "v1"}, r"names revision 'v2', and data\.revision is 'v1'"),
        ("/viewer/default/all", {"train_split": "train"}, r"names train_split 'all', and data\.train_split is 'train'"),
    ],
)
def test_no_part_of_an_address_is_dropped_silently(rest: str, settings: dict[str, str], message: str) -> None:
    """What cannot be taken over, and what another setting contradicts, is named with what to write."""
    with pytest.raises(ValidationError, match=message):
        Data(source=f"https://huggingface.co/datasets/lab/chats{rest}", **settings)


CONVERTED: dict[str, tuple[Row, list[Row]]] = {
    "an answer that is JSON": (
        {"prompt": "Which colours?", "chosen": '["red", "blue"]', "rejected": "None."},
        [{"role": "user", "content": "Which colours?"}, {"role": "assistant", "content": '["red", "blue"]'}],
    ),
    "an answer that is a JSON object in a list": (
        {"prompt": "Which colours?", "chosen": '[{"name": "red"}]', "rejected": "None."},
        [{"role": "user", "content": "Which colours?"}, {"role": "assistant", "content": '[{"name": "red"}]'}],
    ),
    "OpenAI's preferences": (
        {
            "input": {"messages": [{"role": "user", "content": "Hi"}], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [{"role": "assistant", "content": "Yes?"}],
            "non_preferred_output": [{"role": "assistant", "content": "What."}],
        },
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}],
    ),
    "messages as JSON": (
        {"chosen": json.dumps(chat(0)), "rejected": json.dumps(chat(1))},
        chat(0),
    ),
    "a list of one answer": (
        {"question": "Which city?", "answers": ["Paris"]},
        [{"role": "user", "content": "Which city?"}, {"role": "assistant", "content": "Paris"}],
    ),
    "a list of answers": (
        {"question": "Which city?", "answers": ["Paris", "The city of Paris"]},
        [{"role": "user", "content": "Which city?"}, {"role": "assistant", "content": "Paris"}],
    ),
    "a function call beside a turn": (
        {
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": None, "function_call": {"name": "look", "arguments": "{}"}},
            ]
        },
        [
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": "{}"}}],
            },
        ],
    ),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_a_row_becomes_its_conversation(case: str) -> None:
    """Nothing that a row says is lost, or taken for turns."""
    row, messages = CONVERTED[case]

    assert recognise([*row], [row], Data()).conversation(row).messages == messages


MAPPED: dict[str, tuple[Row, dict[str, str], list[str]]] = {
    "beside a column of the part's own name": (
        {"Frage": "Was?", "prompt": "?", "completion": "Das."},
        {"prompt": "Frage"},
        ["Was?", "Das."],
    ),
    "beside messages": (
        {"messages": chat(0), "Frage": "Was?", "Antwort": "Das."},
        {"prompt": "Frage", "completion": "Antwort"},
        ["Was?", "Das."],
    ),
}


@pytest.mark.parametrize("case", MAPPED)
def test_a_mapped_column_is_the_one_that_is_read(case: str) -> None:
    """Whatever other columns there are."""
    row, columns, contents = MAPPED[case]

    messages = recognise([*row], [row], Data(columns=columns)).conversation(row).messages

    assert [message["content"] for message in messages] == contents


def test_a_mapped_part_that_no_format_reads_is_refused() -> None:
    """With the parts that the nearest formats read."""
    row = {"prompt": "What?", "completion": "That.", "notes": "Long."}

    with pytest.raises(UnknownFormat, match=r"\(context\).* prompt-completion reads prompt, completion, system"):
        recognise([*row], [row], Data(columns={"context": "notes"}))

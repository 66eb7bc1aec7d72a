"""Tool calls and weights keep their meaning, or somebody is told that they do not."""

import json
from pathlib import Path

import pytest

from chatdata.chat_template import ChatTemplate, lost_tools
from chatdata.prepare import prepare
from chatdata.questions import last_question
from chatdata.sources import pin
from retune.errors import BadRequest
from retune.report import PreparedData
from retune.request import Data, Score, Workspace
from tasks.score import choose_rows
from trainer.chat_request import check_conversation

Row = dict[str, object]
TINY = Path(__file__).resolve().parent.parent / "azureml_emulator/registry/weights/tiny-phi3"
KEEPS_ALL = (
    "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}{{ eos_token }}{% endfor %}"
)
REFUSES = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}{% endfor %}"
)


def tool_row(number: int, name: str, content: object = None, *, again: bool = False) -> Row:
    """A question, a call, its result and the answer; `again`: and another question with its answer."""
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": json.dumps({"plant": number})}}
    asking: Row = {"role": "assistant", "tool_calls": [call]}
    messages: list[Row] = [
        {"role": "user", "content": f"How is {name} plant {number}?"},
        asking if content == "absent" else asking | {"content": content},
        {"role": "tool", "tool_call_id": "c1", "content": f"dry {number}"},
        {"role": "assistant", "content": f"{name} plant {number} is dry."},
    ]
    if again:
        messages += [
            {"role": "user", "content": f"Shall I water {name} plant {number}?"},
            {"role": "assistant", "content": f"Water {name} plant {number} now."},
        ]
    return {"messages": messages, "tools": [{"type": "function", "function": {"name": "look"}}]}


def prepared(folder: Path, rows: dict[str, list[Row]], **settings: object) -> PreparedData:
    source = folder / "source"
    source.mkdir(parents=True)
    for name, part in rows.items():
        (source / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in part), encoding="utf-8")
    (folder / "out").mkdir()
    return prepare(pin(Data(source=str(source), **settings), Workspace()), folder / "out")


def all_splits(content: object = None, *, again: bool = False) -> dict[str, list[Row]]:
    return {
        name: [tool_row(number, name, content, again=again) for number in range(12)]
        for name in ("train", "validation", "test")
    }


def tokenizer(folder: Path, template: str | None) -> str:
    """The folder of a tokenizer with this chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes((TINY / "tokenizer.json").read_bytes())
    settings = {"eos_token": {"content": "<end>"}} | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("content", [None, "", "absent", "I look."])
def test_a_bare_tool_call_is_valid(content: object, tmp_path: Path) -> None:
    """Its content may be null, empty or absent; an empty text is written, which every template can add to."""
    data = prepared(tmp_path, all_splits(content))

    first = json.loads(Path(data.splits["train"].path).read_text(encoding="utf-8").partition("\n")[0])
    assert (data.splits["train"].rows, data.splits["train"].tool_rows) == (12, 12)
    assert first["messages"][1]["content"] == (content if content == "I look." else "")
    assert first["messages"][1]["tool_calls"][0]["function"]["name"] == "look"
    assert first["tools"] == [{"type": "function", "function": {"name": "look"}}]


@pytest.mark.parametrize("calls", [[{}], [{"function": {}}], "look", [{"function": {"name": 3}}]])
def test_a_call_without_a_function_is_a_bad_row(calls: object, tmp_path: Path) -> None:
    """A template would fail on it, or write nonsense."""
    rows = all_splits()
    rows["train"][3]["messages"][1]["tool_calls"] = calls

    with pytest.raises(
        BadRequest, match=r"a tool call without the name of its function, e\.g\. train\.jsonl:4 \(message 2"
    ):
        prepared(tmp_path, rows)


def test_older_calls_become_tool_calls(tmp_path: Path) -> None:
    """`function_call` and the role `function` are what OpenAI's chats had before."""
    rows = all_splits()
    for row in rows["train"]:
        call = row["messages"][1].pop("tool_calls")[0]["function"]
        row["messages"][1]["function_call"] = call
        row["messages"][2]["role"] = "function"

    data = prepared(tmp_path, rows)

    first = json.loads(Path(data.splits["train"].path).read_text(encoding="utf-8").partition("\n")[0])
    assert [message["role"] for message in first["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert first["messages"][1]["tool_calls"][0]["function"]["name"] == "look"


TEMPLATES = {
    "unknown": (None, "whether the model's chat template renders them is unknown"),
    "lost": ((TINY / "chat_template.jinja").read_text(encoding="utf-8"), "leaves out `tools`, `tool_calls`"),
    "kept": (KEEPS_ALL, ""),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_tools_that_the_template_leaves_out_are_told(case: str, tmp_path: Path) -> None:
    """With the number of rows; or refused where the request asks for that."""
    template, told = TEMPLATES[case]
    named = {"tokenizer": tokenizer(tmp_path / "model", template)} if template else {}

    data = prepared(tmp_path / "warned", all_splits(), **named)

    assert [warning for warning in data.warnings if "36 rows have tools" in warning] == data.warnings
    assert told in " ".join(data.warnings)
    assert len(data.warnings) == (case != "kept")
    if case == "kept":
        assert prepared(tmp_path / "strict", all_splits(), on_lost_tools="fail", **named).warnings == []
        return
    with pytest.raises(BadRequest, match=r"data\.on_lost_tools=warn"):
        prepared(tmp_path / "strict", all_splits(), on_lost_tools="fail", **named)


def test_a_template_that_refuses_tools_refuses_the_data(tmp_path: Path) -> None:
    """The training would fail on it; rows without tools are as good as ever."""
    named = tokenizer(tmp_path / "model", REFUSES)
    plain = {name: [{"messages": row["messages"][::3]} for row in rows] for name, rows in all_splits().items()}

    with pytest.raises(BadRequest, match=r"36 rows have tools.* refuses: no tools here"):
        prepared(tmp_path / "tools", all_splits(), tokenizer=named)

    assert prepared(tmp_path / "plain", plain, tokenizer=named).warnings == []


def test_arguments_may_be_text_or_an_object() -> None:
    """Templates differ in what they take; either way counts as rendered."""
    objects = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{% for k, v in c.function.arguments"
    )
    template = ChatTemplate(
        text=objects + ".items() %}{{ c.function.name }}{{ v }}{% endfor %}{% endfor %}{% endfor %}{{ tools }}",
        tokens={},
    )

    assert lost_tools(template) == []


def weighted(weight: object) -> dict[str, list[Row]]:
    rows = {
        name: [{"messages": tool_row(number, name)["messages"][::3]} for number in range(20)]
        for name in ("train", "validation", "test")
    }
    for row in rows["train"][:3]:
        row["messages"][1]["weight"] = weight
    return rows


def test_a_weight_is_refused_left_out_or_said_to_be_ignored(tmp_path: Path) -> None:
    """Never silently trained on; the setting that is named does what it says."""
    with pytest.raises(BadRequest, match=r"3 row\(s\): weight on a message, .* data\.weights=note keeps such rows"):
        prepared(tmp_path / "refused", weighted(0))
    dropped = prepared(tmp_path / "dropped", weighted(0), weights="drop")
    noted = prepared(tmp_path / "noted", weighted(0), weights="note")
    plain = prepared(tmp_path / "plain", weighted(1))

    assert (dropped.splits["train"].rows, dropped.splits["train"].dropped) == (17, {"weight on a message": 3})
    assert noted.splits["train"].rows == plain.splits["train"].rows == 20
    assert ["3 rows have weights" in warning for warning in noted.warnings] == [True]
    assert plain.warnings == []


QUESTIONS = {
    "one": (["user", "assistant"], 0),
    "system": (["system", "user", "assistant"], 1),
    "two": (["user", "assistant", "user", "assistant"], 2),
    "call": (["user", "assistant", "tool", "assistant"], 0),
    "call before another question": (["user", "assistant", "tool", "assistant", "user", "assistant"], 0),
    "call after a question": (["user", "assistant", "user", "assistant", "tool", "assistant"], 2),
    "none": (["assistant", "user"], None),
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_the_endpoint_is_asked_what_it_accepts(case: str) -> None:
    """The last user turn before which user and assistant alternate; the model server takes what is chosen so."""
    roles, last = QUESTIONS[case]

    assert last_question(roles) == last
    if last is not None:
        check_conversation([{"role": role, "content": "."} for role in roles[: last + 1]], "The row")


def test_rows_with_tools_are_asked_up_to_the_tool(tmp_path: Path) -> None:
    """Their questions are accepted by the model server, and each row has one."""
    data = prepared(tmp_path, all_splits("I look.", again=True))

    questions = choose_rows(data.splits["test"], Score(rows=12))

    assert data.splits["test"].rows == len(questions) == 12
    for conversation, expected in questions:
        check_conversation(conversation, "The row")
        assert expected == "I look."


POSITIONS = ("arguments", "escapes in the arguments", "a key of the arguments", "the name of a message", "tools")


def with_text(text: str, position: str) -> Row:
    """A row with a text in this position."""
    row = tool_row(99, "train", "I look.")
    asking, function = row["messages"][1], row["tools"][0]["function"]
    match position:
        case "arguments":
            asking["tool_calls"][0]["function"]["arguments"] = json.dumps({"plant": text})
        case "escapes in the arguments":
            coded = json.dumps({"plant": text}).replace("@", r"\u0040").replace("\ufffd", r"\ufffd")
            asking["tool_calls"][0]["function"]["arguments"] = coded
        case "a key of the arguments":
            asking["tool_calls"][0]["function"]["arguments"] = {text: 1}
        case "the name of a message":
            asking["name"] = text
        case _:
            function["description"] = text
    return row


@pytest.mark.parametrize("position", POSITIONS)
def test_personal_data_beside_texts_is_replaced_or_refused(position: str, tmp_path: Path) -> None:
    """Wherever it is in a row."""
    rows = all_splits("I look.")
    rows["train"].append(with_text("Ask jane.doe@contoso.com.", position))

    redacted = prepared(tmp_path / "redacted", rows, privacy="redact").splits["train"]
    refused = prepared(tmp_path / "refused", rows, privacy="refuse", on_bad_row="drop").splits["train"]

    assert (redacted.rows, redacted.redacted) == (13, {"e-mail address": 1})
    assert (refused.rows, refused.dropped) == (12, {"personal data or secrets": 1})
    assert "<E-MAIL ADDRESS>" in Path(redacted.path).read_text(encoding="utf-8")
    assert "jane.doe" not in Path(redacted.path).read_text(encoding="utf-8")


@pytest.mark.parametrize("position", POSITIONS)
def test_bad_characters_beside_texts_are_seen(position: str, tmp_path: Path) -> None:
    """As in the texts."""
    rows = all_splits("I look.")
    rows["train"].append(with_text("Caf\ufffd", position))
    if position == "arguments":
        rows["train"][-1]["messages"][1]["tool_calls"][0]["function"]["arguments"] = '{"plant": "Caf\ufffd"}'

    train = prepared(tmp_path, rows, on_bad_row="drop").splits["train"]

    assert (train.rows, train.dropped) == (12, {"replacement characters": 1})

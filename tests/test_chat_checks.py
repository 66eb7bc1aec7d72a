"""Every kind of bad row and bad file is found, counted and named with its place, and no good row is lost."""

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatdata.prepare import prepare
from chatdata.sources import pin
from retune.errors import BadRequest
from retune.report import PreparedData
from retune.request import Data, Workspace

SPLITS = ("train", "validation", "test")
LONG = " ".join(f"word{number}" for number in range(120))


def chat(*turns: tuple[str, object]) -> dict[str, object]:
    """A row."""
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def good(name: object) -> dict[str, object]:
    """A row like no other."""
    return chat(("user", f"What is {name}?"), ("assistant", f"It is {name}."))


def line(row: object) -> bytes:
    return json.dumps(row).encode() + b"\n"


def asks(content: object) -> bytes:
    """A row whose first turn has the content."""
    return line(chat(("user", content), ("assistant", "Yes.")))


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "cut off": (b'{"messages": [{"role": "user", "con\n', "not valid JSON"),
    "two objects": (b'{"messages": []} {"messages": []}\n', "not valid JSON"),
    "single quotes": (b"{'messages': []}\n", "not valid JSON"),
    "NaN": (b'{"messages": NaN}\n', "not valid JSON"),
    "trailing comma": (b'{"messages": [],}\n', "not valid JSON"),
    "plain text": (b"hello\n", "not valid JSON"),
    "Latin-1": (line(good("caf_")).replace(b"caf_", b"caf\xe9"), "not UTF-8"),
    "lone surrogate": (line(good("X")).replace(b"X?", b"\\ud800?"), "half a character"),
    "a number": (b"42\n", "not a JSON object"),
    "text in quotes": (b'"hello"\n', "not a JSON object"),
    "a list": (b"[1, 2]\n", "not a JSON object"),
    "no column": (line({"prompt": "Hello?"}), "no messages"),
    "null": (line({"messages": None}), "no messages"),
    "empty text": (line({"messages": ""}), "fewer than two messages"),
    "some text": (line({"messages": "hello"}), "messages is not a list"),
    "an object": (line({"messages": {"role": "user"}}), "messages is not a list"),
    "number for messages": (line({"messages": 7}), "messages is not a list"),
    "empty list": (line({"messages": []}), "fewer than two messages"),
    "one message": (line(chat(("user", "Hello?"))), "fewer than two messages"),
    "message is text": (line({"messages": ["Hello?", "Hi."]}), "a message without role and content"),
    "no role": (line({"messages": [{"content": "a"}, {"content": "b"}]}), "a message without role and content"),
    "no content": (line({"messages": [{"role": "user"}] * 2}), "a message without role and content"),
    "other names": (line({"messages": [{"from": "human", "value": "a"}] * 2}), "a message without role and content"),
    "unknown role": (line(chat(("human", "Hello?"), ("assistant", "Hi."))), "unknown role"),
    "role in capitals": (line(chat(("User", "Hello?"), ("assistant", "Hi."))), "unknown role"),
    "role is null": (line(chat((None, "Hello?"), ("assistant", "Hi."))), "unknown role"),
    "role is a number": (line(chat((1, "Hello?"), ("assistant", "Hi."))), "unknown role"),
    "role is a list": (line(chat((["user"], "Hello?"), ("assistant", "Hi."))), "unknown role"),
    "content is null": (asks(None), "content is not text"),
    "content is a number": (asks(4), "content is not text"),
    "content is a picture": (asks([{"type": "image_url", "image_url": {"url": "a.png"}}]), "content is not text"),
    "content is empty": (asks(""), "empty turn"),
    "content is blank": (asks(" \n\t"), "empty turn"),
    "content is a no-break space": (asks("\u00a0"), "empty turn"),
    "system in the middle": (
        line(chat(("user", "Hello?"), ("system", "Be brief."), ("assistant", "Hi."))),
        "system message not at the start",
    ),
    "two system messages": (
        line(chat(("system", "Be brief."), ("system", "Be kind."), ("user", "Hello?"), ("assistant", "Hi."))),
        "more than one system message",
    ),
    "assistant first": (
        line(chat(("assistant", "Welcome."), ("user", "Hello?"), ("assistant", "Hi."))),
        "does not begin with a user turn",
    ),
    "user twice": (
        line(chat(("user", "Hello?"), ("user", "Anyone?"), ("assistant", "Hi."))),
        "two turns of one role in a row",
    ),
    "assistant twice": (
        line(chat(("user", "Hello?"), ("assistant", "Hi."), ("assistant", "Well?"))),
        "two turns of one role in a row",
    ),
    "tool after user": (
        line(chat(("user", "Hello?"), ("tool", "42"), ("assistant", "Hi."))),
        "tool message that follows no assistant turn",
    ),
    "no assistant": (line(chat(("system", "Be brief."), ("user", "Anyone?"))), "no assistant turn"),
    "tools is text": (line(good("a tool") | {"tools": "search"}), "tools is not a list"),
    "NUL": (asks("Hello\u0000?"), "control characters"),
    "terminal escape": (asks("\u001b[31mHello?"), "control characters"),
    "DEL": (asks("Hello\u007f?"), "control characters"),
    "C1": (asks("Hello\u0086?"), "control characters"),
    "replacement character": (asks("Hello \ufffd?"), "replacement characters"),
    "UTF-8 read as Latin-1": (asks("CafÃ©?"), "text of another character set"),
    "UTF-8 read as Windows-1252": (asks("Itâ€™s late?"), "text of another character set"),
    "the same row": (line(good("row 3")), "duplicate"),
    "the same row, otherwise written": (
        json.dumps(good("row 3"), indent=None, separators=(" ,", ": ")).encode() + b"\n",
        "duplicate",
    ),
    "in validation": (line(good("validation 2")), "also in the validation split"),
    "in test": (line(good("test 2")), "also in the test split"),
}
NEARLY: dict[str, tuple[bytes, str]] = {
    "the same in capitals": (
        line(chat(("user", "WHAT IS ROW 3"), ("assistant", "It is row 3!"))),
        "near duplicate",
    ),
    "one word of many changed": (
        line(chat(("user", "What is long?"), ("assistant", LONG.replace("word60", "other")))),
        "near duplicate",
    ),
    "nearly in test": (
        line(chat(("user", "what  is TEST 2"), ("assistant", "it is test 2"))),
        "nearly in the test split",
    ),
}


def write_splits(folder: Path, train: list[bytes]) -> Data:
    """A folder of JSON lines; validation and test hold 12 good rows each."""
    folder.mkdir(exist_ok=True)
    for name in SPLITS[1:]:
        (folder / f"{name}.jsonl").write_bytes(b"".join(line(good(f"{name} {number}")) for number in range(12)))
    (folder / "train.jsonl").write_bytes(b"".join(train))
    return Data(source=str(folder), fraction=1, **{f"{name}_split": f"{name}.jsonl" for name in SPLITS})


def prepared(data: Data, **changes: object) -> PreparedData:
    """The files of the request, in a folder beside the source."""
    target = Path(tempfile.mkdtemp(dir=Path(data.source).parent))
    limit = changes.pop("max_seq_length", None)
    return prepare(pin(data.model_copy(update=changes), Workspace()), target, max_seq_length=limit)


def good_lines() -> list[bytes]:
    """Twenty good rows and a long one."""
    rows = [good(f"row {number}") for number in range(20)]
    return [*map(line, rows), line(chat(("user", "What is long?"), ("assistant", LONG)))]


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_row_is_left_out_and_counted_or_named(case: str, tmp_path: Path) -> None:
    """`drop` keeps every other row and counts this one; `fail` names its kind, its file and its line."""
    bad, kind = BAD_LINES[case]
    rows = good_lines()
    data = write_splits(tmp_path / "chats", [*rows, bad, *map(line, [good("after 1"), good("after 2")])])

    train = prepared(data, on_bad_row="drop").splits["train"]
    with pytest.raises(BadRequest) as caught:
        prepared(data)

    assert (train.rows, train.dropped) == (len(rows) + 2, {kind: 1})
    ((found, places),) = [(one.kind, one.examples) for one in train.bad_rows]
    assert (found, places[0].partition(" ")[0]) == (kind, f"train.jsonl:{len(rows) + 1}")
    (problem,) = caught.value.problems
    assert f"1 row(s): {kind}, e.g. train.jsonl:{len(rows) + 1}" in problem
    assert "data.on_bad_row=drop" in caught.value.fix


@pytest.mark.parametrize("case", NEARLY)
def test_a_near_repetition_is_noted_and_left_out_only_when_asked(case: str, tmp_path: Path) -> None:
    """It is a guess: the row is kept and counted, whatever on_bad_row says."""
    near, kind = NEARLY[case]
    data = write_splits(tmp_path / "chats", [*good_lines(), near])

    noted, dropped, unsought = (
        prepared(data, near_duplicates=choice).splits["train"] for choice in ("note", "drop", "off")
    )

    assert (noted.rows, noted.noted, noted.dropped) == (22, {kind: 1}, {})
    assert (dropped.rows, dropped.noted, dropped.dropped) == (21, {}, {kind: 1})
    assert (unsought.rows, unsought.bad_rows) == (22, [])


SWITCHED = {"duplicates": "the same row", "evaluation_overlap": "in validation"}


@pytest.mark.parametrize("switch", SWITCHED)
def test_an_exact_repetition_has_a_switch_of_its_own(switch: str, tmp_path: Path) -> None:
    """As on_bad_row says, left out, kept and counted, or not looked for."""
    repeated, kind = BAD_LINES[SWITCHED[switch]]
    data = write_splits(tmp_path / "chats", [*good_lines(), repeated])

    dropped, noted, unsought = (
        prepared(data, **{switch: choice}).splits["train"] for choice in ("drop", "note", "off")
    )
    with pytest.raises(BadRequest, match=kind):
        prepared(data)

    assert (dropped.rows, dropped.dropped) == (21, {kind: 1})
    assert (noted.rows, noted.noted) == (22, {kind: 1})
    assert (unsought.rows, unsought.bad_rows) == (22, [])


def test_no_check_leaves_out_most_rows_without_a_stop(tmp_path: Path) -> None:
    """The check, how many rows, two examples and the switch are named; the switch, or the limit, lets it go on."""
    rows = [*good_lines(), *[line(good("row 3"))] * 30]
    data = write_splits(tmp_path / "chats", rows)

    with pytest.raises(BadRequest) as caught:
        prepared(data, on_bad_row="drop")
    kept = prepared(data, on_bad_row="drop", duplicates="note").splits["train"]
    dropped = prepared(data, on_bad_row="drop", drop_limit=1).splits["train"]

    (problem,) = caught.value.problems
    assert "the check 'duplicate' would leave out 30 of 51 rows, e.g. train.jsonl:22 (of train.jsonl:4); " in problem
    assert "data.duplicates=note" in problem
    assert "data.drop_limit=1" in problem
    assert "on_bad_row=drop" not in caught.value.fix
    assert (kept.rows, dropped.rows) == (51, 21)


def test_all_kinds_are_named_at_once(tmp_path: Path) -> None:
    """One run tells everything that is wrong with the rows."""
    data = write_splits(tmp_path / "chats", [*good_lines(), *(bad for bad, _ in BAD_LINES.values())])

    train = prepared(data, on_bad_row="drop").splits["train"]
    with pytest.raises(BadRequest) as caught:
        prepared(data)

    kinds = {kind for _, kind in BAD_LINES.values()}
    assert train.rows == len(good_lines())
    assert train.selected == train.rows + sum(train.dropped.values()) == len(good_lines()) + len(BAD_LINES)
    assert {one.kind for one in train.bad_rows} == kinds
    assert {kind for kind in kinds if any(f": {kind}, e.g." in problem for problem in caught.value.problems)} == kinds


@pytest.mark.parametrize(
    "row",
    [
        chat(("system", "Be brief."), ("user", "Hello?"), ("assistant", "Hi.")),
        chat(("user", "Hello?"), ("assistant", "Hi."), ("user", "And now?")),
        chat(("user", "Sum?"), ("assistant", "I call a tool."), ("tool", "4"), ("tool", "5"), ("assistant", "Nine.")),
        chat(("user", "Tab\tand\nline\r\nfeed \\u0000 \\ud800?"), ("assistant", "C:\\users\\u00ff")),
        chat(
            ("user", "Ça va? Ãngel, 你好, Привет, שלום, 😀, «ﬁ», e\u0301"),
            ("assistant", "\u2028\u2029\u0085\x0b\x0c\u00a0fine\ufeff"),
        ),
        chat(("user", "Translate."), ("assistant", "Ã"), ("user", "Again?"), ("assistant", "â")),
        good("tools") | {"tools": [{"type": "function", "function": {"name": "search"}}]},
    ],
    ids=["system", "ends with user", "tools called", "escapes", "languages", "lone accents", "tools"],
)
def test_an_unusual_good_row_is_kept_as_it_is(row: dict, tmp_path: Path) -> None:
    """Nothing is lost that the component can use."""
    data = write_splits(tmp_path / "chats", [*good_lines(), line(row)])

    train = prepared(data).splits["train"]

    last = Path(train.path).read_text(encoding="utf-8").split("\n")[-2]
    assert json.loads(last) == row


def test_rows_that_are_too_long_are_noted_and_kept(tmp_path: Path) -> None:
    """The component cuts them; without a tokenizer four characters are taken for a token."""
    data = write_splits(tmp_path / "chats", good_lines())

    train = prepared(data, max_seq_length=100).splits["train"]

    assert (train.rows, train.noted) == (21, {"longer than max_seq_length": 1})
    assert train.bad_rows[0].examples == ["train.jsonl:21 (about 215 tokens)"]


@pytest.mark.parametrize("kind", ["refuse", "redact"])
def test_personal_data_is_refused_or_replaced(kind: str, tmp_path: Path) -> None:
    """What the scan finds makes a row bad, or is replaced in it; the report counts it and never shows it."""
    data = write_splits(tmp_path / "chats", [*good_lines(), asks("Write to jane.doe@contoso.com, please?")])

    made = prepared(data, privacy=kind, on_bad_row="drop")

    train = made.splits["train"]
    assert train.dropped == ({"personal data or secrets": 1} if kind == "refuse" else {})
    assert train.redacted == ({} if kind == "refuse" else {"e-mail address": 1})
    assert "jane.doe" not in Path(train.path).read_text(encoding="utf-8") + made.model_dump_json()


def parquet_bytes(**columns: list) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="none", use_dictionary=False)
    return sink.getvalue().to_pybytes()


def damaged(content: bytes) -> bytes:
    """The same with its first page overwritten."""
    return content[:40] + b"\xff" * 60 + content[100:]


MESSAGES = [good(number)["messages"] for number in range(200)]
BAD_FILES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("train.jsonl", lambda: b"", "train.jsonl: the file is empty"),
    "UTF-16": ("train.jsonl", lambda: line(good(1)).decode().encode("utf-16"), "the file is UTF-16. Convert it"),
    "array cut off": ("train.json", lambda: b'[{"messages": []},', "train.json: not readable as json"),
    "gzip by its content alone": (
        "train.jsonl",
        lambda: gzip.compress(line(good(1))),
        "the file is gzip, in spite of its name. Rename it to end in .gz",
    ),
    "gzip cut off": ("train.jsonl.gz", lambda: gzip.compress(line(good(1)) * 99)[:-20], "not readable as json"),
    "no parquet": ("train.parquet", lambda: b"PAR1" + b"x" * 99, "train.parquet: not readable as parquet"),
    "parquet cut off": ("train.parquet", lambda: parquet_bytes(messages=MESSAGES)[:-50], "not readable as parquet"),
    "parquet damaged": ("train.parquet", lambda: damaged(parquet_bytes(messages=MESSAGES)), "not readable as parquet"),
    "no column in parquet": (
        "train.parquet",
        lambda: parquet_bytes(text=["a"], label=[1]),
        "train.parquet: no column 'messages'; its columns: text, label",
    ),
    "no rows": ("train.parquet", lambda: parquet_bytes(messages=MESSAGES[:0]), "has 0 usable row(s)"),
    "no column in csv": ("train.csv", lambda: b"text,label\na,1\n", "no column 'messages'; its columns: text, label"),
    "open quotes in csv": ("train.csv", lambda: b'messages\n"[1', "train.csv: not readable as csv"),
    "not there": ("elsewhere.jsonl", lambda: line(good(1)), "no file of that name"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named(case: str, tmp_path: Path) -> None:
    """A file that cannot be read is an error whatever on_bad_row says."""
    name, content, message = BAD_FILES[case]
    data = write_splits(tmp_path / "chats", [])
    (tmp_path / "chats" / "train.jsonl").unlink()
    (tmp_path / "chats" / name).write_bytes(content())
    split = "train.jsonl" if case == "not there" else name

    with pytest.raises(BadRequest) as caught:
        prepared(data, train_split=split, on_bad_row="drop")

    assert message in str(caught.value)


BAD_CELLS = {
    "other columns": (b"1\n", "other columns than the header"),
    "not UTF-8": (b'1,"[{""role"": \xff}]"\n', "not UTF-8"),
    "broken JSON": (b'1,"[{""role"""\n', "messages is not a list"),
    "empty": (b"1,\n", "fewer than two messages"),
}


@pytest.mark.parametrize("case", BAD_CELLS)
def test_a_bad_row_of_comma_separated_values_is_counted(case: str, tmp_path: Path) -> None:
    """Cells hold JSON; a row is named by the line that it ends on."""
    bad, kind = BAD_CELLS[case]
    cells = [json.dumps(good(number)["messages"]).replace('"', '""') for number in range(12)]
    data = write_splits(tmp_path / "chats", [])
    lines = [f'1,"{cell}"\n'.encode() for cell in cells]
    (tmp_path / "chats" / "train.csv").write_bytes(b"id,messages\n" + b"".join(lines) + bad)

    train = prepared(data, train_split="train.csv", on_bad_row="drop").splits["train"]

    assert (train.rows, train.dropped) == (12, {kind: 1})
    assert train.bad_rows[0].examples[0].startswith("train.csv:14")


def test_a_cell_of_tools_is_checked_as_messages_are(tmp_path: Path) -> None:
    """Bytes that are not UTF-8, and JSON nested too deep, make a bad row; a list of tools is kept."""
    cells = [json.dumps(good(number)["messages"]).replace('"', '""') for number in range(13)]
    tools = [b"", b'"[{""type"": ""function""}]"', b"\xff", b"[" * 300 + b"]" * 300]
    data = write_splits(tmp_path / "chats", [])
    lines = [f'"{cell}",'.encode() + tools[max(0, number - 9)] + b"\n" for number, cell in enumerate(cells)]
    (tmp_path / "chats" / "train.csv").write_bytes(b"messages,tools\n" + b"".join(lines))

    train = prepared(data, train_split="train.csv", on_bad_row="drop").splits["train"]

    assert (train.rows, train.dropped) == (11, {"not UTF-8": 1, "tools is not a list": 1})
    last = Path(train.path).read_text(encoding="utf-8").split("\n")[-2]
    assert json.loads(last) == good(10) | {"tools": [{"type": "function"}]}


def test_rows_that_differ_beside_their_texts_are_no_duplicates(tmp_path: Path) -> None:
    """A name in a message makes another row, though nearly the same; other tools do not."""
    named = good("row 3")
    named["messages"][0]["name"] = "Jane"
    data = write_splits(tmp_path / "chats", [*good_lines(), line(named), line(good("row 4") | {"tools": []})])

    train = prepared(data, on_bad_row="drop").splits["train"]

    assert (train.dropped, train.noted) == ({"duplicate": 1}, {"near duplicate": 1})


def test_a_parquet_row_that_is_not_utf8_is_counted(tmp_path: Path) -> None:
    """Other writers do not check what they write."""
    content = parquet_bytes(messages=MESSAGES).replace(b"What is 150?", b"What is 15\xff?")
    data = write_splits(tmp_path / "chats", [])
    (tmp_path / "chats" / "train.parquet").write_bytes(content)

    train = prepared(data, train_split="train.parquet", on_bad_row="drop").splits["train"]

    assert (train.rows, train.dropped) == (199, {"not UTF-8": 1})
    assert train.bad_rows[0].examples[0].startswith("train.parquet:151")


# Letters with a tilde or circumflex before others look like text of another character set.
CHARACTERS = st.characters(
    codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffdÂÃâ"
) | st.sampled_from("\n\t")
TEXTS = st.text(CHARACTERS, min_size=1, max_size=60).filter(lambda text: not text.isspace())
BAD_ALONE = [case for case, (_, kind) in BAD_LINES.items() if "duplicate" not in kind and "also" not in kind]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(TEXTS, min_size=2, max_size=6), min_size=10, max_size=40),
    injected=st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from(BAD_ALONE)), max_size=12, unique_by=lambda one: one[1]
    ),
)
def test_no_good_row_is_lost_and_no_bad_row_is_kept(
    rows: list[list[str]], injected: list[tuple[int, str]], tmp_path: Path
) -> None:
    """Whatever texts the good rows hold and wherever the bad ones stand."""
    kept = [
        chat(*((("user", "assistant")[place % 2], f"{number} {text}") for place, text in enumerate(texts)))
        for number, texts in enumerate(rows)
    ]
    lines = list(map(line, kept))
    for place, case in injected:
        # Not first: a file that begins with a bracket is one JSON array.
        lines.insert(1 + place % len(lines), BAD_LINES[case][0])
    data = write_splits(tmp_path / "chats", lines)

    train = prepared(data, on_bad_row="drop").splits["train"]

    written = [json.loads(text) for text in Path(train.path).read_text(encoding="utf-8").split("\n")[:-1]]
    assert written == kept
    assert sum(train.dropped.values()) == len(injected)
    assert {one.kind for one in train.bad_rows} == {BAD_LINES[case][1] for _, case in injected}

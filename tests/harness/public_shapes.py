"""Thirty data sets in shapes that are published or exported often, each with invented text.

`SHAPES` maps a name to a function that writes the data set into a folder and returns `Case`: what is recognised.
"""

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 40
Row = dict[str, object]


class Case(NamedTuple):
    """A data set that was written, and what is right about it."""

    # What `data.source` names.
    source: Path
    # The format that is recognised.
    format: str
    # The roles of the splits that the source has; the others are held out.
    given: tuple[str, ...] = ()
    # Settings beside data.source.
    settings: dict[str, object] = {}  # noqa: RUF012
    # Messages of the first row of the source, where it is not one question with its answer.
    first: list[Row] | None = None
    # What stands before "plant" in the texts of each role's split, where the source has several.
    names: dict[str, str] = {}  # noqa: RUF012


def question(number: int, name: str = "") -> str:
    return f"How do I keep {name}plant number {number} alive?"


def answer(number: int, name: str = "") -> str:
    return f"Water {name}plant {number} every {number + 2} days."


def chat(number: int, name: str = "") -> list[Row]:
    """A conversation of one question and one answer."""
    return [
        {"role": "user", "content": question(number, name)},
        {"role": "assistant", "content": answer(number, name)},
    ]


def lines(path: Path, rows: Iterable[object]) -> Path:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path: Path, rows: list[Row], schema: pa.Schema | None = None) -> Path:
    """Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


def each(make: Callable[[int], Row]) -> list[Row]:
    return [make(number) for number in range(ROWS)]


def openai_lines(folder: Path) -> Case:
    return Case(lines(folder / "chats.jsonl", each(lambda n: {"messages": chat(n)})), "openai")


def openai_tools(folder: Path) -> Case:
    def row(n: int) -> Row:
        call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": json.dumps({"plant": n})}}
        messages = [
            {"role": "user", "content": question(n)},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": f"dry {n}"},
            {"role": "assistant", "content": answer(n)},
        ]
        return {"messages": messages, "tools": [{"type": "function", "function": {"name": "look"}}]}

    first = row(0)["messages"]
    first[1] = {"role": "assistant", "content": "", "tool_calls": first[1]["tool_calls"]}
    return Case(lines(folder / "tools.jsonl", each(row)), "openai", first=first)


def hub_layout(folder: Path) -> Case:
    for split in ("train_sft", "test_sft", "test_gen"):
        rows = each(lambda n, split=split: {"prompt": "p", "prompt_id": str(n), "messages": chat(n, f"{split} ")})
        table(folder / "data" / f"{split}-00000-of-00001-0123456789abcdef.parquet", rows)
    names = {"train": "train_sft ", "validation": "test_sft ", "test": "test_gen "}
    return Case(folder, "openai", ("train", "validation", "test"), names=names)


def train_only_parquet(folder: Path) -> Case:
    table(folder / "data" / "train-00000-of-00001.parquet", each(lambda n: {"messages": chat(n)}))
    return Case(folder, "openai", ("train",))


def large_lists(folder: Path) -> Case:
    message = pa.struct([("role", pa.large_string()), ("content", pa.large_string())])
    schema = pa.schema([("messages", pa.large_list(message))])
    return Case(table(folder / "large.parquet", each(lambda n: {"messages": chat(n)}), schema), "openai")


def null_padded(folder: Path) -> Case:
    def row(n: int) -> Row:
        padded = [message | {"name": None, "tool_calls": None} for message in chat(n)]
        return {"messages": padded, "tools": None}

    message = pa.struct(
        [("role", pa.string()), ("content", pa.string()), ("name", pa.string()), ("tool_calls", pa.list_(pa.string()))]
    )
    schema = pa.schema([("messages", pa.list_(message)), ("tools", pa.string())])
    return Case(table(folder / "padded.parquet", each(row), schema), "openai")


def messages_as_text(folder: Path) -> Case:
    path = folder / "export.csv"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "messages"])
        writer.writerows([n, json.dumps(chat(n))] for n in range(ROWS))
    return Case(path, "openai")


def parts_of_text(folder: Path) -> Case:
    def row(n: int) -> Row:
        return {"messages": [m | {"content": [{"type": "text", "text": m["content"]}]} for m in chat(n)]}

    return Case(lines(folder / "parts.jsonl", each(row)), "openai")


def sharegpt(folder: Path) -> Case:
    def row(n: int) -> Row:
        turns = [{"from": "human", "value": question(n)}, {"from": "gpt", "value": answer(n)}]
        return {"id": f"x{n}", "conversations": turns}

    return Case(lines(folder / "sharegpt.jsonl", each(row)), "sharegpt")


def sharegpt_system(folder: Path) -> Case:
    def row(n: int) -> Row:
        turns = [
            {"from": "system", "value": "You grow plants."},
            {"from": "user", "value": question(n)},
            {"from": "chatgpt", "value": answer(n)},
        ]
        return {"conversation": turns}

    path = folder / "sharegpt.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(each(row)), encoding="utf-8")
    return Case(path, "sharegpt", first=[{"role": "system", "content": "You grow plants."}, *chat(0)])


def sharegpt_tools(folder: Path) -> Case:
    def row(n: int) -> Row:
        turns = [
            {"from": "human", "value": question(n)},
            {"from": "function_call", "value": json.dumps({"name": "look", "arguments": {"plant": n}})},
            {"from": "observation", "value": f"dry {n}"},
            {"from": "gpt", "value": answer(n)},
        ]
        return {"conversations": turns, "system": "", "tools": json.dumps([{"name": "look"}])}

    call = {"type": "function", "function": {"name": "look", "arguments": '{"plant":0}'}}
    first = [
        chat(0)[0],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "dry 0"},
        chat(0)[1],
    ]
    return Case(lines(folder / "agent.jsonl", each(row)), "sharegpt", first=first)


def turns_with_roles(folder: Path) -> Case:
    def row(n: int) -> Row:
        return {"conversation_id": str(n), "model": "m", "conversation": chat(n), "language": "English"}

    return Case(table(folder / "train.parquet", each(row)), "sharegpt")


def pairs_of_turns(folder: Path) -> Case:
    def row(n: int) -> Row:
        return {"source": "s", "conversation": [{"input": question(n), "output": answer(n)}]}

    return Case(lines(folder / "pairs.jsonl", each(row)), "sharegpt")


def list_of_texts(folder: Path) -> Case:
    return Case(
        lines(folder / "ultra.jsonl", each(lambda n: {"id": str(n), "data": [question(n), answer(n)]})), "sharegpt"
    )


def contents_of_parts(folder: Path) -> Case:
    def row(n: int) -> Row:
        return {
            "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
            "contents": [
                {"role": "user", "parts": [{"text": question(n)}]},
                {"role": "model", "parts": [{"text": answer(n)}]},
            ],
        }

    first = [{"role": "system", "content": "Be brief."}, *chat(0)]
    return Case(lines(folder / "vertex.jsonl", each(row)), "sharegpt", first=first)


def alpaca(folder: Path) -> Case:
    path = folder / "alpaca_data.json"
    folder.mkdir(parents=True, exist_ok=True)
    rows = each(lambda n: {"instruction": question(n), "input": "", "output": answer(n)})
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return Case(path, "alpaca")


def alpaca_with_input(folder: Path) -> Case:
    def row(n: int) -> Row:
        return {"instruction": "Summarise.", "input": question(n), "output": answer(n), "text": "### Instruction"}

    first = [{"role": "user", "content": f"Summarise.\n\n{question(0)}"}, chat(0)[1]]
    return Case(table(folder / "alpaca.parquet", each(row)), "alpaca", first=first)


def instruction_response(folder: Path) -> Case:
    def row(n: int) -> Row:
        return {"instruction": question(n), "context": "", "response": answer(n), "category": "open_qa"}

    return Case(lines(folder / "dolly.jsonl", each(row)), "alpaca")


def prompt_completion(folder: Path) -> Case:
    rows = each(lambda n: {"prompt": question(n), "completion": answer(n)})
    return Case(lines(folder / "legacy.jsonl", rows), "prompt-completion")


def prompt_completion_messages(folder: Path) -> Case:
    rows = each(lambda n: {"prompt": chat(n)[:1], "completion": chat(n)[1:]})
    return Case(lines(folder / "trl.jsonl", rows), "prompt-completion")


def prompt_response(folder: Path) -> Case:
    path = folder / "export.csv"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Prompt", "Response"])
        writer.writerows([question(n), answer(n)] for n in range(ROWS))
    return Case(path, "prompt-response")


def query_response(folder: Path) -> Case:
    rows = each(lambda n: {"type": "GSM", "query": question(n), "response": answer(n)})
    return Case(table(folder / "train.parquet", rows), "prompt-response")


def question_answer(folder: Path) -> Case:
    for split in ("train", "test"):
        rows = each(lambda n, split=split: {"question": question(n, f"{split} "), "answer": answer(n, f"{split} ")})
        table(folder / "main" / f"{split}-00000-of-00001.parquet", rows)
    return Case(folder, "question-answer", ("train", "test"), names={"train": "train ", "test": "test "})


def system_question_response(folder: Path) -> Case:
    def row(n: int) -> Row:
        return {"id": str(n), "system_prompt": "Be kind.", "question": question(n), "response": answer(n)}

    first = [{"role": "system", "content": "Be kind."}, *chat(0)]
    return Case(table(folder / "orca.parquet", each(row)), "question-answer", first=first)


def preference_transcripts(folder: Path) -> Case:
    def row(n: int) -> Row:
        asked = f"\n\nHuman: {question(n)}\n\nAssistant: "
        return {"chosen": asked + answer(n), "rejected": asked + "No."}

    path = folder / "train.jsonl.gz"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(each_row) + "\n" for each_row in each(row)).encode()))
    return Case(folder, "preference", ("train",))


def preference_messages(folder: Path) -> Case:
    def row(n: int) -> Row:
        worse = [chat(n)[0], {"role": "assistant", "content": "No."}]
        return {"prompt": question(n), "chosen": chat(n), "rejected": worse, "score_chosen": 9.0}

    return Case(table(folder / "train_prefs-00000-of-00001.parquet", each(row)).parent, "preference", ("train",))


def preference_texts(folder: Path) -> Case:
    def row(n: int) -> Row:
        return {"system": "Be kind.", "question": question(n), "chosen": answer(n), "rejected": "No."}

    path = folder / "dpo.jsonl.xz"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress("".join(json.dumps(each_row) + "\n" for each_row in each(row)).encode()))
    return Case(path, "preference", first=[{"role": "system", "content": "Be kind."}, *chat(0)])


def saved_to_disk(folder: Path) -> Case:
    for split in ("train", "validation"):
        rows = [{"messages": chat(n, f"{split} ")} for n in range(ROWS)]
        path = folder / split / "data-00000-of-00001.arrow"
        path.parent.mkdir(parents=True)
        batch = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_table(batch)
        (path.parent / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
        (path.parent / "dataset_info.json").write_text("{}")
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    names = {"train": "train ", "validation": "validation "}
    return Case(folder, "openai", ("train", "validation"), names=names)


def wrapped(folder: Path) -> Case:
    path = folder / "dump.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": 2, "data": each(lambda n: {"messages": chat(n)})}, indent=1))
    return Case(path, "openai")


def zstandard(folder: Path) -> Case:
    path = folder / "chats.jsonl.zst"
    folder.mkdir(parents=True, exist_ok=True)
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write("".join(json.dumps({"messages": chat(n)}) + "\n" for n in range(ROWS)).encode())
    return Case(path, "openai")


def files_by_split(folder: Path) -> Case:
    for name in ("train", "dev", "test"):
        rows = "".join(json.dumps({"messages": chat(n, f"{name} ")}) + "\n" for n in range(ROWS))
        path = folder / f"support_{name}.jsonl.bz2"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bz2.compress(rows.encode()))
    names = {"train": "train ", "validation": "dev ", "test": "test "}
    return Case(folder, "openai", ("train", "validation", "test"), names=names)


def object_of_lists(folder: Path) -> Case:
    def row(n: int) -> Row:
        return {"conversations": {"from": ["human", "gpt"], "value": [question(n), answer(n)]}}

    return Case(table(folder / "sequence.parquet", each(row)), "sharegpt")


def system_beside(folder: Path) -> Case:
    def row(n: int) -> Row:
        texts = [message | {"content": [{"text": message["content"]}]} for message in chat(n)]
        return {"schemaVersion": "v", "system": [{"text": "Be brief."}], "messages": texts}

    first = [{"role": "system", "content": "Be brief."}, *chat(0)]
    return Case(lines(folder / "converse.jsonl", each(row)), "openai", first=first)


def german_columns(folder: Path) -> Case:
    rows = each(lambda n: {"Frage": question(n), "Antwort": answer(n), "Nummer": n})
    settings = {"columns": {"question": "Frage", "answer": "Antwort"}}
    return Case(lines(folder / "fragen.jsonl", rows), "question-answer", settings=settings)


def chats_by_another_name(folder: Path) -> Case:
    rows = each(
        lambda n: {"thread": [{"speaker": "customer", "text": question(n)}, {"speaker": "agent", "text": answer(n)}]}
    )
    return Case(lines(folder / "threads.jsonl", rows), "sharegpt", settings={"columns": {"messages": "thread"}})


SHAPES: dict[str, Callable[[Path], Case]] = {
    function.__name__: function
    for function in (
        *(openai_lines, openai_tools, hub_layout, train_only_parquet, large_lists, null_padded, messages_as_text),
        *(parts_of_text, sharegpt, sharegpt_system, sharegpt_tools, turns_with_roles, pairs_of_turns, list_of_texts),
        *(contents_of_parts, alpaca, alpaca_with_input, instruction_response, prompt_completion),
        *(prompt_completion_messages, prompt_response, query_response, question_answer, system_question_response),
        *(preference_transcripts, preference_messages, preference_texts, saved_to_disk, wrapped, zstandard),
        *(files_by_split, object_of_lists, system_beside, german_columns, chats_by_another_name),
    )
}

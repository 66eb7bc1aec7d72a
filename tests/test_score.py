"""Questions and answers: which rows, both payload shapes, and what counts as an answer."""

import json
from pathlib import Path

import pytest

from retune.errors import CloudError
from retune.report import Split
from retune.request import Score
from tasks.score import build_payload, choose_rows, read_answer

CONVERSATION = [{"role": "user", "content": "Hello?"}]
PARAMETERS = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_new_tokens": 200}


def test_the_nested_payload_is_the_guide_s() -> None:
    """A list of conversations, and an empty `params`."""
    assert build_payload(CONVERSATION, Score()) == {
        "input_data": {"input_string": [CONVERSATION], "parameters": PARAMETERS},
        "params": {},
    }


def test_the_flat_payload_is_the_model_card_s() -> None:
    """One conversation, no `params`."""
    assert build_payload(CONVERSATION, Score(payload="flat")) == {
        "input_data": {"input_string": CONVERSATION, "parameters": PARAMETERS}
    }


@pytest.mark.parametrize("body", [{"output": "Hi."}, ["Hi."], "Hi.", [{"output": "Hi."}], {"output": ["Hi. "]}])
def test_a_text_is_found_in_every_shape_of_answer(body: object) -> None:
    """Servers wrap the same text in different ways."""
    assert read_answer(body) == "Hi."


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"output": ""}, "EmptyAnswer"),
        (["  "], "EmptyAnswer"),
        ({"error": "CUDA out of memory"}, "MalformedAnswer"),
        ([], "MalformedAnswer"),
        (["a", "b"], "MalformedAnswer"),
        (None, "MalformedAnswer"),
        (3, "MalformedAnswer"),
    ],
)
def test_an_answer_without_a_text_fails(body: object, code: str) -> None:
    """HTTP 200 with an error inside is a failure."""
    with pytest.raises(CloudError) as caught:
        read_answer(body)

    assert caught.value.code == code
    assert caught.value.fix


def split(path: Path, rows: int) -> Split:
    """A prepared file."""
    return Split(rows=rows, sha256="", path=str(path))


def test_the_last_answer_is_cut_off_and_expected(tmp_path: Path) -> None:
    """The endpoint is asked the last user turn and never shown the row's own answer to it."""
    turns = [("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")

    ((conversation, expected),) = choose_rows(split(path, 1), Score(rows=3))

    assert [turn["content"] for turn in conversation] == ["One?", "1", "Two?"]
    assert expected == "2"


def test_the_same_seed_asks_the_same_rows(tmp_path: Path) -> None:
    """A report can be compared with the last one."""
    rows = [{"messages": [{"role": "user", "content": str(number)}]} for number in range(50)]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    first, again, other = (choose_rows(split(path, 50), Score(seed=seed)) for seed in (1, 1, 2))

    assert first == again
    assert first != other

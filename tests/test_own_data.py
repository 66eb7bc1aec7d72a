"""A person's own data goes through a whole run with no setting but its source."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import REHEARSAL
from conftest import Run
from public_shapes import SHAPES
from test_separators import EMOJI, SEPARATORS

SAMPLED = ("sharegpt_tools", "saved_to_disk", "german_columns")
OTHERS = (
    *("openai_lines", "openai_tools", "large_lists", "alpaca", "prompt_completion", "question_answer"),
    *("preference_transcripts", "contents_of_parts", "zstandard"),
)


@pytest.mark.parametrize("name", [*SAMPLED, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in OTHERS)])
def test_own_data_is_trained_on_and_asked(name: str, finetune: Callable[..., Run], tmp_path: Path) -> None:
    """From the source to the answers of the endpoint."""
    case = SHAPES[name](tmp_path / "source")
    settings = [f"data.{key}={json.dumps(value)}" for key, value in case.settings.items()]

    registered = f"model.registered_name=own-{name.replace('_', '-')}"

    run = finetune(*REHEARSAL, f"data.source={case.source}", registered, *settings)

    assert (run.code, run.report["status"]) == (0, "completed"), run.errors
    assert run.report["data"]["splits"]["train"]["format"].startswith(case.format)
    assert len(run.report["score"]) == 2
    assert all(answer["output"] for answer in run.report["score"])


@pytest.mark.exhaustive
def test_a_row_with_every_separator_goes_through_a_whole_run(finetune: Callable[..., Run], tmp_path: Path) -> None:
    """Characters that part lines elsewhere are data, in training rows and in the questions."""
    odd = "".join(f" {mark} x" for mark in SEPARATORS) + EMOJI
    turns = [("user", f"How are you, {{}}?{odd}"), ("assistant", f"I am well, {{}}.{odd}")]
    rows = [{"messages": [{"role": role, "content": text.format(n)} for role, text in turns]} for n in range(40)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")

    run = finetune(*REHEARSAL, f"data.source={tmp_path / 'chats.jsonl'}", "model.registered_name=own-separators")

    assert (run.code, run.report["status"]) == (0, "completed"), run.errors
    assert sum(split["rows"] for split in run.report["data"]["splits"].values()) == 40
    assert all(odd.strip() in answer["prompt"] for answer in run.report["score"])

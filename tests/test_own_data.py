"""A person's own data goes through a whole run with no setting but its source."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import REHEARSAL
from conftest import Run
from public_shapes import SHAPES

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

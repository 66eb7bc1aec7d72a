"""What is generated does not drift from what it is made of."""

from collections.abc import Callable
from pathlib import Path

import pytest

from retune.documents import DOCS, PROJECT, presets_page, project_file, report_page


@pytest.mark.parametrize(
    ("path", "text"),
    [(DOCS / "report.md", report_page), (DOCS / "presets.md", presets_page), (PROJECT, project_file)],
    ids=["report", "presets", "deployments"],
)
def test_generated_files_are_current(path: Path, text: Callable[[], str]) -> None:
    """`python -m retune.documents` was run after the last change of a model or a preset."""
    assert path.read_text(encoding="utf-8") == text()

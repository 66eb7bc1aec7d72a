"""Documentation that is generated does not drift from what it describes."""

import pytest

from retune.documents import DOCS, presets_page, report_page


@pytest.mark.parametrize(("name", "page"), [("report.md", report_page), ("presets.md", presets_page)])
def test_generated_pages_are_current(name: str, page: object) -> None:
    """`python -m retune.documents` was run after the last change of a model."""
    assert (DOCS / name).read_text(encoding="utf-8") == page()

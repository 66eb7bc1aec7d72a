"""One list of facts: each part of the report is in it, and every rendering shows all of it."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from test_page import Seen

from retune.facts import facts_of
from retune.page import to_html
from retune.printing import render
from retune.report import Problem, Report
from retune.sheet import Sheet
from retune.summary import to_markdown
from retune.units import duration, megabytes, money, number, shortened

EXAMPLE = (Path(__file__).parent / "example_report.json").read_text(encoding="utf-8")
# The parts of the document that say nothing to a person, or nothing that another part does not say.
NOT_SHOWN = {
    ("schema",): "the version of the document's form",
    ("data", "splits", "train", "noted", "ends with a question"): "the count stands in bad_rows too",
}


@pytest.fixture
def report() -> Report:
    """A report in which every section has something to say."""
    return Report.model_validate_json(EXAMPLE)


def leaves(document: object, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values in a JSON document that hold no others."""
    members = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    if not members and document not in ({}, []):
        yield path
    for name, member in members:
        yield from leaves(member, (*path, name))


def texts_of(sheet: Sheet) -> list[str]:
    """Every text that a rendering of the sheet must hold."""
    texts = [sheet.title, sheet.verdict]
    for section in sheet.all_sections:
        texts += [section.title, *section.warnings, *(chart.summary for chart in section.charts)]
        texts += [text for fact in section.facts for text in (fact.label, fact.value, fact.link or "")]
        texts += [cell for table in section.tables for row in table.rows for cell in row]
        texts += [heading for table in section.tables if len(table.columns) > 3 for heading in table.columns]
        for exchange in section.exchanges:
            pieces = ("".join(words.text for words in side) for side in (exchange.expected, exchange.answered))
            texts += [exchange.asked, *pieces, exchange.judgement, exchange.time]
    return texts + [text for command in sheet.commands for text in command]


def changes_of(value: object) -> list[object]:
    """Other values in the place of this one, some of which its type allows."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        return [f"{value}x", value.replace("2026", "2027"), "failed", "rejected", "model", "user"]
    return [] if value is None else [value * 2 + 1]


def changed(path: tuple) -> Iterator[Report]:
    """Reports that differ from the example at this path alone."""
    document = json.loads(EXAMPLE)
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    before = inner[path[-1]]
    for value in changes_of(before):
        inner[path[-1]] = value
        with contextlib.suppress(ValidationError):
            if value != before:
                yield Report.model_validate(document)


def test_no_part_of_the_document_is_left_out_of_the_facts(report: Report) -> None:
    """Whatever changes in the JSON changes what a person is shown."""
    usual = facts_of(report)
    paths = [path for path in leaves(json.loads(EXAMPLE)) if path not in NOT_SHOWN]
    others = {path: [*changed(path)] for path in paths}
    ignored = [path for path, reports in others.items() if any(facts_of(other) == usual for other in reports)]

    assert ignored == []
    # Only what is null in the example cannot be changed here.
    assert [path[-1] for path, reports in others.items() if not reports] == ["error"]


def test_the_json_document_lacks_no_fact(report: Report) -> None:
    """Whoever has the JSON has all that the others show."""
    assert facts_of(Report.model_validate_json(report.to_json())) == facts_of(report)


def squeezed(text: str) -> str:
    """The text without white space: each rendering sets it in its own way."""
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("status", ["completed", "failed", "emulated"])
def test_no_rendering_lacks_a_fact(
    status: str, report: Report, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Terminal, page and Prefect's artifact hold every text of every fact."""
    report = variants(report)[status]
    monkeypatch.setattr("retune.printing.FILE_WIDTH", 100_000)
    render(report)
    terminal = squeezed(capsys.readouterr().out)
    page = Seen(to_html(report))
    shown = [squeezed(text) for text in (page.text, *page.addresses, *page.labels)]
    # What Markdown shows: without its escapes and what keeps addresses from being links.
    prefect = squeezed(re.sub(r"\\(.)|\u2060", r"\1", to_markdown(report)))

    for text in map(squeezed, texts_of(facts_of(report))):
        assert text in terminal, text
        assert any(text in part for part in shown), text
        assert text in prefect, text


def variants(report: Report) -> dict[str, Report]:
    """The example as it is, failed with its endpoint up, and of an emulator."""
    problem = Problem(step="deploy", code="DeploymentFailed", message="No quota.\nAsk for more.", fix="Ask for quota.")
    up = report.endpoint.model_copy(update={"kept_until": None})
    here = report.identity.model_copy(update={"portal": None})
    page_free = report.job.model_copy(update={"studio_url": None})
    return {
        "completed": report,
        "failed": report.model_copy(update={"status": "failed", "error": problem, "endpoint": up}),
        "emulated": report.model_copy(update={"identity": here, "job": page_free}),
    }


def test_an_emulator_s_prices_are_what_azure_would_charge(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing says that the run has cost money, and no link leads to a portal that knows nothing of it."""
    emulated = variants(report)["emulated"]
    render(emulated)

    for text in (capsys.readouterr().out, Seen(to_html(emulated)).text, to_markdown(emulated)):
        assert "would cost US$33.15" in text
        assert "has cost" not in text and "portal.azure" not in text and "//ml.azure.com" not in text
    assert "So far this has cost US$33.90" in facts_of(report).verdict


def test_the_last_lines_of_a_failure_name_cause_and_fix(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether or not commands follow, as they do where there is a job."""
    error = Problem(step="request", code="BadRequest", message="data.fraction is 7.", fix="Set data.fraction to 1.")
    for failed in (
        Report(status="rejected", error=error),
        variants(report)["failed"].model_copy(update={"error": error}),
    ):
        render(failed)
        lines = "\n".join(capsys.readouterr().out.splitlines()[-5:])

        assert "data.fraction is 7." in lines and "Set data.fraction to 1." in lines


@pytest.mark.parametrize(
    ("status", "deleted", "kept", "commands"),
    [
        ("completed", True, False, ["status"]),
        ("completed", False, True, ["cancel", "status"]),
        ("failed", True, False, ["attach"]),
        ("cancelled", False, False, ["attach", "cancel"]),
    ],
)
def test_the_next_commands_suit_the_end(
    status: str, deleted: bool, kept: bool, commands: list[str], report: Report
) -> None:
    """They name the run and its workspace. An emulator has ended with its run, so it is not asked."""
    endpoint = {"deleted": deleted, "kept_until": report.endpoint.kept_until if kept else None}
    report = report.model_copy(update={"status": status, "endpoint": report.endpoint.model_copy(update=endpoint)})
    own = facts_of(variants(report)["emulated"], program="python -m retune").commands
    remote = facts_of(report).commands

    local = {name: f"{name} nightly-2026-11-28 --preset local" for name in commands} | {"status": "local start"}
    assert [command.line for command in own] == [f"python -m retune {local[name]}" for name in commands]
    assert all("--set workspace.emulator=false" in command.line for command in remote)
    assert all("--set workspace.name=chat-lab" in command.line for command in remote)


def test_answers_are_compared_word_by_word(report: Report) -> None:
    """Those words are marked that the other text lacks; answers that share little are marked as a whole."""
    (section,) = [section for section in facts_of(report).sections if section.exchanges]
    close, far, same, alone = section.exchanges

    assert [words.text for words in close.answered if words.differs] == ["away"]
    assert [words.text for words in close.expected if words.differs] == ["out of the office"]
    assert [words.differs for words in far.answered] == [True]
    assert (same.judgement, same.tone) == ("as expected", "good")
    assert (alone.expected, alone.judgement) == ([], "no expected answer")


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (money(0), "US$0.00"),
        (money(0.004), "under US$0.01"),
        (money(1234.5), "US$1,234.50"),
        (duration(0.126), "0.13 s"),
        (duration(59.6), "60 s"),
        (duration(152), "2 min 32 s"),
        (duration(9425.3), "2 h 37 min"),
        (number(0.09874863922595978), "0.0987"),
        (number(1787), "1,787"),
        (number(8.14415986899153e-06), "8.14e-06"),
        (number(625984929792.0), "625,984,929,792"),
        (megabytes(20756), "20.8 kB"),
        (megabytes(183500211), "183.5 MB"),
        (shortened("retune-313c75c3-50b2-4665-9f28-ed2daeb44dcd-1"), "retune-313c75c3-1"),
        (shortened("nightly-2026-11-28"), "nightly-2026-11-28"),
    ],
)
def test_numbers_are_rounded_and_have_their_unit(shown: str, text: str) -> None:
    """As a person reads them."""
    assert shown == text

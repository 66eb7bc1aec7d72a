"""What a person sees of a run: its artifacts in Prefect, and the same as one HTML file."""

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from commands import REHEARSAL
from conftest import Emulator, Run

from retune.page import to_html
from retune.report import Answer, Curve, Problem, Report
from retune.report import Run as RunPart
from retune.summary import to_markdown

NAUGHTY = "<script>alert('x')</script> | `code` *bold* [link](javascript:alert(1))\n\n# no heading"

# A picture of ours in Markdown, with any description.
PICTURE = re.compile(r"!\[(?:[^]\\]|\\.)*\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)")


def artifacts_of(flow_run_id: str) -> dict[str, object]:
    """The latest data of each artifact of a flow run and of its tasks, by key; tables and bars as JSON gives them."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
        )
    return {one.key: one.data for one in sorted(found, key=lambda one: one.created)}


def names_of(flow_run_id: str) -> tuple[str, set[str]]:
    """The name of a flow run, and those of its task runs."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        own = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        return client.read_flow_run(flow_run_id).name, {run.name for run in client.read_task_runs(flow_run_filter=own)}


class Seen(HTMLParser):
    """Tags and links of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        # What a screen reader says of pictures and tables.
        self.labels: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("href", "src") and value]
        self.labels += [value for name, value in attributes if name == "aria-label" and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def pictures_in(markdown: str) -> list[ElementTree.Element]:
    """The charts that are part of a page in Markdown."""
    return [ElementTree.fromstring(base64.b64decode(match[1])) for match in PICTURE.finditer(markdown)]


def points_in(picture: ElementTree.Element) -> int:
    """Number of the points and bars of a chart."""
    marks = [*picture.iter("{http://www.w3.org/2000/svg}circle"), *picture.iter("{http://www.w3.org/2000/svg}rect")]
    return len(marks)


def test_a_run_shows_what_it_did(finetune: Callable[..., Run], emulator: Emulator, tmp_path: Path) -> None:
    """Every artifact is there and says what the report says; the picture has the points that the job logged."""
    page = tmp_path / "run.html"
    run = finetune(*REHEARSAL, page=page)
    assert run.code == 0, run.errors
    report = Report.model_validate(run.report)
    shown = artifacts_of(report.run.flow_run_id)

    assert {*shown} == {"chat-data", "parameters", "training", "loss", "questions", "summary"}
    assert shown["training"] == 100
    (losses,) = pictures_in(shown["loss"])
    assert points_in(losses) == sum(len(curve.steps) for curve in report.curves)
    assert [points_in(lengths) for lengths in pictures_in(shown["chat-data"])] == [24, 24, 24]
    parameters = json.loads(shown["parameters"])
    assert [row["parameter"] for row in parameters] == [one.name for one in report.parameters]
    assert {row["from"] for row in parameters} >= {"user", "model"}
    assert [row["answered"] for row in json.loads(shown["questions"])] == [one.output for one in report.score]
    for part in (report.job.name, report.registered_model.version, "deleted", "would cost US$", report.model.weights):
        assert part in shown["summary"], part
    assert {curve.metric for curve in report.curves} == {"loss", "eval_loss"}
    logged = points_of(emulator, report.job.name)
    assert {curve.metric: [*zip(curve.steps, curve.values, strict=True)] for curve in report.curves} == logged
    assert 0 < report.cost.training_usd < 1

    title = "Phi-4 on chat_sample"
    flow_run_name, task_run_names = names_of(report.run.flow_run_id)
    assert re.fullmatch(rf"{title}, \d{{4}}-\d\d-\d\d \d\d:\d\d", flow_run_name)
    assert {
        f"read_model: {title}",
        f"wait_for_job: {report.job.name}",
        f"deploy: {report.endpoint.name}",
    } <= task_run_names
    assert {"read_model", "wait_for_job", "deploy", "delete_endpoint"} <= {step.name for step in report.steps}

    seen = Seen(page.read_text(encoding="utf-8"))
    assert seen.tags.count("svg") == 4
    # The emulator's metadata names a portal that nobody can open.
    assert seen.addresses == []
    assert report.score[0].output in seen.text and report.registered_model.version in seen.text


def points_of(emulator: Emulator, job: str) -> dict[str, list[tuple[int, float]]]:
    """The losses of the job as its tracking store has them."""
    from retune.request import Workspace
    from retune_cloud.tracking import tracking_client
    from retune_cloud.workspace import workspace_client

    tracking = tracking_client(workspace_client(Workspace(emulator=True)))
    return {
        name: [(point.step, point.value) for point in tracking.get_metric_history(job, name)]
        for name in ("loss", "eval_loss")
    }


def test_what_others_wrote_is_text() -> None:
    """Chats hold anything; neither page takes it for markup."""
    answer = Answer(prompt=NAUGHTY, expected=NAUGHTY, output=NAUGHTY, seconds=1)
    problem = Problem(step="x", code="Bad", message=NAUGHTY, fix=NAUGHTY)
    report = Report(run=RunPart(key="x"), score=[answer], error=problem, warnings=[NAUGHTY])

    seen = Seen(to_html(report))

    assert not {"script", "a", "img"} & {*seen.tags}
    assert seen.tags.count("h1") == 1 and seen.addresses == []
    assert seen.text.count("<script>alert('x')</script>") == 6
    assert "<script>" not in to_markdown(report)


def test_a_report_with_little_in_it_is_a_page_too() -> None:
    """A run that was refused has nothing but its error; one curve of one metric is a picture."""
    refused = Report(status="rejected", error=Problem(step="request", code="BadRequest", message="No.", fix="Mend it."))
    curve = Curve(metric="loss", steps=[1, 2], values=[2.0, 1.0])

    assert "BadRequest" in Seen(to_html(refused)).text
    assert Seen(to_html(Report(curves=[curve]))).tags.count("circle") == 2

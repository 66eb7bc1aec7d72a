"""A report as a page: in Markdown for Prefect, and as HTML that needs nothing beside it."""

import base64
import html
from collections.abc import Iterator
from string import Template

from retune.pictures import draw_losses
from retune.report import Answer, Decision, Endpoint, Parameter, Report
from retune.texts import find_invisible, markdown

EVALUATIONS = {"eval_loss_before": "before the training", "eval_loss_after": "after it", "eval_loss": "at the end"}
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; }
img { max-width: 100%; }
code, pre { font-size: .9em; }
pre { overflow-x: auto; background: #f6f6f6; padding: .6rem; }
</style>
</head>
<body>
$body
</body>
</html>
""")


def to_markdown(report: Report, status: str | None = None) -> str:
    """What a person wants to know of a run, on one page, without pictures; `status` is that of one that goes on."""
    return "\n".join(_lines(report, status or report.status)) + "\n"


def parameters_table(parameters: list[Parameter]) -> list[dict[str, str]]:
    """Each input of the component with its value and where that came from."""
    return [{"parameter": one.name, "value": str(one.value), "from": one.source} for one in parameters]


def questions_table(answers: list[Answer]) -> list[dict[str, str]]:
    """Each question with the row's own answer and the endpoint's, side by side."""
    return [
        {"asked": one.prompt, "expected": one.expected, "answered": one.output, "seconds": f"{one.seconds:g}"}
        for one in answers
    ]


def to_html(report: Report, *more: str) -> str:
    """The page with its pictures and tables, and `more` sections in Markdown, as one file."""
    parts = [to_markdown(report)]
    if report.curves:
        parts.append(f"## Loss\n\n{embedded('losses over the training steps', draw_losses(report.curves))}")
    parts += [_table(title, rows) for title, rows in _tables(report).items() if rows]
    title = f"Retune: {report.status}, run {report.run.key or report.run.flow_run_id}"
    return page_of(title, "\n\n".join([*parts, *more]))


def page_of(title: str, text: str) -> str:
    """A page with a text in Markdown, as one file."""
    from markdown_it import MarkdownIt

    # Chats are text of others: what looks like HTML in them is shown as it is.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return PAGE.substitute(title=html.escape(title), body=body)


def embedded(text: str, picture: bytes) -> str:
    """A picture that is part of its page, in Markdown; PNG."""
    return f"![{text}]({picture_address(picture)})"


def picture_address(picture: bytes) -> str:
    """An address that holds the picture itself; PNG."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _tables(report: Report) -> dict[str, list[dict[str, str]]]:
    return {"Questions": questions_table(report.score), "Parameters": parameters_table(report.parameters)}


def _table(title: str, rows: list[dict[str, str]]) -> str:
    head = f"## {title}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}\n"
    return head + "\n".join(f"| {' | '.join(map(markdown, row.values()))} |" for row in rows)


def _lines(report: Report, status: str) -> Iterator[str]:
    yield f"# Retune: {status}"
    if report.run.key:
        yield f"Run {markdown(report.run.key)}, attempt {report.run.attempt}, {report.run.seconds:g} s.\n"
    if report.error:
        yield f"**{markdown(report.error.code)}** in {markdown(report.error.step)}: {markdown(report.error.message)}\n"
        yield f"Next: {markdown(report.error.fix)}\n"
    for warning in report.warnings:
        yield f"- {markdown(warning)}"
    facts = [(label, text) for label, text in _facts(report) if text]
    if facts:
        yield "\n| | |\n|---|---|"
        yield from (f"| {label} | {text} |" for label, text in facts)
    if report.metrics:
        yield "\n| metric | last value |\n|---|---:|"
        yield from (f"| {markdown(name)} | {value:.5g} |" for name, value in sorted(report.metrics.items()))
    if report.steps:
        yield "\n| step | state | seconds |\n|---|---|---:|"
        yield from (f"| {markdown(step.name)} | {markdown(step.state)} | {step.seconds:g} |" for step in report.steps)


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    place, model, data, job = report.identity, report.model, report.data, report.job
    made, endpoint, cost = report.registered_model, report.endpoint, report.cost
    if place:
        yield "workspace", markdown(f"{place.workspace} in {place.location}")
    if model:
        yield "base model", markdown(f"{model.name}:{model.version}, component {model.component}")
    if data:
        rows = ", ".join(f"{split.rows:,} {role}" for role, split in data.splits.items())
        yield "data", markdown(f"{data.source} at {data.revision[:12]}: rows {rows}")
    if job:
        taken_over = ", taken over" if job.attached else ""
        yield "job", f"{_link(job.name, job.studio_url)}: {markdown(job.status)}{taken_over}"
    if report.decision:
        yield "decision", markdown(decision_text(report.decision))
    if made:
        path = f"/model/{made.name}:{made.version}/details"
        yield "registered model", _link(f"{made.name}:{made.version}", _studio(report, path))
    if endpoint:
        where = _link(endpoint.name, _studio(report, f"/endpoints/realtime/{endpoint.name}/detail"))
        yield (
            "endpoint",
            f"{markdown(endpoint.name) if endpoint.deleted else where}: {markdown(endpoint_fate(endpoint))}",
        )
    if cost:
        spent = {"training": cost.training_usd, "endpoint": cost.endpoint_usd}
        known = [f"{name} US$ {value:,.2f}" for name, value in spent.items() if value is not None]
        yield "cost so far, at list prices", ", ".join(known)


def question(report: Report) -> str:
    """What a person is asked about the trained model, with the two numbers that say most."""
    losses = [f"{report.metrics[name]:.3f} {when}" for name, when in EVALUATIONS.items() if name in report.metrics][:2]
    found = f" Its loss on the validation rows is {', '.join(losses)}." if losses else ""
    base = f"{report.model.name}:{report.model.version}"
    return f"Use what job {report.job.name} has made of {base}?{found} The artifacts summary and loss say more."


def decision_text(decision: Decision) -> str:
    """What was decided, by whom and why."""
    if decision.answer == "none in time":
        return "Nobody has answered in time, which is a no."
    return f"{decision.answer.capitalize()} by {decision.by}{f': {decision.note}' if decision.note else '.'}"


def endpoint_fate(endpoint: Endpoint) -> str:
    """What has become of an endpoint."""
    if endpoint.deleted:
        return "deleted"
    price = f", US$ {endpoint.price_per_day_usd:,.2f} a day" if endpoint.price_per_day_usd else ""
    if endpoint.kept_until:
        return f"kept until {endpoint.kept_until:%Y-%m-%d %H:%M} UTC{price}; scoring address {endpoint.scoring_uri}"
    return f"NOT DELETED, it costs money{price}; it expires {endpoint.expires:%Y-%m-%d %H:%M} UTC"


def _studio(report: Report, path: str) -> str | None:
    """A page of Azure ML studio, where that of the job is."""
    if not (report.job and report.job.studio_url and "/runs/" in report.job.studio_url and report.identity):
        return None
    place = report.identity
    workspace = f"/subscriptions/{place.subscription_id}/resourcegroups/{place.resource_group}"
    studio = report.job.studio_url.partition("/runs/")[0]
    return f"{studio}{path}?wsid={workspace}/workspaces/{place.workspace}"


def _link(text: str, address: str | None) -> str:
    """A link where there is an address of a web page; the service says which."""
    plain = address and address.startswith("https://") and find_invisible(address) is None
    return f"[{markdown(text)}](<{address}>)" if plain and not {"<", ">"} & set(address) else markdown(text)

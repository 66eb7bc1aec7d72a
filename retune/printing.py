"""Reports as a person reads them, on stdout."""

from typing import TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from retune.report import ComputeUsed, PreparedData, Report, Swept
from retune.summary import decision_text, endpoint_fate
from retune.texts import visible

FILE_WIDTH = 120
T = TypeVar("T", bound=BaseModel)


def screen() -> Console:
    """stdout, with a width of its own where it is a file or a pipe."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console


def for_terminal(model: T) -> T:
    """The same with every text as a terminal may get it: much of it was said by a service, a model or a data set."""
    return type(model).model_validate(_visible(model.model_dump()))


def _visible(value: object) -> object:
    match value:
        case str(text):
            return visible(text)
        case dict(members):
            return {_visible(name): _visible(member) for name, member in members.items()}
        case list(entries) | tuple(entries):
            return [_visible(entry) for entry in entries]
    return value


def render(report: Report) -> None:
    """Print the report for a person, on stdout."""
    report = for_terminal(report)
    console = screen()
    console.print(Text(f"Retune: {report.status}", style="bold"), f"in {report.run.seconds:g} s")
    if report.status == "skipped":
        made = f"{report.registered_model.name}:{report.registered_model.version}"
        console.print(f"Nothing has changed since {made} was made. To train all the same: --force")
    for title, rows in _facts(report).items():
        if rows:
            console.print(f"\n{title}", style="bold")
            console.print(_two_columns(rows))
    if report.score:
        console.print("\nQuestions", style="bold")
        for answer in report.score:
            console.print(
                _two_columns(
                    [
                        ("asked", answer.prompt),
                        ("expected", answer.expected or "-"),
                        ("answered", f"{answer.output}  ({answer.seconds:g} s)"),
                        ("", ""),
                    ]
                )
            )
    for warning in report.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    if report.error:
        console.print(Text(f"\n{report.error.code} in {report.error.step}", style="bold red"))
        console.print(Text(report.error.message))
        console.print(Text(f"Next: {report.error.fix}"))


def render_data(console: Console, data: PreparedData) -> None:
    """Print what is known of prepared data, with its warnings."""
    console.print(_two_columns(_data_rows(data)))
    for warning in data.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))


def render_swept(swept: Swept) -> None:
    """Print what a sweep did for a person, on stdout."""
    swept = for_terminal(swept)
    console = screen()
    rows = [("endpoint", one) for one in swept.endpoints] + [("job", one) for one in swept.jobs]
    if rows:
        table = Table(box=None, pad_edge=False)
        for heading in ("", "name", "run", "why", "what was done"):
            table.add_column(heading, overflow="fold")
        for kind, one in rows:
            done = "nothing: a dry run" if swept.dry_run else f"{one.action}{f': {one.error}' if one.error else ''}"
            table.add_row(kind, one.name, one.key, one.reason, done)
        console.print(table)
    console.print(swept.summary)


def _facts(report: Report) -> dict[str, list[tuple[str, str]]]:
    """The sections of the printed report as label and text."""
    identity, job, model, data, endpoint = report.identity, report.job, report.model, report.data, report.endpoint
    return {
        "Where": [("workspace", f"{identity.workspace} at {identity.cloud}")] if identity else [],
        "Model": [
            ("base", f"{model.name}:{model.version}" + (f", weights {model.weights}" if model.weights else "")),
            ("component", model.component),
        ]
        if model
        else [],
        "Training": [
            (source, ", ".join(f"{p.name} {p.value}" for p in report.parameters if p.source == source))
            for source in ("user", "model", "guide")
            if any(p.source == source for p in report.parameters)
        ],
        "Compute": [_compute_row(report.compute)] if report.compute else [],
        "Data": _data_rows(data) if data else [],
        "Job": [
            ("name", job.name + (" (attached: an earlier start submitted it)" if job.attached else "")),
            ("shown as", job.display_name),
            ("status", f"{job.status}, {job.seconds:g} s"),
        ]
        if job
        else [],
        "Metrics": _metric_rows(report.metrics),
        "Decision": [("answer", decision_text(report.decision))] if report.decision else [],
        "Result": (
            [("registered", f"{report.registered_model.name}:{report.registered_model.version}")]
            if report.registered_model
            else []
        )
        + ([("endpoint", f"{endpoint.name}: {endpoint_fate(endpoint)}")] if endpoint else []),
    }


def _data_rows(data: PreparedData) -> list[tuple[str, str]]:
    """Where the rows came from, what each file holds, and what was found with the first example."""
    how = "found and verified" if data.cached else f"prepared in {data.seconds:g} s"
    rows = [("source", f"{data.source} at {data.revision[:12]}, {how}")]
    rows += [("format", text) for text in dict.fromkeys(split.format for split in data.splits.values()) if text]
    for role, split in data.splits.items():
        about = split.statistics
        held_out = f", held out: {split.held_out}" if split.held_out else ""
        lengths = f", median {about.turns.p50:g} turns, {about.characters.p50:,.0f} characters" if about else ""
        rows.append((role, f"{split.rows:,} rows{lengths}{held_out}"))
        for bad in split.bad_rows:
            fate = "kept" if bad.kind in split.noted else "left out"
            rows.append(("", f"{bad.rows:,} {fate}: {bad.kind}, e.g. {bad.examples[0]}"))
        rows += [("", f"{count:,} replaced: {kind}") for kind, count in split.redacted.items()]
    return rows


def _compute_row(compute: ComputeUsed) -> tuple[str, str]:
    price = f", US$ {compute.price_per_hour_usd:g} an hour and node" if compute.price_per_hour_usd else ""
    made = "made by this run, kept" if compute.created else "was there"
    return compute.name, f"{compute.size}, {compute.gpus_per_node} GPU(s) a node{price}; {made}"


def _metric_rows(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """Before and after where both were measured, else what there is."""
    rows = []
    for name in ("eval_loss", "perplexity"):
        before, after = metrics.get(f"{name}_before"), metrics.get(f"{name}_after", metrics.get(name))
        if before is not None and after is not None:
            rows.append((name, f"{before:.3f} before, {after:.3f} after"))
        elif after is not None:
            rows.append((name, f"{after:.3f}"))
    rows += [(name, f"{metrics[name]:.4g}") for name in ("train_loss", "train_runtime") if name in metrics]
    return rows


def _two_columns(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=11, style="dim")
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(f"  {label}", Text(text))
    return table

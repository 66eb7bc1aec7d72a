"""The one list of facts that a report is shown from: on a terminal, as a page and in Prefect.

A new fact is one line here. The list depends on nothing but the report, whose JSON therefore lacks none of it.
"""

import difflib
import re

from retune.data_facts import data_details, data_section
from retune.report import Answer, ComputeUsed, Curve, Parameter, PreparedData, Report, Split
from retune.sheet import Chart, Exchange, Fact, Section, Series, Sheet, Table, Words, section_of
from retune.texts import is_web_page
from retune.units import count, duration, moment, money, number, shortened
from retune.verdict import (
    commands,
    decision_text,
    endpoint_fate,
    is_emulated,
    losses,
    tone,
    total_cost,
    verdict,
)

# Answers that share less than this with what was expected differ as a whole.
LEAST_SHARED = 0.4
# The name of compute that is no cluster.
SERVERLESS = "serverless"


def facts_of(report: Report, status: str | None = None, program: str = "retune") -> Sheet:
    """All facts of a report. `status` is that of a run that goes on; `program` is how `retune` is typed here."""
    status = status or report.status
    data = report.data
    sections = [_result(report), _decision(report), _run(report)]
    sections += [data_section(data) if data else Section("Data")]
    sections += [_questions(report), _cost(report), _created(report)]
    sections += [_parameters(report), _metrics(report), _steps(report)]
    sections += [*([data_details(data)] if data else []), _identifiers(report)]
    return Sheet(
        title=f"Retune: {status}",
        verdict=verdict(report),
        tone=tone(report, status),
        sections=[section for section in sections if not section.is_empty],
        commands=commands(report, program),
        problem=_problem(report),
    )


def losses_sheet(curves: list[Curve]) -> Sheet:
    """The losses of a job alone."""
    section = Section("Over the training steps", charts=[losses_chart(curves)])
    return Sheet("Loss", "Every point that the job logged.", "neutral", [section])


def parameters_table(parameters: list[Parameter]) -> Table:
    """Each input of the component with its value and where that came from."""
    rows = [(parameter.name, str(parameter.value), parameter.source) for parameter in parameters]
    return Table("", ("parameter", "value", "from"), rows, texts=3)


def exchanges_of(answers: list[Answer]) -> list[Exchange]:
    """Each question with the row's own answer and the endpoint's, compared."""
    return [_exchange(answer) for answer in answers]


def losses_chart(curves: list[Curve]) -> Chart:
    """The losses of a job over its training steps, each point that it logged."""
    parts = [
        f"{curve.metric} from {number(curve.values[0])} to {number(curve.values[-1])} in {len(curve.values)} points"
        for curve in curves
    ]
    series = [Series(curve.metric, [float(step) for step in curve.steps], curve.values) for curve in curves]
    last = max((step for curve in curves for step in curve.steps), default=0)
    summary = f"Loss over {count(last, 'training step')}: {'; '.join(parts)}."
    return Chart("Loss", summary, "lines", "training step", "loss", series)


def _problem(report: Report) -> Section | None:
    error = report.error
    if error is None:
        return None
    facts = [Fact("error", error.code), Fact("in step", error.step), Fact("message", error.message)]
    return section_of("Problem", [*facts, Fact("what to do", error.fix)])


def _run(report: Report) -> Section:
    run, model, data = report.run, report.model, report.data
    of_model = [*(model.warnings if model else []), *(data.warnings if data else [])]
    facts = [
        Fact("date", moment(run.began) if run.began else ""),
        Fact("duration", duration(run.seconds) if run.seconds else ""),
        Fact("model", f"{model.name}:{model.version}" if model else ""),
        Fact("weights", model.weights or "" if model else ""),
        Fact("component", model.component if model else ""),
        Fact("archived", "yes" if model and model.archived else ""),
        Fact("retirement", model.retirement_date or "" if model else ""),
        Fact("compute", _compute_text(report)),
        Fact("workspace", f"{report.identity.workspace} in {report.identity.location}" if report.identity else ""),
        Fact("run key", shortened(run.key) if run.key else ""),
        Fact("attempt", str(run.attempt) if run.key else ""),
    ]
    others = [warning for warning in report.warnings if warning not in of_model]
    return section_of("Run", facts, warnings=[*others, *(model.warnings if model else [])])


def _compute_text(report: Report) -> str:
    compute = report.compute
    if compute is None:
        return ""
    gpus = f"{count(compute.gpus_per_node, 'GPU')} a node"
    return f"{compute.name}: {compute.size}, {gpus}, {compute.tier.replace('_', ' ')}"


def _result(report: Report) -> Section:
    measured, metrics = losses(report), report.metrics
    before, after = metrics.get("perplexity_before"), metrics.get("perplexity_after")
    alone = "" if measured or "eval_loss" not in metrics else number(metrics["eval_loss"])
    facts = [
        Fact("validation loss", f"{number(measured[0])} before, {number(measured[1])} after" if measured else alone),
        Fact(
            "perplexity",
            "" if before is None or after is None else f"{number(before)} before, {number(after)} after",
        ),
        Fact("training loss", number(metrics["train_loss"]) if "train_loss" in metrics else ""),
    ]
    charts = [losses_chart(report.curves)] if report.curves else []
    return section_of("Before and after", facts, charts=charts, prominent=True)


def _decision(report: Report) -> Section:
    decision = report.decision
    facts = [
        Fact("decision", decision_text(decision) if decision else ""),
        Fact("decided", moment(decision.at) if decision else ""),
        Fact("given to", "an earlier execution of this run" if decision and decision.attached else ""),
    ]
    return section_of("Approval", facts)


def _questions(report: Report) -> Section:
    return Section("Questions and answers", exchanges=exchanges_of(report.score))


def _cost(report: Report) -> Section:
    cost, compute, endpoint = report.cost, report.compute, report.endpoint
    emulated, total = is_emulated(report), total_cost(report)
    day = endpoint.price_per_day_usd if endpoint else None

    def priced(usd: float | None, unit: str = "") -> str:
        return "" if usd is None else f"{'would cost ' if emulated else ''}{money(usd)}{unit}"

    facts = [
        Fact("training", priced(cost.training_usd) if cost else ""),
        Fact("endpoint", priced(cost.endpoint_usd) if cost else ""),
        Fact("together", priced(total)),
        Fact("price of a node", priced(compute.price_per_hour_usd, " an hour") if compute else ""),
        Fact("price of the deployment", priced(day, " a day")),
    ]
    if all(not fact.value for fact in facts):
        return Section("Cost")
    basis = "list prices, without storage and a cluster's idle time"
    paid = "; the cloud is an emulator, nothing was charged" if emulated else ""
    return section_of("Cost", [*facts, Fact("basis", basis + paid)])


def _created(report: Report) -> Section:
    job, registered, endpoint, data = report.job, report.registered_model, report.endpoint, report.data
    path = f"/model/{registered.name}:{registered.version}/details" if registered else ""
    endpoint_page = _studio(report, f"/endpoints/realtime/{endpoint.name}/detail") if endpoint else None
    fate = endpoint_fate(endpoint, emulated=is_emulated(report)) if endpoint else ""
    assets = {role: _asset_name(asset) for role, asset in data.assets.items()} if data else {}
    facts = [
        Fact("cluster", _cluster_text(report.compute)),
        *(Fact(f"data asset, {role}", f"{asset}: kept") for role, asset in assets.items()),
        Fact("job", f"{shortened(job.name)}: {job.status}, {duration(job.seconds)}" if job else "", _page(report)),
        Fact("shown as", job.display_name if job else ""),
        Fact("submitted", "by an earlier execution" if job and job.attached else ""),
        Fact(
            "registered model",
            f"{registered.name}:{registered.version}" if registered else "",
            _studio(report, path) if registered else None,
        ),
        Fact("registered", "by an earlier execution" if registered and registered.attached else ""),
        Fact("endpoint", f"{endpoint.name}: {fate}" if endpoint else "", endpoint_page if fate != "deleted" else None),
        Fact("scoring address", endpoint.scoring_uri or "" if endpoint else ""),
    ]
    return section_of("Created and deleted", facts)


def _cluster_text(compute: ComputeUsed | None) -> str:
    if compute is None or compute.name == SERVERLESS:
        return ""
    return f"{compute.name}: {'created and kept' if compute.created else 'existed'}"


def _parameters(report: Report) -> Section:
    return section_of("Parameters", [], tables=[parameters_table(report.parameters)], folded=True)


def _metrics(report: Report) -> Section:
    rows = [(name, number(value)) for name, value in sorted(report.metrics.items())]
    return section_of("Metrics", [], tables=[Table("", ("metric", "last value"), rows)], folded=True)


def _steps(report: Report) -> Section:
    rows = [(step.name, step.state, duration(step.seconds)) for step in report.steps]
    return section_of("Steps", [], tables=[Table("", ("step", "state", "time"), rows, texts=2)], folded=True)


def _identifiers(report: Report) -> Section:
    """Names and ids in full, for those who look something up in Azure or in Prefect."""
    run, identity, model, data, job = report.run, report.identity, report.model, report.data, report.job
    registered, endpoint = report.registered_model, report.endpoint
    facts = [
        Fact("run key", run.key or ""),
        Fact("flow run", run.flow_run_id or ""),
        Fact("principal", identity.principal if identity else ""),
        Fact("tenant", identity.tenant if identity else ""),
        Fact("subscription", identity.subscription_id if identity else ""),
        Fact("resource group", identity.resource_group if identity else ""),
        Fact("workspace from", identity.found_in if identity else ""),
        Fact("cloud", identity.cloud if identity else ""),
        Fact("portal", identity.portal or "none: an emulator" if identity else ""),
        Fact("base model", model.id if model else ""),
        Fact("data revision", data.revision if data else ""),
        Fact("data key", data.key if data else ""),
        *(Fact(f"{role} file", f"{split.path}, sha256 {split.sha256}") for role, split in _splits(data)),
        *(Fact(f"{role} asset", asset) for role, asset in (data.assets if data else {}).items()),
        Fact("job", job.name if job else ""),
        Fact("experiment", job.experiment if job else ""),
        Fact("job accepted", moment(job.created) if job and job.created else ""),
        Fact("registered model", registered.id if registered else ""),
        Fact("endpoint", endpoint.name if endpoint else ""),
        Fact("deployment", f"{endpoint.deployment} on {endpoint.instance_type}" if endpoint else ""),
        Fact("endpoint expires", moment(endpoint.expires) if endpoint else ""),
    ]
    return section_of("Names and ids", facts, folded=True)


def _splits(data: PreparedData | None) -> list[tuple[str, Split]]:
    return list(data.splits.items()) if data else []


def _exchange(answer: Answer) -> Exchange:
    time = duration(answer.seconds)
    if not answer.expected:
        return Exchange(answer.prompt, [], [Words(answer.output, False)], "no expected answer", "neutral", time)
    if _plain(answer.expected) == _plain(answer.output):
        expected, answered = [Words(answer.expected, False)], [Words(answer.output, False)]
        return Exchange(answer.prompt, expected, answered, "as expected", "good", time)
    expected, answered = _compare(answer.expected, answer.output)
    return Exchange(answer.prompt, expected, answered, "differs from what was expected", "bad", time)


def _plain(text: str) -> str:
    """The text without differences that do not matter: case, and how words are set apart."""
    return " ".join(text.casefold().split())


def _compare(expected: str, answered: str) -> tuple[list[Words], list[Words]]:
    """Both texts in pieces, with those marked that the other lacks; as a whole where they share little."""
    before, after = (re.findall(r"\s*\S+", text) for text in (expected, answered))
    plain = [[_plain(word) for word in words] for words in (before, after)]
    matcher = difflib.SequenceMatcher(None, *plain, autojunk=False)
    if matcher.ratio() < LEAST_SHARED:
        return [Words(expected, False)], [Words(answered, True)]
    pieces: tuple[list[Words], list[Words]] = ([], [])
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        for words, first, last, side in ((before, start, end, pieces[0]), (after, other_start, other_end, pieces[1])):
            text = "".join(words[first:last])
            # The space before a word is no difference.
            bare = text.lstrip()
            space = text[: len(text) - len(bare)]
            side += [Words(space, False)] * bool(space) + [Words(bare, kind != "equal")] * bool(bare)
    return pieces


def _asset_name(asset: str) -> str:
    """`name:version` of an asset's full id."""
    return re.sub(r".*/([^/]+)/versions/([^/]+)", r"\1:\2", asset)


def _page(report: Report) -> str | None:
    """The job's page in Azure ML studio, as the service names it."""
    address = report.job and report.job.studio_url
    return address if address and is_web_page(address) else None


def _studio(report: Report, path: str) -> str | None:
    """A page of Azure ML studio, where that of the job is."""
    address, identity = _page(report), report.identity
    if not (address and "/runs/" in address and identity):
        return None
    workspace = f"/subscriptions/{identity.subscription_id}/resourcegroups/{identity.resource_group}"
    page = f"{address.partition('/runs/')[0]}{path}?wsid={workspace}/workspaces/{identity.workspace}"
    return page if is_web_page(page) else None

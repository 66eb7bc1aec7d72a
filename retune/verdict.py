"""Sentences about a run: how it ended, what was decided, what a person is asked, and which commands come next."""

import shlex
from collections.abc import Iterator

from retune import names
from retune.report import Decision, Endpoint, Identity, Report
from retune.sheet import Command, Tone
from retune.units import count, moment, money, number

LOSSES = (("eval_loss_before", "eval_loss_after"), ("eval_loss_before", "eval_loss"))
TONES: dict[str, Tone] = {"completed": "good", "failed": "bad", "rejected": "bad"}


def verdict(report: Report) -> str:
    """How the run ended, what came of it, what is still up and what it costs, in a few sentences."""
    return " ".join([*_outcome(report), *_remains(report), *_bill(report)])


def tone(report: Report, status: str) -> Tone:
    """Whether that is good news."""
    endpoint = report.endpoint
    remains = endpoint and not (endpoint.deleted or endpoint.kept_until)
    return "bad" if remains and status == report.status else TONES.get(status, "neutral")


def question(report: Report) -> str:
    """What a person is asked about the trained model, with the two numbers that say most."""
    losses = f" {text}" if (text := _losses_text(report)) else ""
    model = f"from {report.model.name}:{report.model.version}" if report.model else ""
    job = f"job {report.job.name}" if report.job else "the job"
    return f"Use the model that {job} trained {model}?{losses} See the artifacts summary and loss."


def decision_text(decision: Decision) -> str:
    """What was decided, by whom and why."""
    if decision.answer == "none in time":
        return "Declined: nobody answered in time."
    note = f": {decision.note.rstrip('.')}" if decision.note else ""
    return f"{decision.answer.capitalize()} by {decision.by}{note}."


def endpoint_fate(endpoint: Endpoint, *, emulated: bool = False) -> str:
    """What has become of an endpoint."""
    if endpoint.deleted:
        return "deleted"
    day = endpoint.price_per_day_usd
    price = f", {'would cost ' if emulated else ''}{money(day)} a day" if day else ""
    if endpoint.kept_until:
        return f"kept until {moment(endpoint.kept_until)}{price}"
    warning = "NOT DELETED" if emulated else "NOT DELETED, it costs money"
    return f"{warning}{price}; it expires {moment(endpoint.expires)}"


def is_emulated(report: Report) -> bool:
    """Whether the cloud that the run has signed in to is an emulator, as its own metadata says."""
    return report.identity is not None and report.identity.portal is None


def total_cost(report: Report) -> float | None:
    """US dollars of all that has a price; None where nothing has."""
    spent = [report.cost.training_usd, report.cost.endpoint_usd] if report.cost else []
    known = [usd for usd in spent if usd is not None]
    return sum(known) if known else None


def losses(report: Report) -> tuple[float, float] | None:
    """Loss on the validation rows before and after the training, where both were measured."""
    pairs = ((report.metrics.get(before), report.metrics.get(after)) for before, after in LOSSES)
    return next(((before, after) for before, after in pairs if before is not None and after is not None), None)


def commands(report: Report, program: str) -> list[Command]:
    """What a person may want to type next; `program` is how `retune` is typed."""
    key, endpoint, identity = report.run.key, report.endpoint, report.identity
    if report.job is None or key is None:
        return []
    is_cut_short, is_local = report.status in ("failed", "cancelled"), identity is None or identity.portal is None
    lines = [Command("resume the run", "attach")] if is_cut_short else []
    if endpoint and not endpoint.deleted:
        lines.append(Command("delete the endpoint", "cancel"))
    arguments = shlex.join([key, *_workspace_options(identity)])
    lines = [Command(purpose, f"{program} {name} {arguments}") for purpose, name in lines]
    if is_cut_short:
        return lines
    if is_local:
        # The emulator of a run ends with it, and nobody can ask it any more.
        return [*lines, Command("start a workspace that stays up, with Prefect's page", f"{program} local start")]
    return [*lines, Command("see what the workspace holds of this run", f"{program} status {arguments}")]


def _workspace_options(identity: Identity | None) -> list[str]:
    """What leads a command to the same workspace, whatever else names one."""
    if identity is None or identity.portal is None:
        return ["--preset", "local"]
    parts = {
        "emulator": "false",
        "subscription_id": identity.subscription_id,
        "resource_group": identity.resource_group,
        "name": identity.workspace,
    }
    return [word for name, value in parts.items() for word in ("--set", f"workspace.{name}={value}")]


def _outcome(report: Report) -> Iterator[str]:
    model, data, registered, error = report.model, report.data, report.registered_model, report.error
    if report.status == "skipped" and registered:
        version = f"{registered.name}:{registered.version}"
        yield f"Nothing has changed since {version} was trained. Use --force to train anyway."
        return
    if report.status == "rejected":
        yield "The request was refused; nothing was created."
    elif error and report.status == "cancelled":
        yield "The run was cancelled."
    elif error:
        yield f"The run failed in step {error.step}."
    if report.decision:
        yield decision_text(report.decision)
    if model and data and report.metrics:
        yield f"{model.name} was fine-tuned on {names.data_name(data.source)}."
    yield from filter(None, [_losses_text(report)])
    if report.score:
        yield f"The model answered {count(len(report.score), 'question')}."


def _losses_text(report: Report) -> str:
    measured = losses(report)
    if measured is None:
        after = report.metrics.get("eval_loss")
        return "" if after is None else f"Its loss on the validation rows is {number(after)}."
    before, after = measured
    if before == after:
        return f"Its loss on the validation rows stayed at {number(before)}."
    verb = "fell" if after < before else "rose"
    return f"Its loss on the validation rows {verb} from {number(before)} to {number(after)}."


def _remains(report: Report) -> Iterator[str]:
    if report.endpoint:
        yield f"Its endpoint is {endpoint_fate(report.endpoint, emulated=is_emulated(report))}."


def _bill(report: Report) -> Iterator[str]:
    if (total := total_cost(report)) is not None:
        verb = "On Azure this would cost" if is_emulated(report) else "So far this has cost"
        yield f"{verb} {money(total)} at list prices."

"""docs/report.md and docs/presets.md, generated from the models that they describe, and the presets in prefect.yaml.

python -m retune.documents        writes them
"""

import textwrap
import types
import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from retune.report import EXIT_CODES, Report
from retune.request import PRESETS, Request

DOCS = Path(__file__).resolve().parent.parent / "docs"
PROJECT = DOCS.parent / "prefect.yaml"
# What stands in prefect.yaml before and after the presets.
BEFORE, AFTER = "by `python -m retune.documents`, down to `deployments:`.\n", "\ndeployments:\n"


def report_page() -> str:
    """The JSON report, schema 1, as Markdown."""
    codes = "\n".join(f"| {status} | {code} |" for status, code in EXIT_CODES.items())
    return "\n".join(
        [
            "# The report",
            "",
            "`python -m flows.finetune --json` prints one JSON document on stdout: schema 1. The same document stays",
            "in `.retune/runs/<flow run id>.json`. A section that the run did not reach is `null` or empty.",
            "",
            "| status | exit code |",
            "|---|---|",
            codes,
            "",
            "`rejected` means that the request was refused and nothing was created.",
            "",
            *_tables(Report, "Document"),
        ]
    )


def presets_page() -> str:
    """Every key of a preset as Markdown."""
    return "\n".join(
        [
            "# Presets and `--set`",
            "",
            "One YAML file is one complete run; `--set section.key=value` changes one key of it.",
            "Unknown keys are refused.",
            "",
            *_tables(Request, "Sections"),
        ]
    )


def project_file() -> str:
    """prefect.yaml with each preset that a deployment names as an anchor; the rest as it is."""
    text = PROJECT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEFORE)
    _, _, deployments = rest.partition(AFTER)
    anchors = [
        f"  {path.stem}: &{path.stem}\n{textwrap.indent(path.read_text(encoding='utf-8'), '    ')}"
        for path in sorted(PRESETS.glob("*.yaml"))
        if f"*{path.stem}\n" in deployments
    ]
    return f"{before}{BEFORE}{''.join(anchors)}{AFTER}{deployments}"


def _tables(model: type[BaseModel], title: str) -> list[str]:
    """A table of the model's fields, followed by one for each model inside it."""
    lines = [f"## {title}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
    inner: dict[str, type[BaseModel]] = {}
    for name, field in model.model_fields.items():
        part = _model_in(field.annotation)
        if part:
            inner[field.alias or name] = part
        lines.append(f"| `{field.alias or name}` | {_type(field)} | {_default(field)} | {field.description} |")
    lines.append("")
    for name, part in inner.items():
        lines += _tables(part, f"{title} / {name}" if title not in ("Document", "Sections") else name)
    return lines


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, typing.get_args(annotation))), None)


def _type(field: FieldInfo) -> str:
    part = _model_in(field.annotation)
    if part:
        origin = typing.get_origin(field.annotation)
        return {list: "list of objects", dict: "object of objects"}.get(origin, "object")
    bounds = [
        f"{sign} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        if getattr(rule, name, None) is not None
    ]
    return ", ".join([_name(field.annotation), *bounds])


def _name(annotation: object) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name(argument) for argument in arguments)
    if origin is typing.Annotated:
        return _name(arguments[0])
    if origin in (list, dict):
        return f"{ {list: 'list', dict: 'object'}[origin] } of {_name(arguments[-1])}"
    name = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "NoneType": "null"}
    return words.get(name, name)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "" if isinstance(field.default, BaseModel) or field.default is None else f"`{field.default}`"


if __name__ == "__main__":
    (DOCS / "report.md").write_text(report_page(), encoding="utf-8")
    (DOCS / "presets.md").write_text(presets_page(), encoding="utf-8")
    PROJECT.write_text(project_file(), encoding="utf-8")

"""Checks recorded exchanges against Microsoft's OpenAPI 2.0 documents of Azure ML.

Beyond plain JSON Schema it follows what Azure's documents use: references between files, `allOf` as inheritance, and
`discriminator` with `x-ms-discriminator-value` for the type of a resource. It is strict: unknown properties and
values outside an enumeration (open ones too) are problems, and a long-running answer must name where to poll. Null
stands for an absent optional property, as the service uses it. Names of places and rules are those of the list of the
service's own deviations.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

# Stands before the registry's paths, in the address of the service and not in its document.
DATA_PLANE = "/mferp/managementfrontend"
METHODS = ("get", "put", "post", "delete", "patch", "head")
POLLING_HEADERS = {"azure-asyncoperation", "location", "operation-location"}
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list}
FORMATS = {
    "duration": re.compile(r"-?P(?=.)(\d+[YMWD])*(T(?=\d)(\d+(\.\d+)?[HMS])+)?"),
    "date-time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*"),
}


class Problem(NamedTuple):
    """One breach. `place` is a path such as `resp$.value[].properties`."""

    operation: str
    place: str
    rule: str
    detail: str


class Location(NamedTuple):
    """A schema and the file that its references are relative to."""

    schema: dict
    file: Path


class Operation(NamedTuple):
    """One operation of a document."""

    method: str
    template: str
    pattern: re.Pattern[str]
    document: dict
    file: Path


@dataclass
class Shape:
    """An object schema with everything it inherits."""

    properties: dict[str, Location] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    additional: object = None
    discriminator: str | None = None


class Specification:
    """The OpenAPI documents of one api-version."""

    def __init__(self, files: list[Path]) -> None:
        self._files = [file.resolve() for file in files]
        self._documents: dict[Path, dict] = {}

    @cached_property
    def operations(self) -> list[Operation]:
        found = []
        for file in self._files:
            for template, item in self._document(file).get("paths", {}).items():
                text = re.sub(r"\\\{[^/]+?\\\}", "[^/]+", re.escape(template))
                pattern = re.compile(text + "/?", re.IGNORECASE)
                found += [
                    Operation(name.upper(), template, pattern, item[name], file) for name in METHODS if name in item
                ]
        return sorted(found, key=lambda operation: operation.template.count("{"))

    @cached_property
    def _subtypes(self) -> dict[tuple[Path, str], dict[str, tuple[Path, str]]]:
        """(file, definition) of a base -> discriminator value -> (file, definition) of the derived type."""
        derived: dict[tuple[Path, str], dict[str, tuple[Path, str]]] = {}
        for file in self._files:
            for name, schema in self._document(file).get("definitions", {}).items():
                for parent in schema.get("allOf", []):
                    if "$ref" in parent:
                        value = schema.get("x-ms-discriminator-value", name)
                        derived.setdefault(self._target(parent["$ref"], file), {})[value] = (file, name)
        return derived

    def check(self, exchange: dict) -> list[Problem]:
        """The problems of one exchange, as the emulator's journal writes it."""
        request, response = exchange["request"], exchange["response"]
        path = urlsplit(request["url"]).path.removeprefix(DATA_PLANE)
        operation = next(
            (op for op in self.operations if op.method == request["method"] and op.pattern.fullmatch(path)), None
        )
        if operation is None:
            return [Problem("", "$", "UNDEFINED_OPERATION", f"{request['method']} {path}")]
        name, problems = operation.document["operationId"], []
        declared = operation.document["responses"]
        answer = declared.get(str(response["status"])) or (
            declared.get("default", {}) if response["status"] >= 400 else None
        )
        if answer is None:
            problems.append(("$", "INVALID_RESPONSE_CODE", str(response["status"])))
        elif "schema" in answer:
            if response["body"] is None:
                problems.append(("resp$", "NO_BODY", str(response["status"])))
            else:
                problems += self._compare(response["body"], Location(answer["schema"], operation.file), "resp$")
        for parameter in operation.document.get("parameters", []):
            schema, file = self._resolve(Location(parameter, operation.file))
            if schema.get("in") == "body" and request["body"]:
                problems += self._compare(request["body"], Location(schema["schema"], file), "req$")
        if operation.document.get("x-ms-long-running-operation") and response["status"] in (201, 202):
            headers = {header.lower() for header in response["headers"]}
            if not headers & POLLING_HEADERS:
                problems.append(("$", "LRO_HEADERS_MISSING", str(response["status"])))
        return [Problem(name, *problem) for problem in problems]

    def _document(self, file: Path) -> dict:
        if file not in self._documents:
            self._documents[file] = json.loads(file.read_text(encoding="utf-8-sig"))
        return self._documents[file]

    def _target(self, reference: str, file: Path) -> tuple[Path, str]:
        name, _, fragment = reference.partition("#")
        return (file.parent / name).resolve() if name else file, fragment.rsplit("/", 1)[-1]

    def _resolve(self, location: Location) -> Location:
        schema, file = location
        while "$ref" in schema:
            name, _, fragment = schema["$ref"].partition("#")
            file = (file.parent / name).resolve() if name else file
            schema = self._document(file)
            for key in fragment.strip("/").split("/"):
                schema = schema[key.replace("~1", "/").replace("~0", "~")]
        return Location(schema, file)

    def _shape(self, location: Location) -> Shape:
        schema, file = self._resolve(location)
        shape = Shape()
        for parent in schema.get("allOf", []):
            inherited = self._shape(Location(parent, file))
            shape.properties |= inherited.properties
            shape.required |= inherited.required
            shape.discriminator = shape.discriminator or inherited.discriminator
            shape.additional = inherited.additional if shape.additional is None else shape.additional
        shape.properties |= {name: Location(entry, file) for name, entry in schema.get("properties", {}).items()}
        shape.required |= set(schema.get("required", []))
        shape.discriminator = schema.get("discriminator") or shape.discriminator
        shape.additional = schema.get("additionalProperties", shape.additional)
        return shape

    def _all_subtypes(self, base: tuple[Path, str]) -> dict[str, tuple[Path, str]]:
        direct = self._subtypes.get(base, {})
        return direct | {
            value: found for target in direct.values() for value, found in self._all_subtypes(target).items()
        }

    def _compare(self, value: object, location: Location, place: str) -> Iterator[tuple[str, str, str]]:
        schema, file = self._resolve(location)
        reference = location.schema.get("$ref")
        if "discriminator" in schema and isinstance(value, dict) and reference:
            base = self._target(reference, location.file)
            kind, subtypes = value.get(schema["discriminator"]), self._all_subtypes(base)
            if kind in subtypes:
                target, name = subtypes[kind]
                inherited = Location({"allOf": [{"$ref": f"#/definitions/{name}"}]}, target)
                yield from self._compare(value, inherited, place)
                return
            if kind is None:
                yield place, "DISCRIMINATOR_MISSING", schema["discriminator"]
            elif kind != base[1]:
                yield place, "DISCRIMINATOR_VALUE_NOT_FOUND", str(kind)
                return
        composed = {"properties", "allOf", "additionalProperties"} & schema.keys()
        kind = schema.get("type") or ("object" if composed else None)
        if kind == "object" and isinstance(value, dict):
            yield from self._compare_object(value, Location(schema, file), place)
        elif kind == "array" and isinstance(value, list):
            for entry in value:
                yield from self._compare(entry, Location(schema.get("items", {}), file), f"{place}[]")
        else:
            yield from compare_scalar(value, kind, schema, place)

    def _compare_object(self, value: dict, location: Location, place: str) -> Iterator[tuple[str, str, str]]:
        shape = self._shape(location)
        for name in sorted(shape.required - value.keys()):
            yield place, "MISSING_REQUIRED", name
        for name, entry in value.items():
            known = shape.properties.get(name)
            if known:
                if entry is not None or (name in shape.required and not self._resolve(known).schema.get("x-nullable")):
                    yield from self._compare(entry, known, f"{place}.{name}")
            elif isinstance(shape.additional, dict):
                if entry is not None:
                    yield from self._compare(entry, Location(shape.additional, location.file), f"{place}.{name}")
            elif not shape.additional and shape.properties:
                yield place, "ADDITIONAL_PROPERTY", name


def compare_scalar(value: object, kind: str | None, schema: dict, place: str) -> Iterator[tuple[str, str, str]]:
    wanted = TYPES.get(kind or "")
    if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and kind in ("integer", "number"))):
        yield place, "INVALID_TYPE", f"{kind} got {type(value).__name__}"
    if "enum" in schema and value not in schema["enum"]:
        yield place, "ENUM", str(value)
    pattern = FORMATS.get(schema.get("format", ""))
    if pattern and isinstance(value, str) and not pattern.fullmatch(value):
        yield place, f"FORMAT {schema['format']}", value

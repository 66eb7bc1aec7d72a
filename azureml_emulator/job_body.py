"""The parts of a job's body: inputs, outputs, environment variables.

Two notations are read: that of the REST body (`componentId`, `{"job_input_type": ..., "uri": ...}`) and that of
component YAML (`component: azureml:name:version`, plain values).
"""

from dataclasses import dataclass

from azureml_emulator.json_types import Json, JsonValue
from azureml_emulator.names import ASSET, JOB_MEMBER, VARIABLE, check_address, check_name, refuse_settings
from azureml_emulator.wire import ServiceError

# Linux limits one environment variable and one argument to 128 KiB, and all of them to 2 MiB.
LONGEST_VALUE_BYTES, ALL_VALUES_BYTES = 100_000, 1_000_000


@dataclass(frozen=True)
class Literal:
    """A value as text."""

    text: str


@dataclass(frozen=True)
class Asset:
    """Data or a model by its address."""

    uri: str


@dataclass(frozen=True)
class AssetName:
    """The name under which an output is registered. Without a version it gets the next number."""

    name: str
    version: str | None


def read_inputs(document: Json) -> dict[str, Literal | Asset | None]:
    """The inputs of a job or a node by name. Raises: ServiceError 400 for a name or a value that cannot be one."""
    inputs = {name: read_input(value) for name, value in entries(document, "inputs")}
    for name, value in inputs.items():
        check_name("input", name, JOB_MEMBER)
        if isinstance(value, Asset):
            check_address(f"uri of input '{name}'", value.uri)
    return inputs


def read_input(value: JsonValue) -> Literal | Asset | None:
    """An input in either notation, not yet bound: an expression is still a literal."""
    if isinstance(value, dict):
        if value.get("uri") or value.get("path"):
            return Asset(str(value.get("uri") or value["path"]))
        value = value.get("value")
    return None if value is None else Literal(str(value))


def outputs_of(document: Json) -> list[tuple[str, JsonValue]]:
    """The outputs of a job, a node or a component. Raises: ServiceError 400 for a name that cannot be one."""
    outputs = entries(document, "outputs")
    for name, _ in outputs:
        check_name("output", name, JOB_MEMBER)
    return outputs


def output_type(spec: JsonValue) -> str:
    kind = (spec.get("jobOutputType") or spec.get("type")) if isinstance(spec, dict) else None
    return str(kind or "uri_folder")


def refuse_timeout(owner: str, settings: Json) -> None:
    """Raises: ServiceError 400 for a time limit of a job or a node: no step is ended by one here."""
    limits = settings.get("limits")
    if isinstance(limits, dict):
        refuse_settings(owner, limits, "timeout")


def read_asset_name(output: str, spec: JsonValue, name_key: str, version_key: str) -> AssetName | None:
    """The asset that an output asks to be registered as; a job and a node write it under different keys.

    Raises: ServiceError 400 for a name or version that cannot be one, and for settings that have no effect here.
    """
    if not isinstance(spec, dict):
        return None
    refuse_settings(f"output '{output}'", spec, "uri", "path", "autoDeleteSetting", "auto_delete_setting")
    name, version = spec.get(name_key), spec.get(version_key)
    if name is None and version is not None:
        text = f"The output '{output}' has the asset version '{version}' without an asset name. Set the name too."
        raise ServiceError(400, "UserError", text, inner_error="BadArgument")
    if name is None:
        return None
    check_name("asset", str(name), ASSET)
    if version is not None:
        check_name("version", str(version), ASSET)
    return AssetName(str(name), None if version is None else str(version))


def variables_of(document: Json, key: str) -> dict[str, str]:
    """Environment variables of a job, a node or a deployment. Raises: ServiceError 400 for one that cannot be."""
    if not isinstance(document.get(key), dict | None):
        raise ServiceError(400, "UserError", f"'{key}' must be an object of names and values.")
    variables = {name: str(value) for name, value in entries(document, key)}
    for name in variables:
        check_name("environment variable", name, VARIABLE)
    check_sizes({f"environment variable '{name}'": value for name, value in variables.items()})
    return variables


def check_sizes(values: dict[str, str]) -> None:
    """Raises: ServiceError 400 when a value, or all of them together, are more than a process can be given."""
    sizes = {label: len(value.encode()) for label, value in values.items()}
    for label, size in sizes.items():
        if size > LONGEST_VALUE_BYTES:
            text = (
                f"The value of {label} has {size} bytes; the limit is {LONGEST_VALUE_BYTES}. Pass it as a file input."
            )
            raise ServiceError(400, "UserError", text)
    if sum(sizes.values()) > ALL_VALUES_BYTES:
        text = f"The values have {sum(sizes.values())} bytes together; the limit is {ALL_VALUES_BYTES}."
        raise ServiceError(400, "UserError", text)


def is_optional(spec: JsonValue) -> bool:
    """Whether a component's input may stay away. The service writes booleans of a component as text."""
    return isinstance(spec, dict) and (str(spec.get("optional")).lower() == "true" or spec.get("default") is not None)


def text_of(value: JsonValue) -> str:
    return str(value.get("value") or "") if isinstance(value, dict) else str(value or "")


def entries(document: Json, key: str) -> list[tuple[str, JsonValue]]:
    """The members of an object within a document; none when it is absent or null."""
    value = document.get(key)
    return list(value.items()) if isinstance(value, dict) else []

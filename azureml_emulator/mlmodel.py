"""The MLmodel file of a model in MLflow form, which a job or a client has written.

Source: https://mlflow.org/docs/latest/ml/model/#mlmodel-file
"""

from pathlib import Path

import yaml

from azureml_emulator.json_types import Json

NAME = "MLmodel"
LARGEST_BYTES = 1 << 20
# PyYAML's errors for invalid YAML and for tags that do not fit their values.
BROKEN_YAML = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


class Unreadable(ValueError):
    """The file is not what MLflow writes; the text says how."""


class _WithoutAliases(yaml.SafeLoader):
    """Of a few lines that refer to each other the safe loader makes billions of entries."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="it refers to a part of itself (*alias)", problem_mark=mark)
        return super().compose_node(parent, index)


def read_flavors(folder: Path) -> dict[str, Json]:
    """The settings of each flavor, by name.

    Raises:
        Unreadable: the file holds no mapping, or other `flavors` than a mapping of mappings, or is over 1 MiB.
    """
    file = folder / NAME
    if file.stat().st_size > LARGEST_BYTES:
        raise Unreadable(f"it is larger than {LARGEST_BYTES} bytes")
    try:
        document = yaml.load(file.read_text(encoding="utf-8"), _WithoutAliases)
    except yaml.MarkedYAMLError as error:
        # Its full text quotes the file, which may be another than a model's.
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Unreadable(f"{error.problem}{line}") from error
    except BROKEN_YAML as error:
        raise Unreadable(f"it is no YAML ({type(error).__name__})") from error
    if not isinstance(document, dict):
        raise Unreadable("it holds no mapping")
    flavors = document.get("flavors") or {}
    if not isinstance(flavors, dict) or not all(isinstance(fields, dict) for fields in flavors.values()):
        raise Unreadable("its `flavors` are no mapping from names to settings")
    return {str(name): fields for name, fields in flavors.items()}

"""JSON documents as types, and the way into nested objects.

A document is indexed through `object_at`, which says by name what is missing, so that no code guesses what a value is.
"""

from collections.abc import Mapping, Sequence

JsonValue = None | bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"]
Json = dict[str, JsonValue]


def object_at(document: JsonValue, *path: str) -> Json:
    """The object at a path of member names, itself and no copy. Raises: TypeError when there is something else."""
    value = document
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        raise TypeError(f"'{'.'.join(path)}' is no object but {value!r}")
    return value


def optional_object(document: JsonValue, *path: str) -> Json:
    """The object at a path of member names; an empty one when a part is absent or null, or no object."""
    value = document
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def number_at(document: JsonValue, name: str, default: float = 0) -> float:
    """A number of an object; the default when it is absent or null. Raises: TypeError for another value."""
    value = object_at(document).get(name)
    if value is None:
        return default
    if not isinstance(value, int | float):
        raise TypeError(f"'{name}' is no number but {value!r}")
    return value


def whole_at(document: JsonValue, name: str, default: int = 0) -> int:
    """A whole number of an object; see `number_at`."""
    return int(number_at(document, name, default))


def text_values(document: JsonValue) -> dict[str, str]:
    """The members of an object whose values are texts, e.g. tags."""
    return {name: str(value) for name, value in object_at(document).items()}

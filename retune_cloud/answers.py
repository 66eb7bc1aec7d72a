"""Values of Azure ML's answers. By the SDK's types many may be missing that the service always gives; some are raw."""

from typing import TypeVar

from retune.errors import CloudError

T = TypeVar("T")


def required(value: T | None, name: str) -> T:
    """A value that the service always gives; `name` says which it is.

    Raises:
        CloudError: `IncompleteAnswer`, the service did not give it.
    """
    if value is None:
        raise CloudError("IncompleteAnswer", f"Azure ML's answer lacks {name}.", "Run it again with the same key.")
    return value


def member(document: object, *path: str) -> object:
    """The value at a path of member names in a JSON document; None where a part of the path is absent."""
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document

"""Environment variables of this process, changed for a while."""

import contextlib
import os
from collections.abc import Iterator, Mapping


def changed(changes: Mapping[str, str | None]) -> dict[str, str]:
    """This process's environment with the changes; None leaves a variable out."""
    return {name: value for name, value in (os.environ | changes).items() if value is not None}


@contextlib.contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """In the body the changes hold, for this process and those that it starts; None leaves a variable out."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

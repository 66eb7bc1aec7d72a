"""Environment variables of this process and of those that it starts. A change to None leaves a variable out."""

import contextlib
import os
from collections.abc import Iterator, Mapping


def environment_with(changes: Mapping[str, str | None]) -> dict[str, str]:
    """This process's environment with the changes, for a process that is to be started."""
    return {name: value for name, value in (os.environ | changes).items() if value is not None}


@contextlib.contextmanager
def changed_environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """The changes hold in the body, for this process and those that it starts."""
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

"""The texts in a value of lists and objects, such as the tools of a row, and the value with other texts."""

from collections.abc import Callable, Iterator

import orjson


def texts_of(value: object) -> Iterator[str]:
    """Every text in a value, the keys of objects included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, member in value.items():
            yield str(key)
            yield from texts_of(member)
    elif isinstance(value, list):
        for entry in value:
            yield from texts_of(entry)


def map_texts(value: object, change: Callable[[str], str]) -> object:
    """The value with every text in it changed, the keys of objects included."""
    match value:
        case str(text):
            return change(text)
        case dict(members):
            return {change(str(key)): map_texts(member, change) for key, member in members.items()}
        case list(entries):
            return [map_texts(entry, change) for entry in entries]
    return value


def without_escapes(text: str) -> str:
    """JSON, such as the arguments of a call, with each character as itself instead of its escape, so that it can be
    looked at; any other text as it is."""
    if "\\u" not in text:
        return text
    try:
        return orjson.dumps(orjson.loads(text)).decode()
    except (ValueError, TypeError):
        return text

"""Which part of a conversation an endpoint can be asked.

Azure's chat models take an optional system message and then turns of user and assistant that alternate and end with the
user's. Their requests have no tools.
"""

from collections.abc import Sequence


def last_question(roles: Sequence[str]) -> int | None:
    """The position of the last user turn that an endpoint can be asked, with all before it; None without one."""
    start = 1 if roles[:1] and roles[0] == "system" else 0
    last = None
    for position, role in enumerate(roles[start:]):
        if role != ("user", "assistant")[position % 2]:
            break
        if role == "user":
            last = start + position
    return last

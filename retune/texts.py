"""Texts that come from a person or a file: what a setting may hold, and how one that is refused is shown."""

import unicodedata

# More is a mistake.
LONGEST_TEXT, SHOWN_CHARACTERS = 1000, 200
# Unicode's categories of what is not seen and can change how the text around it is shown: controls, formats, line ends.
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Formats that some languages and many emoji are written with.
JOINERS = "\u200c\u200d"


def check_text(subject: str, text: str) -> None:
    """Reject a text that is too long or contains invisible characters; `subject` begins the sentence.

    Raises:
        ValueError: with what is wrong.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"{subject}has {len(text)} characters; at most {LONGEST_TEXT} are allowed")
    if invisible := find_invisible(text):
        raise ValueError(f"{subject}holds the invisible character {invisible!r}; remove it")


def find_invisible(text: str) -> str | None:
    """The first character that is not seen, if any."""
    return next((char for char in text if unicodedata.category(char) in INVISIBLE and char not in JOINERS), None)


def quoted(value: object) -> str:
    """A value in quotes for a message, invisible characters escaped, cut where it is too long to read."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def quoted_if_odd(text: str) -> str:
    """A text for a message as it is, in quotes only where something must be escaped or cut."""
    return quoted(text) if len(text) > SHOWN_CHARACTERS or find_invisible(text) else text

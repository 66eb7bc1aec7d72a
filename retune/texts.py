"""Texts that come from a person or a file: what a setting may hold, and how one that is refused is shown."""

import re
import unicodedata

# More is a mistake.
LONGEST_TEXT, SHOWN_CHARACTERS = 1000, 200
# Unicode's categories of what is not seen and can change how the text around it is shown: controls, formats, line ends.
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Formats that some languages and many emoji are written with.
JOINERS = "\u200c\u200d"


MARKDOWN = frozenset("\\`*_[]<>|~!#&")
# What signs in somewhere, by the forms that its issuers document. In `abfss://container@account` the part before the @
# is no secret.
SECRET = re.compile(
    r"""
    (?<=://)[^/\s@:]*:[^/\s@]*(?=@)                                # the name and the password of an address
    | (?<=https://)[^/\s@]+(?=@) | (?<=http://)[^/\s@]+(?=@)         # a token in their place
    | (?<=[?&;])(?P<parameter>sig|signature|x-amz-(?:signature|credential|security-token)|x-goog-signature|token
        |access_token|api[_-]?key|password|passwd|pwd|secret)=[^&;\s]+
    | \b(?P<connection>AccountKey|SharedAccessKey|SharedAccessSignature)=[^;\s]+
    | \b(?:hf_|gh[pousr]_|pnu_|pnb_)[A-Za-z0-9]{30,} | \b(?:github_pat_|glpat-)\w{20,}
    | \b(?:sk-(?:\w+-)?[A-Za-z0-9]{20,} | xox[abprs]-\d[\w-]{10,})
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?  # a JSON web token
    | (?<![A-Za-z0-9+/])[A-Za-z0-9+/]{86}(?![A-Za-z0-9+/])(?:==)?    # a storage account's key
    | -----BEGIN[ A-Z]*PRIVATE[ ]KEY-----(?s:.*)
    """,
    re.VERBOSE | re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text with `***` in the place of what signs in somewhere."""

    def hidden(match: re.Match[str]) -> str:
        name = match["parameter"] or match["connection"]
        return f"{name}=***" if name else "***"

    return SECRET.sub(hidden, text)


def check_text(subject: str, text: str) -> None:
    """Reject a text that is too long, contains invisible characters or a secret; `subject` begins the sentence.

    Raises:
        ValueError: with what is wrong.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"{subject}has {len(text)} characters; at most {LONGEST_TEXT} are allowed")
    if invisible := find_invisible(text):
        raise ValueError(f"{subject}holds the invisible character {invisible!r}; remove it")
    if SECRET.search(text):
        raise ValueError(
            f"{subject}holds a password, key, token or signature, which would be kept in names, logs and reports; "
            "remove it, and sign in with HF_TOKEN or the environment's credentials"
        )


def find_invisible(text: str) -> str | None:
    """The first character that is not seen, if any."""
    return next((char for char in text if unicodedata.category(char) in INVISIBLE and char not in JOINERS), None)


def visible(text: str) -> str:
    """The text for a terminal: what is not seen, and could command the terminal, is written out; lines stay lines."""
    return "".join(
        char if char in "\n\t" or find_invisible(char) is None else char.encode("unicode_escape").decode()
        for char in text
    )


def markdown(text: str) -> str:
    """The text for one line or cell of a page in Markdown, in which none of its characters means anything.

    Not even a bare address becomes a link.
    """
    escaped = "".join(f"\\{char}" if char in MARKDOWN else char for char in visible(text))
    return " ".join(escaped.replace("://", ":\\/\\/").replace("www.", "www\\.").split())


def quoted(value: object) -> str:
    """A value in quotes for a message: invisible characters escaped, secrets hidden, cut where it is too long."""
    text = redact(repr(value))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def quoted_if_odd(text: str) -> str:
    """A text for a message as it is, in quotes only where something must be escaped or cut."""
    return quoted(text) if len(text) > SHOWN_CHARACTERS or find_invisible(text) else redact(text)

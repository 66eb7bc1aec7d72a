"""Texts that come from a person or a file: what a setting may hold, and how one that is refused is shown."""

import re
import unicodedata

# More is a mistake.
LONGEST_TEXT, SHOWN_CHARACTERS = 1000, 200
# Unicode's categories of what is not seen and can change how the text around it is shown: controls, formats, line ends.
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Formats that some languages and many emoji are written with.
JOINERS = "\u200c\u200d"


# Not seen, and not part of an address: Prefect's page makes a link of every address that it finds.
WORD_JOINER = "\u2060"
MARKDOWN = frozenset("\\`*_[]<>|~!#&")
# What signs in somewhere, by the forms that its issuers document. In `abfss://container@account` the part before the @
# is no secret.
SECRET = re.compile(
    r"""
    (?<=://)[^/\s:]*:[^/\s]*(?=@)                                  # the name and the password of an address
    | (?<=https://)[^/\s]+(?=@) | (?<=http://)[^/\s]+(?=@)           # a token in their place
    | (?:(?<=[?&;\#\s])|(?<![\w-])|(?<=%26))
        (?P<name>[\w-]*(?:sig|signature|credential|token|secret|password|passwd|pwd|api[_-]?key|access[_-]?key
        |AccountKey|SharedAccessKey|SharedAccessSignature))(?:\s*=\s*|%3D)[^&;\s]+
    | \b(?:hf_|gh[pousr]_|pnu_|pnb_)[A-Za-z0-9]{30,} | \b(?:github_pat_|glpat-)\w{20,}
    | \b(?:sk-(?:proj|ant|svcacct)-[\w-]{20,}
        | (?-i:sk-(?=[A-Za-z0-9]*\d)(?=[A-Za-z0-9]*[A-Z])[A-Za-z0-9]{20,})
        | nvapi-[\w-]{20,} | xox[abprs]-\d[\w-]{10,})
    | \b[A-Za-z0-9_.~-]{3}[78]Q~[A-Za-z0-9_.~-]{31,}              # a client secret of Entra ID
    | (?-i:\b(?:AKIA|ASIA)[0-9A-Z]{16}\b | \bAIza[\w-]{30,} | \bya29\.[\w-]{20,})
    | \b(?:npm_[A-Za-z0-9]{30,} | gsk_[A-Za-z0-9]{30,} | sk_live_\w{20,} | xapp-\d[\w-]{10,} | dapi[0-9a-f]{32})
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?  # a JSON web token
    | (?<![A-Za-z0-9+/])[A-Za-z0-9+/]{86}==                          # a storage account's key
    | -----BEGIN[ A-Z]*PRIVATE[ ]KEY-----(?s:.*)
    """,
    re.VERBOSE | re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text with `***` in the place of what signs in somewhere."""

    def hidden(match: re.Match[str]) -> str:
        return f"{match['name']}=***" if match["name"] else "***"

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


def escape_json(document: str) -> str:
    """A JSON document with escapes in the place of what is not seen, which can stand in its texts alone."""
    return "".join(
        f"\\u{ord(char):04x}" if char != "\n" and find_invisible(char) and ord(char) < 0x10000 else char
        for char in document
    )


def markdown(text: str) -> str:
    """The text for one line or cell of a page in Markdown, in which none of its characters means anything.

    Not even a bare address, of a page or of a person, becomes a link.
    """
    escaped = "".join(f"\\{char}" if char in MARKDOWN else char for char in visible(text))
    return re.sub(r"(?i)(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)", WORD_JOINER, " ".join(escaped.split()))


def html(value: object) -> object:
    """A value for a page: Jinja escapes what is markup, this what is not seen."""
    return visible(value) if type(value) is str else value


def is_web_page(address: str) -> bool:
    """Whether an address that a service gave is one of a web page and can stand in a link."""
    return address.startswith("https://") and find_invisible(address) is None and not set("<>\"' ") & set(address)


def quoted(value: object) -> str:
    """A value in quotes for a message: invisible characters escaped, secrets hidden, cut where it is too long."""
    try:
        text = redact(repr(value))
    except ValueError:
        # Python writes no number of more than 4,300 digits.
        text = "a number of thousands of digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def quoted_if_odd(text: str) -> str:
    """A text for a message as it is, in quotes only where something must be escaped or cut."""
    return quoted(text) if len(text) > SHOWN_CHARACTERS or find_invisible(text) else redact(text)

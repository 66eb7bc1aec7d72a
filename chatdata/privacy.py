"""Personal data and secrets in the text of a conversation: found, or replaced by marks such as `<E-MAIL ADDRESS>`.

The rules are those of two libraries, the optional extra `privacy`: presidio-analyzer (MIT) for personal data, of which
only the pattern recognizers are used, so that no language model is needed, and kingfisher-secret-scanner (Apache 2.0)
for secrets. Both work without a network. Names, street addresses, passwords in plain sentences and identity numbers
other than those below are not found: that takes a language model. To find nothing proves nothing. What becomes of a row
is decided elsewhere.

| kind | what counts | what does not |
|---|---|---|
| private key | PEM, OpenSSH and PGP blocks with 64 characters or more between their lines | the first line alone |
| connection string | a provider's form, such as MongoDB, Azure Service Bus | |
| password in an address | `postgres://user:password@host` and the like, unless a placeholder | |
| web token | JWT of three parts | |
| access key | some 400 providers' keys, by form, entropy and checksum | half of a pair, but for AWS's secret half |
| bank account number | IBAN: check digits, and the form of its country | |
| credit card number | Luhn digit, 13 to 17 digits, the first 3 to 6 | decimals, and 1 first, which timestamps have |
| crypto wallet | Bitcoin addresses, checksum of base58 or bech32 | |
| social security number | US, with hyphens, numbers never given left out | with dots, spaces or nothing between |
| e-mail address | domain under a public suffix | reserved domains (RFC 2606, example.com), `git@host` |
| ip address | public | private, reserved, networks, version numbers (all parts below 32, or the last is 0) |
| phone number | libphonenumber: valid, with + or grouped as in the US | local ones of other countries, ungrouped ones |
"""

import logging
import re
from collections.abc import Callable, Iterator
from functools import cache
from ipaddress import ip_interface
from typing import TYPE_CHECKING, NamedTuple

from retune.errors import BadRequest

if TYPE_CHECKING:
    from kingfisher_sdk import Scanner as SecretScanner
    from presidio_analyzer import EntityRecognizer

PRIVATE_KEY = "private key"
CONNECTION_STRING = "connection string"
PASSWORD = "password in an address"
WEB_TOKEN = "web token"
ACCESS_KEY = "access key"
BANK_ACCOUNT = "bank account number"
CARD = "credit card number"
WALLET = "crypto wallet"
SOCIAL_SECURITY = "social security number"
EMAIL = "e-mail address"
IP = "ip address"
PHONE = "phone number"
SECRETS = (PRIVATE_KEY, CONNECTION_STRING, PASSWORD, WEB_TOKEN, ACCESS_KEY)
PERSONAL = (BANK_ACCOUNT, CARD, WALLET, SOCIAL_SECURITY, EMAIL, IP, PHONE)
# Each has a space, so that its mark is never taken for a password or a name.
KINDS = SECRETS + PERSONAL

INSTALL = "pip install 'retune[privacy]'"

# Rules of kingfisher that are not an access key; anything else is one.
_SECRET_KINDS = (
    ("private-key", PRIVATE_KEY),
    ("connection-string", CONNECTION_STRING),
    ("credential-uri", PASSWORD),
    (".jwt", WEB_TOKEN),
)
# Kept by kingfisher as half of a pair, and a secret by itself.
_SECRET_HALVES = frozenset({"betterleaks.aws-secret-access-key"})
# Presidio's own scores: a form that only context words would make likely has less.
_THRESHOLD = 0.4
# Source: RFC 2606 and RFC 6761. They belong to nobody.
_RESERVED_DOMAIN = re.compile(
    r"(?:^|\.)(?:example\.(?:com|net|org|edu)|example|test|invalid|localhost)$", re.IGNORECASE
)


class Finding(NamedTuple):
    """A place that holds personal data or a secret, without what it holds."""

    kind: str
    start: int
    end: int


class _Rule(NamedTuple):
    """One kind of personal data: who finds it, where a look is worth while, and what is left out."""

    kind: str
    recognizer: "EntityRecognizer"
    # In every finding; looking only `margin` characters around it is what makes a scan quick.
    near: re.Pattern[str]
    margin: int
    holds: Callable[[str, int, int], bool]


class Scanner:
    """Finds personal data and secrets. Threads may share one; a pickled one is built anew where it arrives."""

    def __init__(self, rules: tuple[_Rule, ...], secrets: "SecretScanner") -> None:
        self._rules, self._secrets = rules, secrets

    def __reduce__(self) -> tuple[Callable[[], "Scanner"], tuple[()]]:
        return load_scanner, ()

    def find(self, text: str) -> list[Finding]:
        """Where `text` holds personal data or secrets, in order, no two overlapping.

        What a mark in place of a finding would bring to light, such as the second half of a pair that was too far
        away, is found too, so that a redacted text holds nothing. About 0.4 ms for 6 KB of chat, 2 ms where it is
        full of numbers.
        """
        findings: list[Finding] = []
        # It ends, because every round covers more of the text.
        while new := _beyond(findings, self._look(_marked(text, findings))):
            findings = _merged(findings, new)
        return findings

    def redact(self, text: str) -> tuple[str, list[Finding]]:
        """`text` with a mark in place of each finding, and where they were. A second time changes nothing."""
        findings = self.find(text)
        return _marked(text, findings), findings

    def _look(self, text: str) -> list[Finding]:
        """What one look finds. Of two that overlap a secret is kept, then the longer one, then what KINDS has first."""
        findings = sorted(
            (*self._find_secrets(text), *self._find_personal(text)),
            key=lambda finding: (finding.kind not in SECRETS, finding.start - finding.end, KINDS.index(finding.kind)),
        )
        kept: list[Finding] = []
        for finding in findings:
            if not _overlaps(finding, kept):
                kept.append(finding)
        return sorted(kept, key=lambda finding: finding.start)

    def _find_secrets(self, text: str) -> Iterator[Finding]:
        # Half a character cannot be encoded; as a question mark it keeps its place.
        data = text.encode("utf-8", "replace")
        for secret in self._secrets.scan(data):
            if secret.visible or secret.rule_id in _SECRET_HALVES:
                start, end = (len(data[: secret.location[key]].decode()) for key in ("start_offset", "end_offset"))
                kind = next((kind for part, kind in _SECRET_KINDS if part in secret.rule_id), ACCESS_KEY)
                yield Finding(kind, start, end)

    def _find_personal(self, text: str) -> Iterator[Finding]:
        for rule in self._rules:
            for begin, stop in _windows(text, rule.near, rule.margin):
                part, entities = text[begin:stop], rule.recognizer.supported_entities
                # Rules that find by form take no analysis of the language.
                for result in rule.recognizer.analyze(part, entities, None):  # pyright: ignore[reportArgumentType]
                    start, end = begin + result.start, begin + result.end
                    if result.score >= _THRESHOLD and rule.holds(text, start, end):
                        yield Finding(rule.kind, start, end)


@cache
def load_scanner() -> Scanner:
    """The scanner of this process. Loading it takes about 2 s, or 5 s where torch is installed: spaCy loads it too.

    The first time on a machine takes 3 s more: kingfisher compiles its rules and keeps them in the user's cache folder.

    Raises:
        BadRequest: the extra `privacy` is not installed.
    """
    try:
        import kingfisher_sdk
        import presidio_analyzer  # noqa: F401
    except ImportError as error:
        problem = f"Scanning for personal data needs {error.name}, which is not installed. Run: {INSTALL}"
        raise BadRequest([problem], fix=INSTALL) from error
    # Its messages can quote what it looked at.
    logging.getLogger("presidio-analyzer").setLevel(logging.CRITICAL + 1)
    return Scanner(_rules(), kingfisher_sdk.Scanner(base64=False))


def _rules() -> tuple[_Rule, ...]:
    """The kinds of personal data, by Presidio's recognizers."""
    from presidio_analyzer import predefined_recognizers as presidio

    ssn, ip = presidio.UsSsnRecognizer.PATTERNS, presidio.IpRecognizer.PATTERNS
    # Weaker patterns, any nine digits, can never reach the threshold; the other IP forms are not written in chats.
    ssn = [pattern for pattern in ssn if pattern.score >= _THRESHOLD]
    ip = [pattern for pattern in ip if pattern.name in ("IPv4", "IPv6")]
    phone = presidio.PhoneRecognizer(supported_regions=("US",), leniency=3)
    return (
        _Rule(BANK_ACCOUNT, presidio.IbanRecognizer(), re.compile(r"[A-Z]\d\d[ -]?[A-Z0-9]"), 64, _always),
        _Rule(CARD, presidio.CreditCardRecognizer(), re.compile(r"\d(?:[- ]?\d){11}"), 24, _is_card),
        _Rule(WALLET, presidio.CryptoRecognizer(), re.compile(r"(?:bc1|[13])[a-zA-Z0-9]{25}"), 64, _always),
        _Rule(SOCIAL_SECURITY, presidio.UsSsnRecognizer(patterns=ssn), re.compile(r"-\d\d-\d{4}"), 16, _is_hyphenated),
        _Rule(EMAIL, _email_recognizer(), re.compile("@"), 254, _is_somebodys),
        _Rule(IP, presidio.IpRecognizer(patterns=ip), re.compile(r"\.\d{1,3}\.|:[0-9A-Fa-f]{0,4}:"), 48, _is_public),
        _Rule(PHONE, phone, re.compile(r"\d(?:\W{0,4}\d){6,}"), 24, _is_grouped),
    )


def _email_recognizer() -> "EntityRecognizer":
    """Presidio's, with the public suffixes that tldextract brings: by default it asks the network for newer ones."""
    from presidio_analyzer.predefined_recognizers import EmailRecognizer
    from tldextract import TLDExtract

    extract = TLDExtract(suffix_list_urls=(), cache_dir=None)

    class OfflineEmailRecognizer(EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return extract(pattern_text).fqdn != ""

    return OfflineEmailRecognizer()


def _windows(text: str, near: re.Pattern[str], margin: int) -> Iterator[tuple[int, int]]:
    """Start and end of the parts within `margin` of what matches `near`, joined where they touch."""
    begin, stop = 0, -1
    for match in near.finditer(text):
        if match.start() - margin > stop:
            if stop >= 0:
                yield begin, stop
            begin = max(0, match.start() - margin)
        stop = min(len(text), match.end() + margin)
    if stop >= 0:
        yield begin, stop


def _always(text: str, start: int, end: int) -> bool:
    return True


def _is_whole(text: str, start: int, end: int, joints: tuple[str, ...] = (".", "-")) -> bool:
    """Not a part of a longer number: no digit stands before or after it with one of `joints` between."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    joined_before = before[:1].isdigit() and before[1:] in joints
    joined_after = after[:1] in joints and after[1:].isdigit()
    return not (joined_before or joined_after)


def _is_hyphenated(text: str, start: int, end: int) -> bool:
    """A whole number in the one form that tables and phone numbers do not share."""
    return text[start + 3] == "-" and _is_whole(text, start, end)


def _is_card(text: str, start: int, end: int) -> bool:
    """A whole number that does not begin with 1, as timestamps in microseconds do."""
    return text[start] != "1" and _is_whole(text, start, end)


def _is_somebodys(text: str, start: int, end: int) -> bool:
    """Neither of a reserved domain nor the user of a git address."""
    user, _, domain = text[start:end].rpartition("@")
    return user != "git" and not _RESERVED_DOMAIN.search(domain)


def _is_public(text: str, start: int, end: int) -> bool:
    """An address of a public host, and no version or section number of four parts."""
    address = ip_interface(text[start:end])
    if address.network.num_addresses > 1 or not address.is_global or address.is_reserved or address.is_multicast:
        return False
    if address.version == 6:
        return True
    return address.packed[-1] != 0 and max(address.packed) >= 32 and _is_whole(text, start, end, (".",))


def _is_grouped(text: str, start: int, end: int) -> bool:
    """With a plus sign or grouped: ten digits in a row are as likely an order number or 2147483647."""
    if text[start] == "+":
        # Neither `+ 2784375` nor `x+2784375`, which are sums.
        return text[start + 1] in "(0123456789" and not text[max(0, start - 1) : start].isalnum()
    return not text[start:end].strip("()").isdecimal() and _is_whole(text, start, end)


def _mark(kind: str) -> str:
    return f"<{kind.upper()}>"


def _marked(text: str, findings: list[Finding]) -> str:
    """`text` with a mark in place of each of the sorted findings."""
    parts, done = [], 0
    for kind, start, end in findings:
        parts += [text[done:start], _mark(kind)]
        done = end
    return "".join([*parts, text[done:]])


def _beyond(findings: list[Finding], new: list[Finding]) -> list[Finding]:
    """Findings in the marked text as ones in the text before, where they cover more than `findings` did.

    A mark that one touches counts as a whole.
    """
    placed = [Finding(kind, _place(start, findings, 0), _place(end, findings, 1)) for kind, start, end in new]
    return [
        finding
        for finding in placed
        if not any(old.start <= finding.start and finding.end <= old.end for old in findings)
    ]


def _place(position: int, findings: list[Finding], is_end: int) -> int:
    """A position in the marked text as one in the text before; within a mark, the start or the end of what it hides."""
    shift = 0
    for kind, start, end in findings:
        mark_start = start - shift
        mark_end = mark_start + len(_mark(kind))
        # An end belongs to what stands before it, a start to what follows.
        if position - is_end < mark_start:
            break
        if position - is_end < mark_end:
            return end if is_end else start
        shift = end - mark_end
    return position + shift


def _merged(findings: list[Finding], new: list[Finding]) -> list[Finding]:
    """Both, sorted; an older finding within a new one is given up."""
    kept = [old for old in findings if not _overlaps(old, new)]
    return sorted([*kept, *new], key=lambda finding: finding.start)


def _overlaps(finding: Finding, others: list[Finding]) -> bool:
    return any(finding.start < other.end and other.start < finding.end for other in others)

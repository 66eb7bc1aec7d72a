"""What the scan finds in chat text, what it leaves alone, and that redaction touches nothing else.

Nothing here is anybody's: numbers are the documented examples of their kind. Secrets are drawn when the tests run and
put together from parts, so that no scanner of repositories takes this file for a leak.
"""

import base64
import json
import logging
import pickle
import random
import socket
import string
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatdata import privacy
from chatdata.privacy import Finding, Scanner, load_scanner
from retune.errors import BadRequest

ROOT = Path(__file__).resolve().parent.parent
DRAWN = random.Random(20261121)
LETTERS = string.ascii_letters + string.digits
SETTINGS = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def drawn(count: int, letters: str = LETTERS) -> str:
    return "".join(DRAWN.choice(letters) for _ in range(count))


def base64_of(count: int) -> str:
    return base64.b64encode(DRAWN.randbytes(count)).decode()


def token_part(content: dict[str, str | int]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def key_block(name: str) -> str:
    body = base64_of(600)
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN {name}-----\n{lines}\n-----END {name}-----"


JWT = ".".join((token_part({"alg": "HS256", "typ": "JWT"}), token_part({"sub": "42", "iat": 1516239022}), drawn(43)))
SERVICE_BUS = f"Endpoint=sb://shop.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey={base64_of(32)}"
STORAGE_KEY = base64_of(64)

# What is found whole: kind and text.
SEEDED = {
    "rsa key": ("private key", key_block("RSA PRIVATE " + "KEY")),
    "pkcs8 key": ("private key", key_block("PRIVATE " + "KEY")),
    "openssh key": ("private key", key_block("OPENSSH PRIVATE " + "KEY")),
    "key in json": ("private key", json.dumps(key_block("PRIVATE " + "KEY"))[1:-1]),
    "jwt": ("web token", JWT),
    "service bus": ("connection string", SERVICE_BUS),
    "mongodb": ("connection string", f"mongodb+srv://app:{drawn(16)}@cluster0.ab1cd.mongodb.net/shop"),
    "github": ("access key", "ghp" + "_" + drawn(36)),
    "github fine-grained": ("access key", "github" + "_pat_" + drawn(22) + "_" + drawn(59)),
    "gitlab": ("access key", "glpat" + "-" + drawn(20)),
    "slack": ("access key", f"xoxb-{drawn(12, string.digits)}-{drawn(13, string.digits)}-{drawn(24)}"),
    "stripe": ("access key", "sk" + "_live_" + drawn(24)),
    "openai": ("access key", "sk-" + "proj-" + drawn(74) + "T3Blbk" + "FJ" + drawn(74)),
    "anthropic": ("access key", "sk-" + "ant-api03-" + drawn(93) + "AA"),
    "hugging face": ("access key", "hf" + "_" + drawn(34, string.ascii_letters)),
    "google": ("access key", "AI" + "za" + drawn(35)),
    "sendgrid": ("access key", f"SG.{drawn(22)}.{drawn(43)}"),
    "pypi": ("access key", "pypi-" + "AgEIcHlwaS5vcmc" + drawn(100)),
    "databricks": ("access key", "dapi" + drawn(32, "0123456789abcdef")),
    "iban with spaces": ("bank account number", "DE89 3704 0044 0532 0130 00"),
    "iban": ("bank account number", "GB82WEST12345698765432"),
    "visa": ("credit card number", "4111 1111 1111 1111"),
    "amex": ("credit card number", "378282246310005"),
    "mastercard": ("credit card number", "5555-5555-5555-4444"),
    "bitcoin": ("crypto wallet", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
    "bitcoin bech32": ("crypto wallet", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"),
    "ssn": ("social security number", "536-90-4399"),
    "e-mail": ("e-mail address", "anna.berg+shop@posteo.de"),
    "e-mail of another script": ("e-mail address", "петър@поща.бг"),
    "ipv4": ("ip address", "84.23.199.17"),
    "ipv6": ("ip address", "2a00:1450:4001:82b::200e"),
    "phone": ("phone number", "(415) 555-2671"),
    "phone with dots": ("phone number", "415.555.2671"),
    "phone of another country": ("phone number", "+49 30 901820"),
    "phone, plus and no groups": ("phone number", "+442079460958"),
}

HARMLESS = {
    "dates": "On 2024-05-17 12:30:45, 17.05.2024, 05/17/2024 and 20240517T123045Z; 1998-2003; Friday the 13th.",
    "timestamps": "1716239022, 1716239022123, 1716239022123456 and 1716239022123456789",
    "versions": "Python 3.11.9, driver 10.0.19041.1, v1.2.3.4, 1.2.3.4, Chrome/120.0.0.0, react@18.2.0, numpy==2.1",
    "sections": "See 1.2.3.4 and 4.10.2.11, and the OID 1.3.6.1.4.1.311.21.20.",
    "isbn": "ISBN 978-3-16-148410-0, ISBN 0-306-40615-2, ISSN 2049-3630, doi:10.1000/182",
    "prices": "It costs $4,155,552,671 or 1.250.000,00 EUR, 12 345 678 in all, $1,234.56 each, 3 for 2.",
    "decimals": "pi is 3.141592653589793, e 2.718281828459045, 0.4111111111111111, 6.02214076e23, 1/137",
    "big numbers": "2147483647, 4294967295, 6022140857, (4803393614), 18446744073709551615, 123456789",
    "sums": "f(x) = 4 + 2784375*x - 15 + 1349150*y, x+2784375123",
    "uuid": "550e8400-e29b-41d4-a716-446655440000",
    "hashes": "commit 45c7ff4d1b8e6a0c9f3e2d1c0b9a8f7e6d5c4b3a, md5 d41d8cd98f00b204e9800998ecf8427e",
    "local addresses": "localhost:8080, 127.0.0.1, 192.168.100.200, 10.20.30.40, ::1, fe80::1, 0.0.0.0, 255.255.255.0",
    "documentation addresses": "203.0.113.7, 2001:db8::42, http://198.51.100.99/",
    "networks": "84.23.199.0/24 and 2a00:1450::/32",
    "reserved domains": "anna@example.com, bob@mail.example.org, c@host.test, d@x.invalid, root@localhost",
    "git": "git clone git@github.com:encode/starlette.git",
    "decorators": '@app.get("/") and @pytest.fixture; y = x@w.T; a @ b; user@host',
    "code": "for (std::size_t i = 0; i < n; ++i) { add::bad(i); a[1:2:3]; } // https://docs.python.org/3/library/re.html",
    "placeholders": 'API_KEY="your-api-key-here", password=${PASSWORD}, postgres://user:${PASSWORD}@db/shop, sk-...',
    "secret words": "The password must have 12 characters; the secret key is kept in a vault, the token expires.",
    "key's first line": "A file that begins with -----BEGIN PRIVATE " + "KEY----- is a private key.",
    "scores": "Scores: 100-200-3000, 3:2, 21-19; call 911 or 555-0199; room 415-2671.",
    "wrong check digits": "DE88 3704 0044 0532 0130 00 and 4111 1111 1111 1112",
    "numbers never given": "000-12-3456, 666-12-3456, 536-00-4399, 078-05-1120, 536 90 4399",
}

PIECES = st.one_of(
    st.sampled_from([text for _, text in SEEDED.values()]),
    st.sampled_from(list(HARMLESS.values())),
    st.sampled_from(
        [" ", "\n", ": ", "@", "-", "+", "<", ">", ".", "key = ", "AccountName=contosoprod;", "AccountKey="]
    ),
    st.text(max_size=12),
)
TEXTS = st.lists(PIECES, max_size=8).map("".join)


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    """The scanner of the process."""
    return load_scanner()


@pytest.mark.parametrize(("kind", "found"), SEEDED.values(), ids=SEEDED)
def test_each_kind_is_found_whole(scanner: Scanner, kind: str, found: str) -> None:
    """A seeded secret or personal datum is found from its first to its last character, and replaced."""
    before, after = "Grüße 😀, please look at ", " and tell me what it is."
    text = before + found + after

    assert scanner.find(text) == [Finding(kind, len(before), len(before) + len(found))]
    assert scanner.redact(text)[0] == f"{before}<{kind.upper()}>{after}"


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "redis", "amqp", "https"])
def test_of_an_address_with_a_password_only_the_password_is_taken(scanner: Scanner, scheme: str) -> None:
    """What host and user are stays readable; the password's end does not become an e-mail address."""
    text = f"Use {scheme}://anna:{drawn(14)}@db.acme.io:5432/shop for it."

    assert scanner.redact(text)[0] == f"Use {scheme}://anna:<PASSWORD IN AN ADDRESS>@db.acme.io:5432/shop for it."


def test_both_halves_of_an_aws_key_are_found(scanner: Scanner) -> None:
    """The secret half counts by itself; the id beside it counts with it."""
    key_id, secret = "AK" + "IA" + drawn(16, string.ascii_uppercase + "234567"), drawn(40)
    text = f"aws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n"

    assert scanner.redact(text)[0] == "aws_access_key_id = <ACCESS KEY>\naws_secret_access_key = <ACCESS KEY>\n"
    assert scanner.redact(f"aws_secret_access_key = {secret}\n")[0] == "aws_secret_access_key = <ACCESS KEY>\n"


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_harmless_text_is_left_alone(scanner: Scanner, text: str) -> None:
    """What chats are full of is not taken for personal data."""
    found = [(finding.kind, text[finding.start : finding.end]) for finding in scanner.find(text)]

    assert found == []


def test_what_redaction_brings_together_is_found_at_once(scanner: Scanner) -> None:
    """A storage key counts beside its account's name; with a long block between them gone it stands beside it."""
    text = f"AccountName=contosoprod;\n{key_block('PRIVATE ' + 'KEY')}\nAccountKey={STORAGE_KEY};\n"

    redacted, findings = scanner.redact(text)

    assert redacted == "AccountName=contosoprod;\n<PRIVATE KEY>\nAccountKey=<ACCESS KEY>;\n"
    assert [finding.kind for finding in findings] == ["private key", "access key"]
    assert text[findings[1].start : findings[1].end] == STORAGE_KEY


@pytest.mark.parametrize("kind", privacy.KINDS)
def test_a_mark_is_not_found_in_turn(scanner: Scanner, kind: str) -> None:
    """A mark holds a space, and the scan passes over it, also where a password would stand."""
    mark = f"<{kind.upper()}>"

    assert " " in kind
    assert scanner.find(f"{mark} postgres://anna:{mark}@db.acme.io key={mark} {mark}@acme.io +1 {mark}") == []


@SETTINGS
@given(TEXTS)
def test_redaction_leaves_the_rest_untouched(text: str) -> None:
    """Findings are in order and apart, and with the marks taken back the text is as it was."""
    redacted, findings = load_scanner().redact(text)

    edges = [edge for finding in findings for edge in (finding.start, finding.end)]
    assert edges == sorted(edges)
    assert all(finding.start < finding.end for finding in findings)
    at = done = 0
    for kind, start, end in findings:
        expected = text[done:start] + f"<{kind.upper()}>"
        assert redacted[at : at + len(expected)] == expected
        at, done = at + len(expected), end
    assert redacted[at:] == text[done:]


@SETTINGS
@given(TEXTS)
def test_redacting_twice_changes_nothing(text: str) -> None:
    """A redacted text holds nothing that the scan finds."""
    scanner = load_scanner()
    redacted, findings = scanner.redact(text)

    assert scanner.redact(redacted) == (redacted, [])
    assert scanner.find(text) == findings


def test_half_a_character_and_control_characters_move_nothing(scanner: Scanner) -> None:
    """Positions are right in text that UTF-8 cannot hold."""
    text = "\ufeff\ud83d \0 \x85 anna@posteo.de \udc00 " + SEEDED["github"][1]

    assert [text[finding.start : finding.end] for finding in scanner.find(text)] == [
        "anna@posteo.de",
        SEEDED["github"][1],
    ]


def test_a_scan_asks_no_network_and_logs_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, scanner: Scanner
) -> None:
    """Not even for the list of public suffixes; and what was found is in no message."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a scan opened a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    caplog.set_level(logging.DEBUG)
    fresh = Scanner(privacy._rules(), scanner._secrets)
    text = "\n".join(found for _, found in SEEDED.values())

    assert len(fresh.find(text)) == len(SEEDED)
    assert caplog.text == ""


def test_threads_and_other_processes_find_the_same(scanner: Scanner) -> None:
    """One scanner serves several threads; a pickled one finds what its origin found."""
    texts = [f"{found} is one of {number}" for number, (_, found) in enumerate(SEEDED.values())] * 3
    alone = [scanner.find(text) for text in texts]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(scanner.find, texts)) == alone
    assert [pickle.loads(pickle.dumps(scanner)).find(text) for text in texts] == alone


@pytest.mark.parametrize("missing", ["presidio_analyzer", "kingfisher_sdk"])
def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Without the extra the request is refused, and says how to install it."""
    monkeypatch.setitem(sys.modules, missing, None)
    load_scanner.cache_clear()

    with pytest.raises(BadRequest) as caught:
        load_scanner()

    assert caught.value.fix == "pip install 'retune[privacy]'"
    assert f"needs {missing}, which is not installed. Run: pip install 'retune[privacy]'" in str(caught.value)


def test_importing_the_module_leaves_heavy_packages_alone() -> None:
    """Only a run that scans pays for the libraries."""
    code = "import sys, chatdata.privacy; sys.exit(any(name in sys.modules for name in ('presidio_analyzer', 'spacy')))"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

"""Secrets of a run are where they must be and nowhere else: not in a log, a report, a page, a database or a process."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from commands import REHEARSAL, ROOT, own_homes, without_prefect
from conftest import Emulator

from benchmarks.hub import Hub

HUB_TOKEN = "hf_seededTokenOfTheHub0123456789"
CLIENT_SECRET = "seeded~Client.Secret~0123456789abcdef"
RUN_SECONDS = 240
# A signed address, and a token as Entra ID makes them.
SHAPES = {
    "signature": re.compile(rb"[?&]sig=[A-Za-z0-9%]{16}"),
    "token": re.compile(rb"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\."),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample chats, as a gated data set."""
    root = tmp_path_factory.mktemp("hub")
    shutil.copytree(ROOT / "deployments/data/chat_sample", root / "lab/gated")
    (root / "lab/gated.json").write_text(json.dumps({"gated": True, "token": HUB_TOKEN}), encoding="utf-8")
    return root


class ProcessList:
    """The arguments of every process, and the sign-in of the run's own Prefect server, while the body runs."""

    def __init__(self, retune_home: Path) -> None:
        self.seen: set[str] = set()
        self.sign_ins: set[str] = set()
        self._home = retune_home
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "ProcessList":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(5)

    def _look(self) -> None:
        while not self._ended.wait(0.2):
            for process in psutil.process_iter(["cmdline"]):
                self.seen.add(" ".join(process.info["cmdline"] or []))
            for profile in self._home.glob("prefect-*.toml"):
                with contextlib.suppress(FileNotFoundError):
                    self.sign_ins |= set(re.findall(r'AUTH_STRING = "(.+)"', profile.read_text(encoding="utf-8")))


def written_forms(secret: str) -> Iterator[bytes]:
    """The secret as it may stand in a file."""
    yield secret.encode()
    yield urllib.parse.quote(secret, safe="").encode()
    # Within a longer text, whose beginning decides how its bytes are grouped.
    for shift in range(3):
        encoded = base64.b64encode(b" " * shift + secret.encode()).decode()
        yield encoded[4:-4].encode()


def places_of(secret: str, texts: dict[str, bytes]) -> list[str]:
    """Where the secret stands."""
    return [place for place, text in texts.items() if any(form in text for form in written_forms(secret))]


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_secrets_stay_where_they_are(emulator: Emulator, hub: Hub, empty_database: Path, tmp_path: Path) -> None:
    """A whole run at the most talkative level, with everything that it writes in one folder."""
    own = own_homes(tmp_path, empty_database) | {"HF_HOME": str(tmp_path / "hf"), "PREFECT_LOGGING_LEVEL": "DEBUG"}
    own |= {"HF_TOKEN": HUB_TOKEN, "AZURE_CLIENT_SECRET": CLIENT_SECRET}
    settings = (*REHEARSAL, "data.source=lab/gated", "serving.keep=true")
    arguments = ["-m", "flows.finetune", "--json", "--force", "--html", str(tmp_path / "page.html")]
    with ProcessList(tmp_path / "retune") as processes:
        done = subprocess.run(
            [sys.executable, *arguments, *(word for one in settings for word in ("--set", one))],
            cwd=ROOT,
            env={**without_prefect(), **emulator.env, **hub.env, **own},
            capture_output=True,
            timeout=RUN_SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert report["score"] and report["data"]["source"] == "lab/gated"

    client = emulator.client()
    keys = client.online_endpoints.get_keys(report["endpoint"]["name"])
    client.online_endpoints.begin_delete(report["endpoint"]["name"]).wait()
    kept = json.loads((emulator.home / "secrets.json").read_text(encoding="utf-8"))
    secrets = {"hub token": HUB_TOKEN, "client secret": CLIENT_SECRET, "endpoint key": keys.primary_key}
    secrets |= {"second endpoint key": keys.secondary_key, "storage key": kept["storage_key"]}
    (secrets["sign-in"],) = processes.sign_ins
    secrets |= {"identity header": kept["identity_header"], "token key": kept["token_key"]}
    texts = files_below(tmp_path) | {"stdout": done.stdout, "stderr": done.stderr}
    texts["process arguments"] = "\n".join(processes.seen).encode()

    # What is looked through holds what a run writes.
    assert any(name.endswith("prefect.db") for name in texts) and any("runs/" in name for name in texts)
    assert places_of(report["endpoint"]["name"], texts)
    leaks = {name: places_of(secret, texts) for name, secret in secrets.items()}
    leaks |= {name: [place for place, text in texts.items() if shape.search(text)] for name, shape in SHAPES.items()}
    assert {name: places for name, places in leaks.items() if places} == {}


def test_a_secret_is_found_however_it_is_written() -> None:
    """The search sees a secret within a text that is encoded."""
    inside = f"Bearer {CLIENT_SECRET} of nobody"
    for text in (inside.encode(), urllib.parse.quote(inside, safe="").encode(), base64.b64encode(inside.encode())):
        assert places_of(CLIENT_SECRET, {"here": text}) == ["here"]
    assert places_of(CLIENT_SECRET, {"here": b"nothing"}) == []
    assert SHAPES["signature"].search(b"https://store/blob?se=2026&sig=abcdefghijklmnopqrst%3D")
    assert SHAPES["token"].search(b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjMifQ.abc")

"""Large bodies, slow ones, many levels, broken files of an earlier start, and who may read what the emulator keeps."""

import errno
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import ROOT, wait_for
from conftest import Emulator, Run
from raw_requests import WORKSPACE, Raw

from azureml_emulator.app import LARGEST_BODY_BYTES
from azureml_emulator.server import HEAD_SECONDS
from azureml_emulator.wire import DEEPEST_JSON
from retune import folders
from retune.errors import BadRequest

PLACE = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices".format(
    **WORKSPACE
)
JOB = f"{PLACE}/workspaces/local/jobs/large?api-version=2025-01-01-preview"
BLOB = "/localstore.blob.localhost/azureml/large"
HUGE = 400 << 20


def opened(emulator: Emulator) -> ssl.SSLSocket:
    """A connection of its own."""
    context = ssl.create_default_context(cafile=emulator.ready["ca_bundle"])
    plain = socket.create_connection(("localhost", int(emulator.ready["port"])), timeout=30)
    return context.wrap_socket(plain, server_hostname="localhost")


def head(method: str, target: str, port: object, token: str, **headers: object) -> bytes:
    """The head of a request, whose body does not follow."""
    given = {"Host": f"localhost:{port}", "Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    return "\r\n".join([f"{method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in given.items()), "", ""]).encode()


def status_of(connection: ssl.SSLSocket) -> int:
    """The status of the answer that comes."""
    return int(connection.recv(4096).split()[1])


@pytest.mark.parametrize(("method", "target"), [("PUT", JOB), ("PUT", BLOB), ("PUT", "/admin/faults"), ("POST", JOB)])
@pytest.mark.parametrize("token", ["", "x", "a.b.c"])
def test_without_a_token_no_body_is_read(attacked: Emulator, method: str, target: str, token: str) -> None:
    """The answer comes before the first byte of it."""
    with opened(attacked) as connection:
        connection.sendall(head(method, target, attacked.ready["port"], token, Content_Length=HUGE))
        status = status_of(connection)

    # There is no POST to a job.
    assert status == (501 if method == "POST" else 401)
    assert list((attacked.home / "uploads").iterdir()) == []


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_refused(raw: Raw, attacked: Emulator, declared: bool) -> None:
    """By its length, or when so much of it has come."""
    length = {"Content_Length": HUGE} if declared else {"Transfer_Encoding": "chunked"}
    with opened(attacked) as connection:
        connection.sendall(head("PUT", JOB, attacked.ready["port"], raw.tokens["arm"], **length))
        if not declared:
            size = LARGEST_BODY_BYTES + 1
            connection.sendall(b"%x\r\n" % size + b" " * size + b"\r\n")
        assert status_of(connection) == 413


def test_a_broken_upload_leaves_nothing(raw: Raw, attacked: Emulator) -> None:
    """Neither a blob nor a draft of it."""
    drafts = attacked.home / "uploads"
    with opened(attacked) as connection:
        asked = head("PUT", BLOB, attacked.ready["port"], raw.tokens["storage"], Content_Length=1 << 20)
        connection.sendall(asked.replace(b"\r\n\r\n", b"\r\nx-ms-blob-type: BlockBlob\r\n\r\n") + b"half of it")
        wait_for(lambda: list(drafts.iterdir()), "a draft")

    wait_for(lambda: not list(drafts.iterdir()), "the end of the draft")
    assert raw.send("HEAD", BLOB, auth="storage").status == 404


def test_a_head_that_does_not_end_is_not_waited_for(attacked: Emulator) -> None:
    """Nothing at all, half a head, and one byte now and then."""
    began, kinds = time.monotonic(), [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"G"]
    connections = [opened(attacked) for _ in kinds]
    for connection, text in zip(connections, kinds, strict=True):
        connection.settimeout(0.5)
        connection.sendall(text)
    waiting = set(connections)
    while waiting:
        assert time.monotonic() - began < 6 * HEAD_SECONDS, f"{len(waiting)} connections are still open"
        for connection in list(waiting):
            try:
                connection.sendall(b"x")
                ended = connection.recv(100) == b""
            except TimeoutError:
                ended = False
            except OSError:
                ended = True
            if ended:
                waiting.discard(connection)
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("levels", [DEEPEST_JSON, DEEPEST_JSON + 1, 900, 100_000])
def test_documents_are_nested_in_so_many_levels(raw: Raw, levels: int) -> None:
    """And not in more, which would end the program that reads them."""
    text = b'{"properties":' * (levels - 1) + b"{}" + b"}" * (levels - 1)
    answer = raw.send("PUT", JOB, auth="arm", body=text)

    assert answer.status == 400
    assert (b"deeper" in answer.body or b"not JSON" in answer.body) == (levels > DEEPEST_JSON), answer


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_numbers_are_finite(raw: Raw, number: str) -> None:
    """What JSON has no word for is not JSON."""
    answer = raw.send("PUT", "/admin/timing", auth="admin", body=b'{"queue_seconds": %s}' % number.encode())

    assert answer.status == 400 and b"not JSON" in answer.body


def private(folder: Path) -> list[Path]:
    """What in it others may read."""
    return [path for path in [folder, *folder.rglob("*")] if not path.is_symlink() and path.stat().st_mode & 0o077]


def test_nobody_else_reads_what_the_emulator_keeps(fresh_emulator: Emulator) -> None:
    """Folders and files, from their creation on; also of a home that was open before."""
    fresh_emulator.admin("GET", "/admin/status")
    assert private(fresh_emulator.home) == []
    assert stat.S_IMODE(fresh_emulator.home.stat().st_mode) == 0o700

    fresh_emulator.stop()
    fresh_emulator.home.chmod(0o777)
    fresh_emulator.start()

    assert stat.S_IMODE(fresh_emulator.home.stat().st_mode) == 0o700


def test_nobody_else_reads_what_retune_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder, and what is made in it."""
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "open"))
    (tmp_path / "open").mkdir(mode=0o777)
    assert folders.keep_report("x", "kept") is None
    assert (tmp_path / "open" / "runs" / "x.json").read_text() == "kept"

    assert private(tmp_path / "open") == []


@pytest.mark.parametrize("entry", ["runs", "secrets.json"])
def test_a_home_with_a_planted_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    """By Retune and by the emulator, with the link's name."""
    home = tmp_path / "home"
    home.mkdir()
    (home / entry).symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("RETUNE_HOME", str(home))

    with pytest.raises(BadRequest, match=f"{entry}' is a link"):
        folders.home()
    started = start(home)
    assert started.returncode == 2 and f"{entry}' is a link" in started.stderr
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_home_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Retune and by the emulator."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12345, 12345)
    monkeypatch.setenv("RETUNE_HOME", str(home))

    with pytest.raises(BadRequest, match="belongs to another user"):
        folders.home()
    started = start(home)
    assert started.returncode == 2 and "belongs to another user" in started.stderr
    assert list(home.iterdir()) == []


def start(home: Path) -> "subprocess.CompletedProcess[str]":
    """The emulator on a home, told to end as soon as it has started."""
    command = [sys.executable, "-m", "azureml_emulator", "--home", str(home), "--stop-with-stdin"]
    return subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which an emulator has run."""
    home = tmp_path_factory.mktemp("used") / "home"
    assert start(home).returncode == 0
    return home


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]"])
def test_broken_files_are_set_aside_and_the_rest_starts(used: Path, tmp_path: Path, content: bytes) -> None:
    """A full disk or a power cut may leave such files. The message names each, and it stays beside its place."""
    home = tmp_path / "home"
    shutil.copytree(used, home, symlinks=True)
    files = [home / name for name in ("secrets.json", "port", "ca.pem", "ca_key.pem", "documents/jobs/torn.json")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    again = start(home)

    assert again.returncode == 0, again.stderr
    assert again.stderr.count("is set aside as") == len(files)
    for file in files:
        assert str(file) in again.stderr
        assert file.with_name(f"{file.name}.broken").read_bytes() == content


def test_a_report_that_finds_no_room_is_handed_over_all_the_same(
    finetune: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a word about the disk; the run ends as it deserves, and no half of a file stays."""

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folders.os, "fsync", full)
    run = finetune("data.fraction=7")
    assert (run.code, run.report["status"]) == (2, "rejected")
    run = finetune("model.name=never-made")

    assert run.report["status"] in ("rejected", "failed") and run.report["error"]["message"]
    (problem,) = [warning for warning in run.report["warnings"] if "not kept" in warning]
    assert "No space left on device" in problem and str(folders.home() / "runs") in problem and "bytes" in problem
    kept = [file.name for file in (folders.home() / "runs").iterdir()]
    assert not [name for name in kept if run.report["run"]["flow_run_id"] in name]


def test_a_thread_that_dies_ends_the_emulator(tmp_path: Path) -> None:
    """What it would have done is not waited for for ever."""
    code = (
        "import pathlib, sys, threading, time\n"
        "home = pathlib.Path('home')\n"
        "def die():\n"
        "    while not (home / 'ready.json').exists(): time.sleep(0.1)\n"
        "    raise ValueError('out of order')\n"
        "threading.Thread(target=die, name='worker').start()\n"
        "from azureml_emulator.__main__ import main\n"
        "sys.exit(main(['--home', str(home)]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False
    )

    assert ended.returncode == 1 and "worker died; the emulator ends" in ended.stderr and "out of order" in ended.stderr
    assert not (tmp_path / "home" / "ready.json").exists()

"""Which Prefect server a command uses, how it signs in, and what it says when it may not."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ROOT, own_homes, without_prefect
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from retune import sign_in
from retune.errors import BadRequest, CloudError
from retune_cli.local import known_prefect
from retune_cli.servers import free_port


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Retune's home; no Prefect server is configured."""
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    with temporary_settings({PREFECT_API_URL: None, PREFECT_API_AUTH_STRING: None}):
        yield tmp_path


def test_a_profile_is_private_new_each_time_and_goes(home: Path) -> None:
    """Mode 0600 from its creation, another string each time, and no file when the server has ended."""
    strings = set()
    for _ in range(2):
        with sign_in.new_profile(4200) as file:
            assert file == home / "prefect-4200.toml"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            profile = sign_in.read_profile(file)
            assert profile.api == "http://127.0.0.1:4200/api"
            strings.add(profile.string)
        assert not file.exists()

    assert len(strings) == 2 and all(len(string) > 30 for string in strings)


def test_a_planted_file_or_link_is_not_written_to(home: Path, tmp_path: Path) -> None:
    """A file at the file's place is replaced; with a link there nothing is begun."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    (home / "prefect-4200.toml").hardlink_to(elsewhere)
    with sign_in.new_profile(4200) as file:
        assert "untouched" not in file.read_text()
    (home / "prefect-4200.toml").symlink_to(elsewhere)
    with pytest.raises(BadRequest, match="is a link"), sign_in.new_profile(4200):
        pass

    assert elsewhere.read_text() == "untouched"


def test_the_user_s_own_profile_is_kept_but_for_another_server(home: Path) -> None:
    """Its database stays; the address, key and string of a cloud would come before ours."""
    users = home / "profiles.toml"
    users.write_text(
        'active = "mine"\n[profiles.mine]\n'
        'PREFECT_API_URL = "https://api.prefect.cloud/x"\nPREFECT_API_KEY = "pnu_secret"\n'
        'PREFECT_API_AUTH_STRING = "a:b"\nPREFECT_SERVER_DATABASE_CONNECTION_URL = "sqlite+aiosqlite:////tmp/mine.db"\n'
    )
    program = "from retune import sign_in\nwith sign_in.new_profile(4200) as file: print(file.read_text())\n"
    own = {"PREFECT_PROFILES_PATH": str(users), "RETUNE_HOME": str(home)}
    shown = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=without_prefect() | own,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert shown.count('PREFECT_SERVER_DATABASE_CONNECTION_URL = "sqlite+aiosqlite:////tmp/mine.db"') == 2
    assert "prefect.cloud" not in shown and "pnu_secret" not in shown and '"a:b"' not in shown


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_an_address_of_our_own_server_is_signed_in_to(home: Path, name: str) -> None:
    """Also when it is configured by its address alone, under either name."""
    with sign_in.new_profile(4200) as file, temporary_settings({PREFECT_API_URL: f"http://{name}:4200/api"}):
        string = sign_in.read_profile(file).string
        with known_prefect():
            assert PREFECT_API_AUTH_STRING.value() == string
            assert os.environ["PREFECT_PROFILES_PATH"] == str(file)
            assert sign_in.shell_prefix("http://127.0.0.1:4200/api") == f"PREFECT_PROFILES_PATH={file}"
        assert PREFECT_API_AUTH_STRING.value() != string


@pytest.mark.parametrize(
    "api", ["https://prefect.example.com/api", "http://127.0.0.1:4201/api", "http://10.0.0.1:4200/api"]
)
def test_another_server_gets_no_string_of_ours(home: Path, api: str) -> None:
    """The string is for the server on its port of this machine."""
    with sign_in.new_profile(4200), temporary_settings({PREFECT_API_URL: api}), known_prefect():
        assert PREFECT_API_AUTH_STRING.value() is None
        assert sign_in.shell_prefix(api) == f"PREFECT_API_URL={api}"


def test_without_any_server_it_is_said(home: Path) -> None:
    """Nothing is configured, and nothing runs on this machine."""
    with (
        temporary_settings({PREFECT_API_URL: None}),
        pytest.raises(BadRequest, match=r"No Prefect API is configured\."),
        known_prefect(),
    ):
        raise AssertionError("there is no Prefect")


def test_a_server_that_is_away_is_said(home: Path) -> None:
    """With its address, and what to do."""
    from retune_cli.approving import answer

    api = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: api}), pytest.raises(CloudError, match="cannot be reached") as caught:
        answer("some-run", approve=True, by="Ada", note="")

    assert caught.value.code == "PrefectAway" and api in caught.value.message


def test_a_wrong_string_is_said(prefect_api: str, home: Path) -> None:
    """The server is there, and refuses."""
    from retune_cli.approving import answer
    from retune_cli.notify import create_automations

    wrong = {PREFECT_API_URL: prefect_api, PREFECT_API_AUTH_STRING: "retune:guessed"}
    for ask in (
        lambda: answer("some-run", approve=True, by="Ada", note=""),
        lambda: create_automations("slack-webhook/x"),
    ):
        with temporary_settings(wrong), pytest.raises(CloudError, match="refused the sign-in") as caught:
            ask()

        assert caught.value.code == "PrefectRefused" and "set PREFECT_API_AUTH_STRING" in caught.value.fix


def test_a_profile_that_is_gone_or_torn_is_named(home: Path) -> None:
    """A torn file is as good as none."""
    file = home / "prefect-4200.toml"
    for text in (None, "", "active = ", "[profiles.other]\n"):
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        with pytest.raises(CloudError, match=r"prefect-4200\.toml cannot be read") as caught:
            sign_in.read_profile(file)

        assert caught.value.code == "NoSignIn"


def test_a_server_that_other_settings_open_is_not_used(empty_database: Path, tmp_path: Path) -> None:
    """Prefect reads a prefect.toml in the current folder before the profile."""
    (tmp_path / "prefect.toml").write_text('[server.api]\nauth_string = "someone:else"\n')
    homes = own_homes(tmp_path, empty_database) | {"PYTHONPATH": str(ROOT)}
    program = f"from retune_cli.servers import prefect_server\nwith prefect_server({free_port()}): print('in use')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=without_prefect() | homes,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode != 0 and "in use" not in done.stdout
    assert "answered 401 without the sign-in and 401 with it, not 401 and 200" in done.stderr
    assert list((tmp_path / "retune").glob("prefect-*.toml")) == []

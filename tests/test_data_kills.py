"""A sample of the kills: what is prepared after a kill is what was never disturbed."""

import subprocess
import sys
from pathlib import Path

import pytest
from data_kills import comparable, differences, draw

from chatdata import cache

ROOT = Path(__file__).resolve().parent.parent
# SIGKILL late, SIGINT, SIGKILL while connections are cut, SIGTERM.
SAMPLE = ("10", "12", "14", "28")


def test_a_seed_and_a_number_decide_the_trial() -> None:
    """The same trial again, another one for another seed."""
    assert draw(7, 17) == draw(7, 17)
    assert draw(7, 17).moment != draw(8, 17).moment


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"a": "1", "b": "2"}, []),
        ({"a": "1"}, ["b is missing"]),
        ({"a": "1", "b": "2", ".partial-x": "folder"}, [".partial-x should not be there"]),
        ({"a": "1", "b": "3"}, ["b differs"]),
    ],
    ids=["same", "missing", "left over", "other bytes"],
)
def test_any_difference_is_a_breach(found: dict, told: list[str]) -> None:
    """Files that are missing, left over or of other content are each named."""
    assert differences({"a": "1", "b": "2"}, found) == told


def test_a_manifest_is_compared_without_what_is_a_runs_own() -> None:
    """Times and folders differ between runs; digests do not."""
    split = {"path": "/one/train.jsonl", "sha256": "1", "rows": 3}
    one = {"seconds": 1.2, "key": "k", "splits": {"train": split}}
    other = {"seconds": 3.4, "key": "k", "splits": {"train": {**split, "path": "/other/train.jsonl"}}}
    changed = {**other, "splits": {"train": {**split, "sha256": "2"}}}

    assert comparable(one) == comparable(other)
    assert comparable(one) != comparable(changed)


def test_a_sample_of_kills_leaves_what_an_undisturbed_run_makes() -> None:
    """By SIGKILL, SIGINT and SIGTERM, with a hub that drops connections and one that is well."""
    command = [sys.executable, "tests/harness/data_kills.py", "--scale", "0.01", "--only", *SAMPLE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split()[:2] == ["all", str(len(SAMPLE))]


def test_what_killed_processes_left_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`clear` without keys deletes what is half-made and nobody's; what another process is making stays."""
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    for name in (".partial-abandoned-x1", ".partial-busy-x2"):
        (cache.folder() / name / "made").mkdir(parents=True)
    hold = (
        "import sys; from chatdata import cache\nwith cache.locked('busy'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        cleared = cache.clear()
        left = sorted(path.name for path in cache.folder().glob(".partial-*"))
        other.communicate()

    assert (cleared, left) == ([], [".partial-busy-x2"])

"""An emulator forgets what has ended, and tests/harness/soak.py says so when one does not."""

from pathlib import Path

import pytest
from soak import Held, growth

from azureml_emulator import operations
from azureml_emulator.operations import Operations
from azureml_emulator.store import Store
from azureml_emulator.world import Settings, Timing, World

STEADY = Held(fds=11, connections=8, threads=5, children=2, memory=68.0, mlflow_memory=271.0)


def world_in(folder: Path) -> World:
    return World(Settings(home=folder, port=1), Store(folder / "documents"), Timing())


def run_operations(world: World, room: Operations, *names: str) -> None:
    """Puts operations under way and ends them, one after the other."""
    for name in names:
        record = {"kind": "endpoints", "key": "demo", "style": "mfe", "status": "InProgress", "started": name}
        world.store.put("operations", name, record)
        room.finish(name)


def kept(world: World) -> list[str]:
    return [name for name, _ in world.store.list("operations")]


def test_oldest_ended_operations_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the ended operations the newest stay, in memory and on disk; one under way stays however old it is."""
    monkeypatch.setattr(operations, "KEPT", 2)
    world = world_in(tmp_path)
    world.store.put("operations", "a-running", {"status": "InProgress", "started": "0"})
    run_operations(world, Operations(world), "b", "c", "d")

    assert kept(world) == ["a-running", "c", "d"]
    assert kept(world_in(tmp_path)) == ["a-running", "c", "d"]


def test_restart_counts_what_ended_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart the operations that ended before it are the first to be forgotten."""
    monkeypatch.setattr(operations, "KEPT", 2)
    first = world_in(tmp_path)
    run_operations(first, Operations(first), "b", "c")
    second = world_in(tmp_path)
    room = Operations(second)
    room.recover()
    run_operations(second, room, "a")

    assert kept(second) == ["a", "c"]


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (STEADY, None),
        (Held(11, 8, 5, 2, 81.0, 900.0), None),
        (Held(12, 0, 5, 2, 68.0, 271.0), "fds: at most 11 in the first 5 runs, at least 12 in the last"),
        (Held(11, 9, 5, 2, 68.0, 271.0), "connections: at most 8"),
        (Held(11, 8, 6, 2, 68.0, 271.0), "threads: at most 5"),
        (Held(11, 8, 5, 3, 68.0, 271.0), "children: at most 2"),
        (Held(11, 8, 5, 2, 82.0, 271.0), "resident memory: 68.0 MB after run 5, then up to 82.0"),
    ],
    ids=["steady", "within bounds", "fds", "connections", "threads", "children", "memory"],
)
def test_soak_judges_growth(last: Held, reason: str | None) -> None:
    """More descriptors, threads or children in each late run, or a fifth more memory in one, is growth."""
    found = growth([STEADY] * 5 + [last] * 5)

    assert [text for text in found if reason and reason in text] == found
    assert bool(found) == bool(reason)


def test_soak_forgives_a_single_run() -> None:
    """A descriptor more in one of the late runs, a connection that is still being closed, is no growth."""
    assert growth([STEADY] * 9 + [Held(17, 12, 9, 3, 68.0, 271.0)]) == []

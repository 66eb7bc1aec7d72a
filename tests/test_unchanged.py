"""A run for which nothing has changed since the last good model is skipped, quickly and without creating anything."""

from collections.abc import Callable

from commands import REHEARSAL, creating_calls, requests_so_far
from conftest import Emulator, Run

# Of its own, so that no other test's model is the last one.
NAMED = (*REHEARSAL, "model.registered_name=unchanged")


def test_a_run_is_skipped_until_something_changes(finetune: Callable[..., Run], emulator: Emulator) -> None:
    """The second start of the same request creates nothing; another parameter, other data and `--force` train."""
    made = finetune(*NAMED, force=False)
    assert (made.code, made.report["status"]) == (0, "completed"), made.errors

    before = requests_so_far(emulator)
    skipped = finetune(*NAMED, force=False)

    assert (skipped.code, skipped.report["status"]) == (0, "skipped"), skipped.errors
    assert skipped.report["registered_model"]["version"] == made.report["registered_model"]["version"]
    assert (skipped.report["job"], skipped.report["endpoint"]) == (None, None)
    assert creating_calls(emulator, before) == []

    for change in ("training.seed=7", "data.fraction=0.9"):
        assert finetune(*NAMED, change, force=False).report["status"] == "completed", change
    # The last good model is another now.
    assert finetune(*NAMED, force=False).report["status"] == "completed"
    assert finetune(*NAMED, force=True).report["status"] == "completed"


def test_a_model_that_never_answered_is_not_good(finetune: Callable[..., Run], emulator: Emulator) -> None:
    """It is registered, but the next run makes another."""
    named = (*REHEARSAL, "model.registered_name=unproven")
    emulator.admin("PUT", "/admin/faults", [{"on": "deployment", "effect": "fail", "calls": None}])
    try:
        failed = finetune(*named, force=False)
    finally:
        emulator.admin("DELETE", "/admin/faults")
    assert failed.code == 1 and failed.report["registered_model"], failed.errors

    assert finetune(*named, force=False).report["status"] == "completed"

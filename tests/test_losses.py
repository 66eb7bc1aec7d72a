"""The losses that a run shows never delay it."""

import threading
from types import SimpleNamespace

import pytest
from commands import wait_for

from tasks import losses
from tasks.losses import Losses


def test_a_tracking_store_that_does_not_answer_delays_no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The looks go on with what was read before, and ask once; what is read in the end is shown."""
    answers = threading.Event()
    asked: list[str] = []
    point = SimpleNamespace(key="loss", step=7)
    data = SimpleNamespace(metrics={"loss": 1.5, "grad_norm": 9.0}, _metric_objs=[point])

    def get_run(job: str) -> SimpleNamespace:
        asked.append(job)
        answers.wait(60)
        return SimpleNamespace(data=data)

    monkeypatch.setattr(losses, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(losses, "tracking_client", lambda client: SimpleNamespace(get_run=get_run))
    job = Losses(SimpleNamespace(), "retune-x-1")

    assert job.latest() == {}
    assert wait_for(lambda: asked, "the question to the store")
    assert [job.latest() for _ in range(3)] == [{}, {}, {}]
    assert asked == ["retune-x-1"]
    answers.set()
    assert wait_for(job.latest, "the losses") == {"step": 7, "loss": 1.5}


@pytest.mark.usefixtures("emulator")
def test_a_store_that_refuses_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """And ends no run."""
    import mlflow

    def refuse(job: str) -> None:
        raise mlflow.MlflowException("no")

    monkeypatch.setattr(losses, "tracking_client", lambda client: SimpleNamespace(get_run=refuse))

    assert Losses(SimpleNamespace(), "retune-x-1").latest() == {}

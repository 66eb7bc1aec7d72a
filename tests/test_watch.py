"""The thread beside a run."""

from prefect.settings import PREFECT_API_URL

from flows.watch import Watch
from retune.request import Request


class NotingWatch(Watch):
    """A watch that only notes which API it would ask."""

    asked: str | None = None

    def _watch(self) -> None:
        self.asked = PREFECT_API_URL.value()


def test_the_watch_asks_the_api_that_the_run_uses(prefect_api: str) -> None:
    """Also one that was started for the run and is in no variable; otherwise Prefect starts another server."""
    watch = NotingWatch("11111111-2222-3333-4444-555555555555", Request())
    with watch.watching():
        pass

    assert watch.asked == prefect_api

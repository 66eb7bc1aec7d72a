"""What a run shows on its page in Prefect. No run fails because a page cannot be drawn, and none waits for it long.

One thread draws everything, each artifact's latest state. A run waits for it only before it asks a person and at its
end, and then for `FINISH_SECONDS` at most.
"""

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from retune.data_facts import data_sheet
from retune.facts import exchanges_of, losses_sheet, parameters_table
from retune.report import Answer, Curve, Parameter, PreparedData, Report
from retune.summary import exchange_cells, sheet_to_markdown, table_cells, to_markdown

log = logging.getLogger("retune.page")

FINISH_SECONDS = 15


class Page:
    """The thread that draws, and what waits for it, by artifact: what is newer replaces what has not been drawn yet."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, Callable[[], object]] = {}
        self._busy = False
        self._thread: threading.Thread | None = None

    def draw(self, key: str, drawing: Callable[[], object]) -> None:
        """Have `drawing` called soon, in this run's context."""
        context = contextvars.copy_context()
        with self._changed:
            self._waiting[key] = lambda: context.run(drawing)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="page", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def finish(self) -> None:
        """Wait until all is drawn, but not long."""
        deadline = time.monotonic() + FINISH_SECONDS
        with self._changed:
            while self._waiting or self._busy:
                if (left := deadline - time.monotonic()) <= 0:
                    log.warning("Prefect's server is slow or away; the run's page lacks its last changes")
                    return
                self._changed.wait(left)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                drawing = self._waiting.pop(next(iter(self._waiting)))
                self._busy = True
            # Libraries raise what they like.
            try:
                drawing()
            except Exception as error:
                log.warning("Prefect's page lacks something: %s", error)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()


PAGE = Page()


def show_data(prepared: PreparedData) -> None:
    """What the rows are, and how long."""
    text = "Rows, lengths, what was found."
    PAGE.draw("chat-data", lambda: _show_markdown("chat-data", sheet_to_markdown(data_sheet(prepared)), text))


def show_parameters(parameters: list[Parameter]) -> None:
    """Where each input of the component came from."""
    text = "Inputs of the component, and whose values they are."

    def draw() -> None:
        create_table_artifact(table_cells(parameters_table(parameters)), key="parameters", description=text)

    PAGE.draw("parameters", draw)


def show_losses(curves: list[Curve]) -> None:
    """The losses as a picture, if any was logged more than once."""
    if curves:
        text = "Losses over the training steps."
        PAGE.draw("loss", lambda: _show_markdown("loss", sheet_to_markdown(losses_sheet(curves)), text))


def show_questions(answers: list[Answer]) -> None:
    """What the endpoint was asked, what the rows themselves answer, and what it answered."""

    def draw() -> None:
        rows = [exchange_cells(exchange) for exchange in exchanges_of(answers)]
        create_table_artifact(rows, key="questions", description="Questions and answers.")

    PAGE.draw("questions", draw)


def show_summary(report: Report, status: str | None = None) -> None:
    """What the run did, what it made and deleted, what it cost; `status` is that of one that goes on."""
    now = report.model_copy(deep=True)
    PAGE.draw("summary", lambda: _show_markdown("summary", to_markdown(now, status), "What this run did."))


def _show_markdown(key: str, text: str, description: str) -> None:
    """Pictures too: below an image artifact Prefect prints the picture's address, which is the whole picture."""
    create_markdown_artifact(text, key=key, description=description)


class Progress:
    """A bar on the run's page that follows the job."""

    def __init__(self) -> None:
        self._artifact: UUID | None = None

    def show(self, share: float, text: str) -> None:
        """How much is done, from 0 to 1, and what is going on."""
        PAGE.draw("training", lambda: self._draw(round(100 * share, 1), text))

    def _draw(self, percent: float, text: str) -> None:
        if self._artifact is None:
            created = create_progress_artifact(percent, key="training", description=text)
            # Prefect's type allows for a coroutine, which it gives to callers in an event loop.
            assert isinstance(created, UUID)
            self._artifact = created
        else:
            update_progress_artifact(self._artifact, percent, description=text)

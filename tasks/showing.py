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
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from retune.pictures import draw_losses
from retune.report import Answer, Curve, Parameter, PreparedData, Report
from retune.summary import parameters_table, picture_address, questions_table, to_markdown

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
    """What the rows look like, and a picture of their lengths."""
    from chatdata.describe import picture_of
    from chatdata.describe import to_markdown as data_page

    def page() -> None:
        create_markdown_artifact(data_page(prepared), key="chat-data", description="Rows, lengths, what was found.")
        show_picture(picture_of(prepared), "chat-data-lengths", "Characters of the rows.")

    PAGE.draw("chat-data", page)


def show_parameters(parameters: list[Parameter]) -> None:
    """Where each input of the component came from."""
    text = "Inputs of the component, and whose values they are."
    rows = parameters_table(parameters)
    PAGE.draw("parameters", lambda: create_table_artifact(rows, key="parameters", description=text))


def show_losses(curves: list[Curve]) -> None:
    """The losses as a picture, if any was logged more than once."""
    if curves:
        PAGE.draw("loss", lambda: show_picture(draw_losses(curves), "loss", "Losses over the training steps."))


def show_questions(answers: list[Answer]) -> None:
    """The questions to the endpoint, the rows' own answers, and the endpoint's."""
    rows = questions_table(answers)
    PAGE.draw("questions", lambda: create_table_artifact(rows, key="questions", description="Questions and answers."))


def show_summary(report: Report, status: str | None = None) -> None:
    """What the run did, what it made and deleted, what it cost; `status` is that of one that goes on."""
    text = to_markdown(report, status)
    PAGE.draw("summary", lambda: create_markdown_artifact(text, key="summary", description="What this run did."))


def show_picture(picture: bytes, key: str, description: str) -> None:
    """An image artifact that holds its picture; PNG."""
    create_image_artifact(picture_address(picture), key=key, description=description)


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

"""What a run shows on its page in Prefect. A run never fails because a page cannot be drawn."""

import contextlib
import logging
from collections.abc import Iterator
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


@contextlib.contextmanager
def never_failing() -> Iterator[None]:
    """A warning instead of any error of the body: the server may be away, and libraries raise what they like."""
    try:
        yield
    except Exception as error:
        log.warning("Prefect's page lacks something: %s", error)


def show_data(prepared: PreparedData) -> None:
    """What the rows look like, and a picture of their lengths."""
    from chatdata.describe import picture_of
    from chatdata.describe import to_markdown as data_page

    with never_failing():
        create_markdown_artifact(data_page(prepared), key="chat-data", description="Rows, lengths, what was found.")
        show_picture(picture_of(prepared), "chat-data-lengths", "Characters of the rows.")


def show_parameters(parameters: list[Parameter]) -> None:
    """Where each input of the component came from."""
    with never_failing():
        text = "Inputs of the component, and whose values they are."
        create_table_artifact(parameters_table(parameters), key="parameters", description=text)


def show_losses(curves: list[Curve]) -> None:
    """The losses as a picture, if any was logged more than once."""
    with never_failing():
        if curves:
            show_picture(draw_losses(curves), "loss", "Losses over the training steps.")


def show_questions(answers: list[Answer]) -> None:
    """What the endpoint was asked, what the rows themselves answer, and what it answered."""
    with never_failing():
        create_table_artifact(questions_table(answers), key="questions", description="Questions and answers.")


def show_summary(report: Report, status: str | None = None) -> None:
    """What the run did, what it made and deleted, what it cost; `status` is that of one that goes on."""
    with never_failing():
        create_markdown_artifact(to_markdown(report, status), key="summary", description="What this run did.")


def show_picture(picture: bytes, key: str, description: str) -> None:
    """An image artifact that holds its picture; PNG."""
    create_image_artifact(picture_address(picture), key=key, description=description)


class Progress:
    """A bar on the run's page that follows the job."""

    def __init__(self) -> None:
        self._artifact: UUID | None = None

    def show(self, share: float, text: str) -> None:
        """How much is done, from 0 to 1, and what is going on."""
        with never_failing():
            percent = round(100 * share, 1)
            if self._artifact is None:
                self._artifact = create_progress_artifact(percent, key="training", description=text)
            else:
                update_progress_artifact(self._artifact, percent, description=text)

"""Chat data, prepared once: the task around `chatdata`, which chooses, checks and writes the rows.

The key of what was prepared is its content: the commit or digest of the source, the settings, and the source code of
`chatdata`. What is found under a key is believed only after its files' digests were checked.
"""

import base64
import hashlib
import logging
from pathlib import Path

from prefect import Task, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun
from prefect.states import Completed, State

import chatdata
from chatdata import cache
from chatdata.describe import PICTURE, draw_lengths, to_markdown
from chatdata.sources import PinnedData, pin
from retune.errors import CloudError
from retune.report import PreparedData
from retune.request import Request
from tasks.retrying import HARMLESS, is_transient

log = logging.getLogger("retune.data")


def may_answer_later(task: Task, run: TaskRun, state: State) -> bool:
    """Whether a repeat may succeed; the hub's client repeats downloads, but not the look-up of a branch's commit."""
    error = state.result(raise_on_failure=False)
    return is_transient(task, run, state) or (isinstance(error, CloudError) and error.code == "DataUnreachable")


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=may_answer_later, **HARMLESS)
def prepare_data(request: Request) -> PreparedData | State[PreparedData]:
    """The three files that the job takes, written now, or found from an earlier run and verified; `Cached` says so.

    Raises:
        BadRequest: the source, a split or rows are unusable; every kind of bad row is named with examples.
        CloudError: `DataUnreachable`, the hub or the store did not answer.
        WaitExpired: another process has been preparing the same data for hours.
    """
    prepared = prepare(request)
    show_in_prefect(prepared)
    for role, split in prepared.splits.items():
        left_out = f", {sum(split.dropped.values())} left out" if split.dropped else ""
        log.info("%s: %d rows%s%s", role, split.rows, left_out, " (cached)" if prepared.cached else "")
    return Completed(name="Cached", data=prepared) if prepared.cached else prepared


def prepare(request: Request) -> PreparedData:
    """The prepared data of a request, from the cache or made."""
    pinned = pin(request.data, request.workspace)
    limit = max_seq_length(request)

    def make(folder: Path) -> PreparedData:
        # Only here: what reads and checks rows takes a second to import.
        from chatdata.prepare import prepare
        from chatdata.progress import shown

        with shown() as progress:
            prepared = prepare(pinned, folder, max_seq_length=limit, progress=progress)
        (folder / PICTURE).write_bytes(draw_lengths(prepared))
        return prepared

    return cache.find_or_make(content_key(pinned, limit), make)


def show_in_prefect(prepared: PreparedData) -> None:
    """Two artifacts of the run: what the rows look like, and a picture of their lengths."""
    create_markdown_artifact(to_markdown(prepared), key="chat-data", description="Rows, lengths and what was found.")
    picture = base64.b64encode((cache.folder() / prepared.key / PICTURE).read_bytes()).decode()
    create_image_artifact(
        f"data:image/png;base64,{picture}", key="chat-data-lengths", description="Characters of the rows."
    )


def content_key(pinned: PinnedData, limit: int | None) -> str:
    """Digest of everything that decides the prepared files and what is said about them."""
    settings = pinned.model_dump_json(exclude={"place": True, "data": {"revision"}})
    return hashlib.sha256(f"{settings}\n{limit}\n{code_digest()}".encode()).hexdigest()[:24]


def code_digest() -> str:
    """Digest of the source code that prepares."""
    folder = Path(chatdata.__file__).parent
    return hashlib.sha256(b"\n".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()


def max_seq_length(request: Request) -> int | None:
    """The length in tokens at which the component cuts a row, where the request gives one."""
    value = request.training.get("max_seq_length")
    return int(value) if isinstance(value, int | float) and value > 0 else None

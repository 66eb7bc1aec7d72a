"""The logs of a job's steps, line by line, in the run's own log: at level DEBUG, under the name `retune.steps`.

A line is logged once for each flow run, also when that is started again: what Prefect holds of the run's log says how
far an earlier execution came.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from retune_cloud.ledger import ENDED, job_status
from retune_cloud.sdk_errors import first_line

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

log = logging.getLogger("retune.steps")
# Retune's other lines are INFO and above; these are for those who look for them.
log.setLevel(logging.DEBUG)

FILE = "user_logs/std_log.txt"
KEPT_LINES = 10
LINE_CHARACTERS = 2000
LOGS_AT_ONCE = 200
NOTHING_NEW = 416


class StepRun(NamedTuple):
    """A step of a job."""

    name: str
    display_name: str
    status: str


class StepLine(NamedTuple):
    """A line of a step's log, and the step's display name."""

    step: str
    text: str


class StepLogs:
    """What has been read of each step's log."""

    def __init__(self, client: "MLClient", logged: Counter[str] | None = None) -> None:
        self._client = client
        self._logged = logged or Counter()
        self._bytes: Counter[str] = Counter()
        self._rest: dict[str, bytes] = {}
        self._last: dict[str, list[str]] = {}
        self._done: set[str] = set()

    def follow(self, steps: Iterable[StepRun]) -> None:
        """Log what is new, but for lines that were logged before. A log that cannot be read is read the next time."""
        from azure.core.exceptions import AzureError

        for step in steps:
            try:
                for line in self.read_new(step):
                    self._log_line(line)
            except AzureError as error:
                # They are for the reader only.
                log.debug("the log of %s could not be read: %s", step.display_name, first_line(error))

    def _log_line(self, line: StepLine) -> None:
        if self._logged[line.step]:
            self._logged[line.step] -= 1
        else:
            log.debug("%s: %s", line.step, line.text[:LINE_CHARACTERS])

    def read_new(self, step: StepRun, *, to_the_end: bool = False) -> Iterator[StepLine]:
        """The lines of a step that were not read yet. One that is not complete waits for its end, or for `to_the_end`.

        Raises:
            AzureError: the log cannot be read.
        """
        if step.name in self._done:
            return
        ended = step.status in ENDED
        yield from self._add(step, self._read(step), to_the_end=ended or to_the_end)
        self._done |= {step.name} if ended else set()

    def last_lines(self, step: str) -> list[str]:
        """The last lines of a step by its display name."""
        return self._last.get(step, [])

    def _read(self, step: StepRun) -> bytes:
        """The bytes of a step's log that were not read yet."""
        from azure.core.exceptions import HttpResponseError
        from azure.storage.blob import BlobClient

        # The SDK reads logs itself only to print them.
        files = self._client.jobs._runs_operations.get_run_details(step.name).log_files or {}
        if FILE not in files:
            return b""
        with BlobClient.from_blob_url(files[FILE]) as blob:
            try:
                return blob.download_blob(offset=self._bytes[step.name]).readall()
            except HttpResponseError as error:
                if error.status_code == NOTHING_NEW:
                    return b""
                raise

    def _add(self, step: StepRun, content: bytes, *, to_the_end: bool) -> Iterator[StepLine]:
        self._bytes[step.name] += len(content)
        *lines, rest = (self._rest.get(step.name, b"") + content).split(b"\n")
        if to_the_end and rest:
            lines, rest = [*lines, rest], b""
        self._rest[step.name] = rest
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            self._last[step.display_name] = [*self._last.get(step.display_name, []), text][-KEPT_LINES:]
            yield StepLine(step.display_name, text)


def read_steps(client: "MLClient", name: str) -> list[StepRun]:
    """The steps that the job has begun, in order.

    A pipeline component is one child of the job, and its steps are that child's children.

    Raises:
        AzureError: they cannot be read.
    """
    children = list(client.jobs.list(parent_job_name=name))
    steps = [step for child in children for step in list(client.jobs.list(parent_job_name=child.name)) or [child]]
    return [StepRun(step.name or "", step.display_name or step.name or "", job_status(step)) for step in steps]


def count_logged(flow_run_id: UUID, since: datetime) -> Counter[str]:
    """Lines of each step that the flow run's log in Prefect holds since the job was made."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterTimestamp

    counted: Counter[str] = Counter()
    # The filter has a type of its own for times, which pydantic makes of ours.
    later = LogFilterTimestamp.model_validate({"after_": since})
    selection = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]), timestamp=later)
    with get_client(sync_client=True) as client:
        while records := client.read_logs(selection, limit=LOGS_AT_ONCE, offset=counted.total()):
            counted.update(record.message.partition(": ")[0] if record.name == log.name else "" for record in records)
    del counted[""]
    return counted

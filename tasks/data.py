"""Chat data, prepared once: the task around `chatdata`."""

import logging

from prefect.client.schemas import State
from prefect.states import Completed

from retune.report import PreparedData
from retune.request import Request
from tasks.showing import show_data
from tasks.step import repeatable_step

log = logging.getLogger("retune.data")


@repeatable_step
def prepare_data(request: Request) -> PreparedData | State[PreparedData]:
    """The three files that the job takes, written now, or found from an earlier run and verified; `Cached` says so.

    Raises:
        BadRequest: the source, a split or rows are unusable; every kind of bad row is named with examples.
        CloudError: `DataUnreachable`, the hub or the store did not answer.
        WaitExpired: another process has been preparing the same data for hours.
    """
    # Only here: a run that goes no further need not wait for its import.
    from chatdata.data_step import prepare

    prepared = prepare(request)
    show_data(prepared)
    for role, split in prepared.splits.items():
        left_out = f", {sum(split.dropped.values())} left out" if split.dropped else ""
        log.info("%s: %d rows%s%s", role, split.rows, left_out, " (cached)" if prepared.cached else "")
    return Completed(name="Cached", data=prepared) if prepared.cached else prepared

"""Bars on a terminal for data that is being prepared."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatdata.prepare import Progress


@contextmanager
def shown() -> "Iterator[Progress]":
    """Hears of rows and shows a bar for each file, where stderr is a terminal; the bars vanish at the end."""
    if not sys.stderr.isatty():
        yield lambda role, done, rows, fetched: None
        return
    from rich.console import Console
    from rich.filesize import decimal
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("          {task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows, {task.fields[fetched]} fetched"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def show(role: str, done: int, rows: int | None, fetched: int) -> None:
            if role not in tasks:
                tasks[role] = bars.add_task(role, total=rows, fetched="0 bytes")
            bars.update(tasks[role], completed=done, total=rows, fetched=decimal(fetched))

        yield show

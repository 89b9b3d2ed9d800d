"""The progress of a measurement: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

# In a file or a pipe, a line after so long at most: often enough to see that something happens.
LINE_SECONDS = 10.0


@contextmanager
def progress_bar(total: int, console: Console) -> Iterator[Callable[[str], None]]:
    """Gives a function that takes what comes next and moves the bar on by one.

    The bar is drawn at those calls only: a refreshing thread would take time from the contender that is being measured.
    """
    if not console.is_terminal:
        yield _lines(total, console)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task("", total=total)

        def announce(what: str) -> None:
            progress.update(task, description=what)
            progress.refresh()
            progress.advance(task)

        yield announce


def _lines(total: int, console: Console) -> Callable[[str], None]:
    done, last = 0, -LINE_SECONDS

    def announce(what: str) -> None:
        nonlocal done, last
        done += 1
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            console.print(f"{done} of {total}: {what}", markup=False, highlight=False)

    return announce

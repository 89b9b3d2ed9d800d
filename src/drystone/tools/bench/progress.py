"""The progress bar of a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress_bar(total: int, console: Console) -> Iterator[Callable[[str], None]]:
    """Gives a function that takes what comes next and moves the bar on by one.

    The bar is drawn at those calls only: a refreshing thread would take time from the contender that is being measured.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task("", total=total)

        def announce(what: str) -> None:
            progress.update(task, description=what)
            progress.refresh()
            progress.advance(task)

        yield announce

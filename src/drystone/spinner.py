"""What is being done, while it takes longer than a moment."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from drystone.errors import usable_stderr


@contextmanager
def spinner(title: str) -> Iterator[Callable[[str], None]]:
    """A spinner on the terminal that says what is being done; silent where there is none, and where the main thread has it."""
    if threading.current_thread() is not threading.main_thread() or not _on_terminal():
        with usable_stderr():
            yield lambda text: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title)
        yield lambda text: progress.update(task, description=f"drystone: {text}")


def _on_terminal() -> bool:
    """Whether there is a stderr, and it is a terminal that can be written to."""
    try:
        sys.stderr.write("")
        return sys.stderr.isatty()
    except Exception:  # None, closed, or no stream at all
        return False

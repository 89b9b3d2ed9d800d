"""What is being done, and how long it may go on, while it takes longer than a moment."""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from drystone.errors import usable_stderr

# Where there is no terminal and no notebook, it says what a spinner would.
_logger = logging.getLogger("drystone")


class Say(Protocol):
    def __call__(self, text: str, left: float | None = None) -> None:
        """What is being done now, and the seconds until all is done, where that can be said."""


_saying: ContextVar[Say | None] = ContextVar("drystone_saying", default=None)


@contextmanager
def spinner(title: str) -> Iterator[Say]:
    """Says what is being done: on the terminal or in the notebook, elsewhere to the logger "drystone". Inside another, that one
    says it."""
    outer = _saying.get()
    if outer is not None:
        yield outer
        return
    with _shown(title) if _can_show() else _logged(title) as say:
        token = _saying.set(say)
        try:
            yield say
        finally:
            _saying.reset(token)


@contextmanager
def _shown(title: str) -> Iterator[Say]:
    columns = (SpinnerColumn(), TextColumn("drystone: {task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title)
        yield lambda text, left=None: progress.update(task, description=_sentence(text, left))


@contextmanager
def _logged(title: str) -> Iterator[Say]:
    began = time.perf_counter()
    with usable_stderr():
        yield lambda text, left=None: _logger.info(_sentence(text, left))
        _logger.info("%s took %.1f s", title, time.perf_counter() - began)


def _sentence(text: str, left: float | None) -> str:
    return text if left is None else f"{text}, about {left:.0f} s left" if left >= 1 else f"{text}, less than 1 s left"


def _can_show() -> bool:
    """Whether there is a stderr, and it is a terminal that can be written to; or a notebook, with what shows a spinner there.

    Only the main thread has them: others would write in between.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        sys.stderr.write("")
        if sys.stderr.isatty():
            return True
    except Exception:  # None, closed, or no stream at all
        return False
    return Console(stderr=True).is_jupyter and importlib.util.find_spec("ipywidgets") is not None

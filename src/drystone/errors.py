"""Drystone's errors and its warning: every refusal of ours is one of these, and its message says what to do."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class DrystoneError(Exception):
    """The root of Drystone's errors: catch it to catch them all. Never raised itself."""


class CaptureError(DrystoneError):
    """Raised when a model cannot be captured as one graph, for example where its control flow depends on data."""


class UnsupportedError(DrystoneError):
    """Raised when something has no native implementation and falling back is not allowed (``strict=True``) or not possible."""


class ArtefactError(DrystoneError):
    """Raised when a saved model cannot be loaded: damaged, of an unknown version, or not fit for this machine."""


class InputError(DrystoneError):
    """Raised when a call's inputs are not what the model was prepared for: their number, structure, dtype or device."""


class ShapeError(InputError):
    """Raised when an input has another shape than the model was prepared for, beyond the dimensions declared dynamic."""


class WeightsChangedError(DrystoneError):
    """Raised by a call after the model's weights were changed: packed copies of the old ones are in use. See ``refresh``."""


class WeightsReplacedError(WeightsChangedError):
    """Raised for other parameters or submodules in the place of the model's own; most callers run the model as it is then."""


class WeightsReleasedError(DrystoneError, ValueError):
    """Raised where the plain weights are needed after ``release_originals``: by ``refresh``, by a shape that was not prepared."""


class PoolClosedError(DrystoneError):
    """Raised by a call of a ``Pool`` that was closed."""


class DrystoneWarning(UserWarning):
    """Given when Drystone goes on, but not as asked: a fallback to ATen, a tuning cache that must be rebuilt."""


# Packages whose lines a warning is never about: it names the first line below them.
_PASSED = ("drystone", "torch", "contextlib")


# A line of code: its file, its number, and the globals that are in force there.
Line = tuple[str, int, dict[str, Any]]
_line: ContextVar[Line | None] = ContextVar("line", default=None)


def users_line() -> Line:
    """The line of the user's code that led here."""
    if (line := _line.get()) is not None:
        return line
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED:
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno, frame.f_globals


@contextmanager
def led_by(line: Line) -> Iterator[None]:
    """Within, in this thread, ``line`` is the user's that led here."""
    token = _line.set(line)
    try:
        yield
    finally:
        _line.reset(token)


def warn(text: str) -> None:
    """Warn of the user's line that led here, with a ``DrystoneWarning``; not where that can't be written: stderr may be closed."""
    file, number, names = users_line()
    registry = names.setdefault("__warningregistry__", {})
    with usable_stderr():
        warnings.warn_explicit(text, DrystoneWarning, file, number, names.get("__name__"), registry)


@contextmanager
def usable_stderr() -> Iterator[None]:
    """``sys.stderr`` is None within, as for a program without one, where writing to it raises."""
    before = sys.stderr
    try:
        if before is not None:
            before.write("")
    except Exception:
        sys.stderr = None
    try:
        yield
    finally:
        if sys.stderr is None:
            sys.stderr = before

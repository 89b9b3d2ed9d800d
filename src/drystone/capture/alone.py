"""torch traces one thing at a time in a process, and changes it for all threads meanwhile: here one capture is alone, and unseen.

While it traces, torch puts functions of its own in the place of ``nn.Module.__call__``, ``builtins.max`` and others, sets flags
such as ``torch.compiler.is_compiling()``, and we bar it from printing and from warning. All of it is for the thread that captures;
the others run eager models, programs and compiled functions, and are not to notice.
"""

from __future__ import annotations

import builtins
import functools
import logging
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from threading import get_ident
from typing import Any, Literal

import torch
import torch.export._trace as torch_trace
from torch.fx import _symbolic_trace as fx_trace

from drystone.capture.whole_recurrent import whole_recurrent
from drystone.thread_flag import ThreadFlag

# A fork waits for so long for a capture in another thread to end: torch can't begin another one in a child that is in the middle of
# one. Longer only where that thread waits for something that the forking one holds.
FORK_WAITS_SECONDS = 60.0

_lock = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Within it, this thread captures and no other does. May be entered again within."""
    # Dynamo traces in the same way: its lock first, which it holds when it calls a backend.
    dynamo = getattr(sys.modules.get("torch._dynamo.convert_frame"), "compile_lock", nullcontext())
    with dynamo, _lock, ExitStack() as stack:
        stack.enter_context(_own_patches())
        stack.enter_context(_own_context("_compiling_state_context", _own_flags))
        stack.enter_context(_own_context("_override_builtin_ops", _own_builtins))
        stack.enter_context(whole_recurrent())
        yield


def only_here(new: Callable[..., Any], other: Callable[..., Any]) -> Callable[..., Any]:
    """``new`` for the thread that asks for it, ``other`` for all others."""
    owner = get_ident()

    @functools.wraps(new)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        return (new if get_ident() == owner else other)(*args, **kwargs)

    return chosen


@contextmanager
def _own_patches() -> Iterator[None]:
    """What fx patches into classes and the globals of modules, it patches for this thread alone."""
    patcher = fx_trace._Patcher
    patch, patch_method, flag = patcher.patch, patcher.patch_method, _OwnFlag()

    def own_patch(self: Any, frame: dict[str, Any], name: str, new: Any, deduplicate: bool = True) -> None:
        other = frame[name] if name in frame else getattr(builtins, name)
        patch(self, frame, name, only_here(new, other), deduplicate)

    def own_patch_method(self: Any, kind: type, name: str, new: Any, deduplicate: bool = True) -> None:
        patch_method(self, kind, name, only_here(new, getattr(kind, name)), deduplicate)
        fx_trace._is_fx_tracing_flag = flag  # type: ignore[assignment]

    with _replaced(patcher, patch=own_patch, patch_method=own_patch_method):
        yield


@contextmanager
def _own_context(name: str, own: Callable[[Any], Any]) -> Iterator[None]:
    """``own`` of torch's context manager ``name``, where this version has it, in its place."""
    original = getattr(torch_trace, name, None)
    if original is None:
        yield
        return
    with _replaced(torch_trace, **{name: own(original)}):
        yield


def _own_flags(original: Any) -> Any:
    names = ("_is_compiling_flag", "_is_exporting_flag")

    @contextmanager
    def context() -> Iterator[None]:
        flag = _OwnFlag()
        try:
            with original(), _replaced(torch.compiler, **dict.fromkeys(names, flag)):
                yield
        finally:
            flag.owner = None  # another thread that compiles may have kept it, and put it back later

    return context


class _OwnFlag:
    """True in the thread that made it.

    fx sets a flag of its own a moment before it patches. Compiled functions of other threads would raise in between, unless told
    that they are compiling.
    """

    def __init__(self) -> None:
        self.owner: int | None = get_ident()

    def __bool__(self) -> bool:
        return get_ident() == self.owner or (self.owner is not None and fx_trace._is_fx_tracing_flag is True)

    def __or__(self, other: Any) -> bool:  # as libraries combine it with what they see themselves
        return bool(self) or bool(other)

    __ror__ = __or__


def _own_builtins(original: Any) -> Any:
    @contextmanager
    def context() -> Iterator[None]:
        before: tuple[Any, ...] = builtins.max, builtins.min, math.pow
        with original():
            now: tuple[Any, ...] = builtins.max, builtins.min, math.pow
            most, least, power = (only_here(new, other) for new, other in zip(now, before, strict=True))
            with _replaced(builtins, max=most, min=least), _replaced(math, pow=power):
                yield

    return context


@contextmanager
def _replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def silent() -> Iterator[None]:
    """This thread's ``sys.stderr`` goes nowhere."""
    before = sys.stderr
    sys.stderr = muted = _Muted(before)  # type: ignore[assignment]
    try:
        yield
    finally:
        if sys.stderr is muted:  # type: ignore[comparison-overlap]
            sys.stderr = before


class _Muted:
    """A stream for all threads but the one that made it."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._owner = stream, get_ident()

    def write(self, text: str) -> int:
        if self._stream is None or get_ident() == self._owner:
            return len(text)
        return int(self._stream.write(text))

    def flush(self) -> None:
        if self._stream is not None and get_ident() != self._owner:
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def own_warnings(action: Literal["error", "ignore"], message: str = "", category: type[Warning] = Warning) -> Iterator[None]:
    """A filter for what this thread warns of. ``warnings.catch_warnings`` would put back the filters of all."""
    pattern = _OwnPattern(message)
    entry: Any = action, pattern, category, None, 0
    before = warnings.filters
    before.insert(0, entry)  # type: ignore[attr-defined]
    warnings._filters_mutated()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        pattern.owner = None  # another thread may have a copy of the filters
        for filters in (before, warnings.filters):
            with suppress(ValueError):
                filters.remove(entry)  # type: ignore[attr-defined]
        warnings._filters_mutated()  # type: ignore[attr-defined]


class _OwnPattern:
    """Stands for a regular expression in a filter of warnings."""

    def __init__(self, text: str) -> None:
        self.owner: int | None = get_ident()
        self._pattern = re.compile(text, re.IGNORECASE)

    def match(self, text: str) -> bool:
        return get_ident() == self.owner and self._pattern.match(text) is not None


@contextmanager
def own_silence(*names: str) -> Iterator[None]:
    """What this thread says to these loggers is not heard."""
    owner = get_ident()

    def of_others(record: logging.LogRecord) -> bool:
        return get_ident() != owner

    loggers = list(map(logging.getLogger, names))
    for logger in loggers:
        logger.addFilter(of_others)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(of_others)


# Of a thread that works for itself while others run the same models.
beside_others = ThreadFlag()


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Afterwards the next random numbers are those that came next before; not beside others, who would be given theirs again."""
    with nullcontext() if beside_others else torch.random.fork_rng(devices=[]):
        yield


_held = False


def _before_fork() -> None:
    global _held
    _held = _lock.acquire(timeout=FORK_WAITS_SECONDS)


def _after_fork() -> None:
    if _held:
        _lock.release()


def _in_child() -> None:
    global _lock
    if _held:
        _lock.release()
    else:
        _lock = threading.RLock()
    if dynamo := sys.modules.get("torch._dynamo.convert_frame"):
        setattr(dynamo, "compile_lock", threading.RLock())  # noqa: B010 (mypy knows no attributes of a module found so)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)

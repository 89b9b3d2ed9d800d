"""What ``drystone.enable()`` changes in torch, as a whole: all that ``enable()`` and open ``enabled()`` blocks ask for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from drystone.eager import operators, pages, torchscript
from drystone.errors import warn


@dataclass(frozen=True)
class Enabled:
    """What is in place of torch's own."""

    operators: frozenset[str] = frozenset()  # of aten
    reuse_pages: bool = False
    torchscript: bool = False


# What enable() asks for, and each open enabled() block, by an object of its own. Changed under the lock, which a fork waits for.
_asked: dict[object, Enabled] = {}
_enable = object()
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def state() -> Enabled:
    return Enabled(operators.switched_on(), pages.state().on, torchscript.is_replaced())


def enable(only: Iterable[str] | None, reuse_pages: bool, hook: bool, optimize: Callable[..., Any]) -> None:
    """Ask for this, instead of what the last call of this function asked for. Where it raises, nothing has changed.

    Raises:
        ValueError: drystone has no operator of a name in ``only``.
    """
    _ask(_enable, only, reuse_pages, hook, optimize)


def disable(optimize: Callable[..., Any]) -> None:
    """Take back what ``enable`` asked for."""
    _take_back(_enable, optimize)


@contextmanager
def enabled(only: Iterable[str] | None, reuse_pages: bool, hook: bool, optimize: Callable[..., Any]) -> Iterator[None]:
    """Ask for this until the block ends."""
    block = object()
    _ask(block, only, reuse_pages, hook, optimize)
    try:
        yield
    finally:
        _take_back(block, optimize)


def _ask(who: object, only: Iterable[str] | None, reuse_pages: bool, hook: bool, optimize: Callable[..., Any]) -> None:
    with _lock:
        chosen, complaints = operators.choose(only), []
        limit = pages.limit() if reuse_pages else 0
        if chosen or limit:
            if (reason := operators.why_not()) is not None:
                if chosen:
                    complaints.append(f"torch's own operators stay: {reason}")
                chosen, limit = frozenset(), 0
            elif missing := operators.replace(chosen):
                complaints.append(operators.why_missing(missing))
        if limit and not pages.can_be_kept():
            complaints.append("pages are not reused: torch's allocator is not one that drystone knows")
            limit = 0
        for complaint in complaints:  # where warnings are errors, before anything has changed
            warn(complaint)
        _asked[who] = Enabled(chosen, limit > 0, hook)
        if limit:
            pages.keep(limit)
        _turn(optimize)


def _take_back(who: object, optimize: Callable[..., Any]) -> None:
    with _lock:
        _asked.pop(who, None)
        _turn(optimize)


def _turn(optimize: Callable[..., Any]) -> None:
    """Just what is asked for on, all else off."""
    asked = _asked.values()
    operators.switch_on(frozenset().union(*[one.operators for one in asked]))
    if not any(one.reuse_pages for one in asked):
        pages.release()
    if any(one.torchscript for one in asked):
        torchscript.replace(optimize)
    else:
        torchscript.restore()

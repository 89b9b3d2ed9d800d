"""What a fork would leave unusable in the child: OpenMP's threads, which do not live on there, and locks that other threads held.

GNU OpenMP keeps the threads of a team for the next one. A forked child still has the note of them and would wait for them for
ever, in torch's operators too. So they are let go of before the fork, and both processes start new ones when they need them.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from contextlib import suppress
from types import TracebackType
from weakref import WeakSet

_SOFT = 1  # omp_pause_soft: what the program has set is kept
_RESOLVE_LOADED = getattr(os, "RTLD_NOLOAD", 0) | getattr(os, "RTLD_LAZY", 0)

_used = _paused = _forked = False
_locks: WeakSet[Lock] = WeakSet()


class Lock:
    """``with lock:``, which a forked child finds free, whichever thread of its parent was inside."""

    def __init__(self, reentrant: bool = False) -> None:
        self._kind = threading.RLock if reentrant else threading.Lock
        self._renew()
        _locks.add(self)

    def _renew(self) -> None:
        self._lock = self._kind()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(RuntimeError):  # the child of a fork within
            self._lock.release()


def note_use() -> None:
    """Called before a program runs: from then on OpenMP has threads."""
    global _used
    _used = True


def forked() -> bool:
    """Whether this is a forked child that would wait for OpenMP's threads in vain."""
    return _forked


def _before() -> None:
    global _paused
    _paused = "torch" not in sys.modules or pause_openmp()


def pause_openmp() -> bool:
    """Let go of the threads that OpenMP keeps for this one. False where its library has no function for it (torch 2.6)."""
    try:
        return bool(ctypes.CDLL("libgomp.so.1", mode=_RESOLVE_LOADED).omp_pause_resource_all(_SOFT) == 0)
    except (OSError, AttributeError):
        return False


def _in_child() -> None:
    global _forked
    _forked = _used and not _paused
    for lock in list(_locks):
        lock._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)

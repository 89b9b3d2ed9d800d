"""A flag that each thread has for itself."""

from __future__ import annotations

import threading


class ThreadFlag(threading.local):
    """``with flag:`` sets it for this thread; ``bool(flag)`` is whether the thread is within. May be nested."""

    _depth = 0

    def __bool__(self) -> bool:
        return self._depth > 0

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1

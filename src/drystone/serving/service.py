"""What pools have in common: a bounded queue of requests, and threads that serve them until the pool is closed."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from drystone.errors import DrystoneError, InputError, PoolClosedError, UnsupportedError

from .statistics import Recorder

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(eq=False, kw_only=True)
class Request:
    """``deadline``: of ``time.monotonic``, for the begin of the computation."""

    deadline: float | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline


R = TypeVar("R", bound=Request)


class Service(Generic[R]):
    """``_queue`` and ``_closed`` belong to whoever holds ``_changed``."""

    def __init__(self, max_queue: int) -> None:
        self._max_queue = max_queue
        self._queue: deque[R] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._process = os.getpid()
        self._threads: list[threading.Thread] = []
        self._recorder = Recorder()
        atexit.register(self.close)

    def close(self) -> None:
        """Refuse new requests, answer those that wait, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._process == os.getpid():
            for thread in self._threads:
                thread.join()
        atexit.unregister(self.close)

    def __reduce__(self) -> Any:
        raise UnsupportedError(
            f"a {type(self).__name__} has threads, and can't be copied or pickled: copy or pickle its model, and make a pool of it "
            "there"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _end(self, deadline: float | None) -> float | None:
        """The time that a request's deadline, in seconds from now, comes at."""
        name = type(self).__name__
        if self._process != os.getpid():
            raise DrystoneError(f"{name}: this is a forked process, in which the pool's threads do not live; make a pool in it")
        if deadline is not None and deadline <= 0:
            raise InputError(f"{name}: the deadline is {deadline} s, and must be above 0")
        return None if deadline is None else time.monotonic() + deadline

    def _admit(self, request: R, wait: bool = True) -> bool:
        name = type(self).__name__
        with self._changed:
            while True:
                if self._closed:
                    raise PoolClosedError(f"{name}: it is closed")
                if len(self._queue) < self._max_queue:
                    self._queue.append(request)
                    self._changed.notify_all()
                    return True
                if not wait:
                    return False
                left = None if request.deadline is None else request.deadline - time.monotonic()
                if left is not None and left <= 0:
                    self._recorder.count(late=1)
                    raise TimeoutError(f"{name}: {self._max_queue} requests wait before this one, whose deadline has passed")
                self._changed.wait(left)

    async def _admitted(self, request: R) -> None:
        """Once there is room; the event loop goes on meanwhile."""
        if not self._admit(request, wait=False):
            await asyncio.to_thread(self._admit, request)


def at_least_one(pool: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{pool}: {name} is {value}, and must be 1 at least")

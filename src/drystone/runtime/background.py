"""Preparation that calls do not wait for: in a thread of its own, one thing after another, while eager answers them."""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakSet

import torch

from drystone import native
from drystone.capture.alone import beside_others
from drystone.capture.isolated import cloned_call
from drystone.errors import DrystoneWarning, Line, WeightsChangedError, led_by, users_line, warn
from drystone.forks import Lock
from drystone.thread_flag import ThreadFlag

# What may wait to be prepared. Calls that come when there is more ask again later.
MOST = 16
# How long the end of the interpreter waits for what is being prepared to be left.
EXIT_SECONDS = 10.0

_lock = Lock()  # of what follows, for a moment
_queue: deque[Callable[[], None]] = deque()
_worker: threading.Thread | None = None
_all: WeakSet[Background] = WeakSet()
# Of a thread whose calls wait for what they need.
waiting = ThreadFlag()


def waits() -> bool:
    """Whether this thread makes itself what its calls need."""
    return bool(beside_others or waiting)


class Background:
    """What one model has prepared, each thing once."""

    def __init__(self, strict: bool) -> None:
        """``strict``: raise for what could not be prepared, where it is asked for again."""
        self.strict = strict
        self.preparing: dict[Hashable, str] = {}  # what is, and what it is for
        self.failed: dict[Hashable, Exception] = {}
        _all.add(self)

    def ask(self, key: Hashable, purpose: str, args: Any, kwargs: Any, make: Callable[[Any, Any], object]) -> None:
        """Have ``make(args, kwargs)`` run for a copy of this call, which eager has answered. It puts its result where calls look.

        A failure is warned of, the first of all, and not tried again.
        """
        if self.strict and key in self.failed:
            raise self.failed[key]
        if not self._is_wanted(key):
            return
        call = partial(make, *cloned_call(args, kwargs))
        job = partial(self._run, key, purpose, call, users_line(), torch.get_num_threads(), torch.is_inference_mode_enabled())
        with _lock:
            if self._is_wanted(key):  # no other thread has asked meanwhile
                self.preparing[key] = purpose
                _enqueue(job)

    def _is_wanted(self, key: Hashable) -> bool:
        return key not in self.preparing and key not in self.failed and len(_queue) < MOST

    def _run(self, key: Hashable, purpose: str, make: Callable[[], object], line: Line, threads: int, inference: bool) -> None:
        native.set_threads(threads)  # this thread's, which torch asks for too
        try:
            with led_by(line), torch.inference_mode(inference), torch.no_grad():
                try:
                    make()
                except WeightsChangedError:  # meanwhile: it is asked for again
                    pass
                except Exception as error:
                    first = not self.failed
                    self.failed[key] = error
                    if first:
                        with suppress(DrystoneWarning):  # where warnings are errors, there is nobody to catch it
                            warn(f"eager runs {purpose}, as preparing a program in the background has failed: {error}")
        finally:
            self.preparing.pop(key, None)


def _enqueue(job: Callable[[], None]) -> None:
    """With the lock held."""
    global _worker
    _queue.append(job)
    if _worker is None or not _worker.is_alive():
        _worker = threading.Thread(target=_work, name="drystone", daemon=True)
        _worker.start()


def _work() -> None:
    global _worker
    with beside_others:
        while True:
            with _lock:
                if not _queue:
                    _worker = None
                    return
                job = _queue.popleft()
            job()
            del job  # with all that it holds


def _end() -> None:
    """Leave what is being prepared: Python would stop the thread in the midst of torch's code, and the process might die of it."""
    _queue.clear()
    worker, until = _worker, time.monotonic() + EXIT_SECONDS
    while worker is not None and worker.ident is not None and worker.is_alive() and time.monotonic() < until:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident), ctypes.py_object(SystemExit))
        worker.join(0.1)


atexit.register(_end)


def _in_child() -> None:
    """The thread does not live on there. What it was at is asked for again."""
    global _worker
    _worker = None
    _queue.clear()
    for background in list(_all):
        background.preparing.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

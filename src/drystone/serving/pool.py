"""``drystone.Pool``: a model on several streams, each of which computes on cores of its own."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch

from drystone.cores import Core, cores, divide, within_quota
from drystone.errors import InputError

from .batching import Form, Shapes, Sliced, merged, parted, shapes, sliced
from .service import Request, Service, at_least_one
from .statistics import PoolStatistics

# Forms whose results are known. Requests of more are seldom merged.
_FORMS = 4096


@dataclass(eq=False)
class _Request(Request):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sliced: Sliced | None
    future: Future[Any] = field(default_factory=Future)


class Pool(Service[_Request]):
    """Calls of ``model`` from many threads, or from asyncio, on ``streams`` threads with cores of their own.

    >>> with Pool(torch.nn.Linear(4, 2).eval(), streams=1, cores_per_stream=1) as pool:
    ...     pool(torch.ones(1, 4)).shape
    torch.Size([1, 2])

    ``pool(x)`` takes what the model takes and returns its result, without gradients; inside a coroutine it is to be awaited:
    ``await pool(x)``. Requests are served in the order they come. A model that raises does so for its own request.

    With ``max_batch`` above 1, waiting requests of the same shapes run as one call, merged along the first axis of their tensors:
    one, two, four or more at a time, as few sizes are quickly known. Each gets its rows of the result. Where a tensor of it has
    none, requests run one by one. A model whose rows depend on each other must not be served so.

    Args:
        model: a module: from ``optimize``, changed by ``optimize_``, or any other that may be called from several threads.
        streams: how many requests, or batches, are computed at a time.
        cores_per_stream: cores, and threads, of each. Default: all that this process may use, divided.
        max_batch: rows of a batch at most.
        max_wait_ms: how long a request waits for others to share its batch with, in milliseconds.
        max_queue: how many requests may wait. Further callers are held until there is room.
        pin: hold each stream to its cores. Without it the system moves threads as it likes.

    Raises:
        InputError: an argument is out of range, or there are not so many cores.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        streams: int = 2,
        cores_per_stream: int | None = None,
        *,
        max_batch: int = 1,
        max_wait_ms: float = 2.0,
        max_queue: int = 1024,
        pin: bool = True,
    ) -> None:
        if not callable(model):
            raise InputError(f"Pool: expected a module, got {type(model).__name__}")
        at_least_one("Pool", streams=streams, max_batch=max_batch, max_queue=max_queue)
        if max_wait_ms < 0:
            raise InputError(f"Pool: max_wait_ms is {max_wait_ms}, and must be 0 at least")
        places = _places(streams, cores_per_stream)
        super().__init__(max_queue)
        self._model, self._max_batch, self._max_wait = model, max_batch, max_wait_ms / 1e3
        self._alone: dict[Form, Shapes | None] = {}  # of the result of one request; None where requests can't be merged
        threads = torch.get_num_threads()
        for number, place in enumerate(places):
            ready = threading.Event()
            name = f"drystone-stream-{number}"
            thread = threading.Thread(target=self._run, args=(place, pin, ready), name=name, daemon=True)
            thread.start()
            ready.wait()
            self._threads.append(thread)
        torch.set_num_threads(threads)  # what threads that start later begin with

    def __call__(self, *args: Any, deadline: float | None = None, **kwargs: Any) -> Any:
        """The model's result for these arguments.

        Args:
            deadline: seconds within which the computation must have begun.

        Raises:
            TimeoutError: it had not.
            PoolClosedError: the pool is closed.
        """
        request = self._request(args, kwargs, deadline)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._admit(request)
            return request.future.result()
        return self._awaited(request)

    def submit(self, *args: Any, deadline: float | None = None, **kwargs: Any) -> Future[Any]:
        """A future of the result. Returns at once, unless the queue is full."""
        request = self._request(args, kwargs, deadline)
        self._admit(request)
        return request.future

    async def _awaited(self, request: _Request) -> Any:
        await self._admitted(request)
        return await asyncio.wrap_future(request.future)

    def statistics(self) -> PoolStatistics:
        """Counts and latencies."""
        return PoolStatistics(queued=len(self._queue), **self._recorder.read("requests", "failed", "late", "batches"))

    def _request(self, args: tuple[Any, ...], kwargs: dict[str, Any], deadline: float | None) -> _Request:
        end = self._end(deadline)
        return _Request(args, kwargs, sliced((args, kwargs)) if self._max_batch > 1 else None, deadline=end)

    # -- streams -------------------------------------------------------------------------------------------------------------

    def _run(self, place: tuple[Core, ...], pin: bool, ready: threading.Event) -> None:
        if pin:
            os.sched_setaffinity(threading.get_native_id(), {core.number for core in place})
        torch.get_num_threads()  # sets this thread's number from that of the process, once
        torch.set_num_threads(len(place))  # OpenMP's threads of this one, which start on its cores
        ready.set()
        with torch.no_grad():
            while (requests := self._next()) is not None:
                self._serve(requests)

    def _next(self) -> list[_Request] | None:
        """The requests of the next call, all of one form; empty where another stream took them, None once the pool is closed."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                self._changed.wait()
            first = self._queue[0]
            many = self._most(first)
            if many > 1 and not self._closed:
                end = first.since + self._max_wait
                while self._queue and self._queue[0] is first and len(self._like(first, many)) < many and not self._closed:
                    left = end - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                if not self._queue or self._queue[0] is not first:
                    return []
            taken = self._like(first, many)
            taken = taken[: 1 << (len(taken).bit_length() - 1)]  # few sizes, as each has a program
            for request in taken:
                self._queue.remove(request)
            self._changed.notify_all()
            return taken

    def _most(self, request: _Request) -> int:
        """How many like it may share its call. The first of its form runs alone, which tells the shapes of its result."""
        if request.sliced is None or self._alone.get(request.sliced.form) is None:
            return 1
        return max(self._max_batch // max(request.sliced.rows, 1), 1)

    def _like(self, first: _Request, most: int) -> list[_Request]:
        found = [first]
        if most > 1 and first.sliced:
            for request in list(self._queue)[1:]:
                if len(found) == most:
                    break
                if request.sliced and request.sliced.form == first.sliced.form:
                    found.append(request)
        return found

    def _serve(self, requests: list[_Request]) -> None:
        ready = []
        for request in requests:
            if request.late:
                self._recorder.count(late=1)
                request.future.set_exception(TimeoutError("Pool: the deadline passed before the computation began"))
            elif request.future.set_running_or_notify_cancel():
                ready.append(request)
        if len(ready) > 1 and self._together(ready):
            return
        for request in ready:
            self._recorder.count(batches=1)
            try:
                result = self._model(*request.args, **request.kwargs)
                if request.sliced:
                    if len(self._alone) >= _FORMS:
                        self._alone.clear()
                    self._alone.setdefault(request.sliced.form, shapes(result))
            except BaseException as error:
                self._finish(request, error=error)
            else:
                self._finish(request, result)

    def _together(self, requests: list[_Request]) -> bool:
        """Whether one call gave all their results. If it raised, each is to run alone: one of them may be at fault."""
        calls = [request.sliced for request in requests if request.sliced]
        form, alone = calls[0].form, self._alone.get(calls[0].form)
        if alone is None:
            return False
        try:
            args, kwargs = merged(calls)
            results = parted(self._model(*args, **kwargs), len(calls), alone)
        except Exception:
            return False
        if results is None:
            self._alone[form] = None
            return False
        self._recorder.count(batches=1)
        for request, result in zip(requests, results, strict=True):
            self._finish(request, result)
        return True

    def _finish(self, request: _Request, result: Any = None, error: BaseException | None = None) -> None:
        self._recorder.count(**{"requests" if error is None else "failed": 1})
        self._recorder.took(time.monotonic() - request.since)
        if error is not None:
            request.future.set_exception(error)
        else:
            request.future.set_result(result)


def _places(streams: int, each: int | None) -> list[tuple[Core, ...]]:
    usable = within_quota(cores())
    try:
        return divide(usable, streams, each)
    except ValueError as error:
        wanted = f"{streams} streams of {1 if each is None else each} cores each"
        raise InputError(f"Pool: {wanted}, and this process may use {len(usable)}") from error

"""A capture is alone in its process, and other threads do not see it."""

from __future__ import annotations

import builtins
import io
import logging
import math
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from drystone.capture.alone import alone, own_warnings
from drystone.capture.export import capture
from drystone.preparer import programs_of

Work = Callable[[], Any]
# torch 2.6 knows of compiling alone, and sets that for all threads where it can't be replaced.
FLAGS = (torch.compiler.is_compiling, torch.compiler.is_exporting) if hasattr(torch.compiler, "is_exporting") else ()


def waiting() -> tuple[nn.Module, threading.Event, threading.Event]:
    """A model whose forward, while it is traced, sets the first event and waits for the second."""
    inside, go_on = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if type(x) is not torch.Tensor:
                inside.set()
                go_on.wait(60)
            return self.inner(x).relu()

    return Waits().eval().requires_grad_(False), inside, go_on


@contextmanager
def capturing() -> Iterator[None]:
    """Within it, another thread is in the middle of a capture."""
    model, inside, go_on = waiting()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            capture(model, (torch.zeros(2, 4),))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert inside.wait(60)
        yield
    finally:
        go_on.set()
        thread.join(60)
    assert not failures


class Asks(nn.Module):
    """Gives what torch, Python and its own children say while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> Any:
        said = [bool(flag()) for flag in FLAGS], type(self.inner), type(self.scale), max(1, 2), type(math.pow(2, 3))
        return said, self.inner(x) * self.scale


def test_an_eager_model_in_another_thread_notices_nothing() -> None:
    model, x = Asks().eval().requires_grad_(False), torch.randn(2, 4)
    said, want = model(x)
    with capturing():
        said_meanwhile, got = model(x)
    assert said_meanwhile == said
    assert not any(said[0])
    assert type(got) is torch.Tensor
    assert torch.equal(got, want)


@pytest.mark.parametrize("how", ["program", "packed", "compiled"])
def test_known_shapes_run_beside_a_capture(how: str) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval().requires_grad_(False), torch.randn(2, 4)
    if how == "compiled":
        fast: Any = torch.compile(model, backend="drystone", options={"tuning": "estimate"})
    else:
        fast = drystone.optimize(model, x, tuning="estimate", capture="eager" if how == "packed" else "auto")
    with torch.no_grad():
        want = fast(x)
        with capturing():
            assert torch.equal(fast(x), want)
    torch.testing.assert_close(want, model(x))


def test_what_other_threads_print_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with capturing():
        print("a line of the log", file=sys.stderr)
    assert stream.getvalue() == "a line of the log\n"
    assert sys.stderr is stream


def test_what_other_threads_warn_of_and_log_is_heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(warnings.filters)
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    capture_beside = capturing()
    capture_beside.__enter__()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logger.error("a line of the log")
        capture_beside.__exit__(None, None, None)
        with pytest.raises(UserWarning, match="heard"):
            warnings.warn("heard", UserWarning, stacklevel=1)
    assert warnings.filters == before
    assert "a line of the log" in caplog.messages


def test_a_filter_of_one_thread() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heard: list[bool] = []

        def work() -> None:
            try:
                warnings.warn("said by both", UserWarning, stacklevel=1)
                heard.append(False)
            except UserWarning:
                heard.append(True)

        with own_warnings("ignore", "said by"):
            work()
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        work()
        assert heard == [False, True, True]


class Stops(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt


def test_all_is_as_it_was_after_a_capture_and_after_an_interrupted_one() -> None:
    def state() -> Any:
        flags = [flag() for flag in FLAGS]
        kernels = [dict(op.py_kernels) for op in (torch.ops.aten.lstm.input, torch.ops.aten.gru.input)]
        return nn.Module.__call__, nn.Module.__getattr__, builtins.max, builtins.min, math.pow, sys.stderr, flags, kernels

    before = state()
    for model in (nn.Linear(4, 4).eval(), Stops().eval()):
        try:
            drystone.optimize(model, torch.zeros(2, 4), tuning="estimate")
        except KeyboardInterrupt:
            assert isinstance(model, Stops)
        assert state() == before
    drystone.optimize(nn.Linear(4, 4).eval(), torch.zeros(2, 4), tuning="estimate")


def test_an_interrupted_planning_leaves_the_module_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(4, 4).eval().requires_grad_(False)
    fast, x = drystone.optimize(model, torch.randn(2, 4), tuning="estimate"), torch.randn(3, 4)

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(programs_of(fast).source, "graph_for", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fast(x)
    torch.testing.assert_close(fast(x), model(x))


def test_one_capture_at_a_time_and_again_within() -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with alone(), alone():
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


@pytest.mark.parametrize("how", ["program", "parts", "packed", "compiled", "new shape"])
def test_different_models_in_different_threads(how: str) -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            return self.last(y) if y.sum() > -1e9 else y

    def work(i: int) -> None:
        torch.manual_seed(i)
        model = (Parts() if how == "parts" else nn.Sequential(nn.Linear(8, 8 + i), nn.ReLU())).eval().requires_grad_(False)
        x = torch.randn(2 + i, 8)
        if how == "compiled":
            fast: Any = torch.compile(model, backend="drystone", options={"tuning": "estimate"})
        else:
            fast = drystone.optimize(model, x, tuning="estimate", capture="eager" if how == "packed" else "auto")
        start.wait(60)
        with torch.no_grad():
            for given in (x, torch.randn(7, 8)) if how == "new shape" else (x,):
                torch.testing.assert_close(fast(given), model(given))

    start = threading.Barrier(3)
    failures: list[BaseException] = []

    def guarded(i: int) -> None:
        try:
            work(i)
        except BaseException as error:
            start.abort()
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures

"""Forked children: whatever they do works or raises, and nothing hangs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import assert_close
from children import child
from drystone import forks
from drystone.preparer import programs_of


def refused(said: str) -> bool:
    """Where OpenMP can't let go of its threads before a fork, more than one is refused in the child."""
    return not forks.pause_openmp() and said.startswith("DrystoneError: this process was forked")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval().requires_grad_(False)


@pytest.mark.parametrize(("threads", "where"), [(1, "main"), (2, "main"), (2, "thread")])
def test_a_child_does_all_that_its_parent_does(model: nn.Module, tmp_path: Path, threads: int, where: str) -> None:
    torch.set_num_threads(2)
    x = torch.randn(2, 8, 64, 64)
    fast = drystone.optimize(model, x, tuning="estimate")
    drystone.save(fast, tmp_path / "m")
    want = fast(x)

    def work() -> None:
        torch.set_num_threads(threads)
        torch.testing.assert_close(fast(x), want)
        assert_close(fast(x[:1]), want[:1])
        fast.refresh()
        fast.prepare(x)
        assert_close(drystone.load(tmp_path / "m")(x), want)
        for capture in ("auto", "eager"):
            assert_close(drystone.optimize(model, x, tuning="estimate", capture=capture)(x), want)

    said: list[str] = []
    if where == "main":
        said.append(child(work))
    else:

        def forks_in_a_thread() -> None:
            model(x)  # OpenMP's threads are each caller's own
            said.append(child(work))

        thread = threading.Thread(target=forks_in_a_thread)
        thread.start()
        thread.join()
    assert said == ["ok"] or (threads > 1 and refused(said[0]))
    torch.testing.assert_close(fast(x), want)  # the parent has its threads again


class Slow(nn.Module):
    """Takes a moment to trace, so that a fork falls into the middle of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.inside = threading.Event()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inside.set()
        time.sleep(0.2)
        return self.inner(x)


def test_a_fork_beside_a_capture() -> None:
    slow, other, x = Slow().eval().requires_grad_(False), nn.Linear(4, 4).eval().requires_grad_(False), torch.randn(2, 4)
    call = nn.Module.__call__
    thread = threading.Thread(target=lambda: drystone.optimize(slow, x, tuning="estimate"))
    thread.start()
    assert slow.inside.wait(60)

    def work() -> None:
        torch.set_num_threads(1)
        assert nn.Module.__call__ is call
        torch.testing.assert_close(drystone.optimize(other, x, tuning="estimate")(x), other(x))

    said = child(work)
    thread.join()
    assert said == "ok"


def test_a_fork_beside_a_planning(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that plans is not in the child, where others plan what it would have."""
    x = torch.randn(2, 8, 16, 16)
    fast = drystone.optimize(model, x, tuning="estimate")
    source = programs_of(fast).source
    graph_for, planning, go_on = source.graph_for, threading.Event(), threading.Event()

    def slowly(*args: Any) -> Any:
        planning.set()
        go_on.wait(60)
        return graph_for(*args)

    monkeypatch.setattr(source, "graph_for", slowly)
    thread = threading.Thread(target=lambda: fast(x[:1]))
    thread.start()
    assert planning.wait(60)

    def work() -> None:
        torch.set_num_threads(1)
        monkeypatch.setattr(source, "graph_for", graph_for)
        fast(x), fast(x[:1])

    said = child(work)
    fast(x)  # known: waits for nothing
    assert thread.is_alive()
    go_on.set()
    thread.join()
    assert said == "ok"


def test_a_lock_is_free_in_a_child_and_bears_a_fork_within() -> None:
    lock = forks.Lock()

    def take() -> None:
        with lock:
            pass

    with lock:
        assert child(take) == "ok"
    take()

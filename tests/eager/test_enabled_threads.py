"""Operators under torch's names in several Python threads, with thread counts that change, and in forked processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from operator_calls import CALLS, operand
from torch.utils import _pytree as pytree

import drystone
import fresh_process
from children import child
from drystone.eager import operators, pages

WORKERS = 4


def volumes(size: int, channels: int) -> Callable[[], torch.Tensor]:
    generator = torch.Generator().manual_seed(size * 100 + channels)
    x, weight = torch.randn(1, 8, size, size, size, generator=generator), torch.randn(channels, 8, 3, 3, 3, generator=generator)
    return lambda: F.conv3d(x, weight, padding=1)


def large(value: int) -> Callable[[], torch.Tensor]:
    """In memory that calls hand to each other."""
    return lambda: torch.full((1 << 22,), value, dtype=torch.int32).add_(1)


def mixed_calls() -> list[Callable[[], torch.Tensor]]:
    """Of several results the first."""
    calls = [lambda call=call, name=name: pytree.tree_leaves(call(operand(name)))[0] for name, (call, _) in CALLS.items()]
    calls += [volumes(size, channels) for size in range(9, 14) for channels in (16, 24)]
    return calls + [large(value) for value in range(4)]


@pytest.mark.parametrize("openmp_threads", [1, 2])
def test_calls_from_several_threads_at_once(openmp_threads: int) -> None:
    """Each worker begins at another call, and plans of convolutions are made while others look for theirs."""
    calls = mixed_calls()
    expected = [call() for call in calls]
    drystone.enable()
    start = threading.Barrier(WORKERS)

    def worker(rank: int) -> list[int]:
        torch.set_num_threads(openmp_threads)
        start.wait()
        order = [(i * (2 * rank + 1) + 7 * rank) % len(calls) for i in range(3 * len(calls))]
        return [i for i in order if not torch.allclose(calls[i](), expected[i], rtol=1e-4, atol=1e-4)]

    with ThreadPoolExecutor(WORKERS) as pool:
        assert not any(pool.map(worker, range(WORKERS)))


def test_switched_beside_calls() -> None:
    """Results are right whichever kernel serves, and whoever leaves a ``with`` switches nobody else's off."""
    calls = mixed_calls()
    expected = [call() for call in calls]
    drystone.enable()  # enters the operators in torch's table, before other threads call them
    drystone.disable()
    stop = threading.Event()

    def worker(rank: int) -> list[int]:
        torch.set_num_threads(1)
        wrong = []
        while not stop.is_set():
            wrong += [i for i, call in enumerate(calls) if not torch.allclose(call(), expected[i], rtol=1e-4, atol=1e-4)]
        return wrong

    def switcher(only: list[str]) -> int:
        left_out = 0
        for _ in range(100):
            with drystone.enabled(only):
                left_out += not operators.switched_on() >= set(only)
        return left_out

    with ThreadPoolExecutor(2 + 2) as pool:
        workers = [pool.submit(worker, rank) for rank in range(2)]
        switchers = [pool.submit(switcher, only) for only in (["softmax", "layer_norm"], ["softmax", "convolution", "topk"])]
        try:
            left_out = [switching.result() for switching in switchers]
        finally:
            stop.set()
        assert not any(working.result() for working in workers)
    assert left_out == [0, 0]
    assert not operators.switched_on()


def test_the_number_of_threads_changes_between_calls() -> None:
    drystone.enable()
    calls = mixed_calls()
    torch.set_num_threads(1)
    expected = [call() for call in calls]
    for threads in (3, 1, 2, 4, 2):
        torch.set_num_threads(threads)
        for call, want in zip(calls, expected, strict=True):
            torch.testing.assert_close(call(), want, rtol=1e-4, atol=1e-4)


def test_after_a_fork_calls_are_right() -> None:
    drystone.enable()
    calls = mixed_calls()
    expected = [call() for call in calls]

    def work() -> None:
        for call, want in zip(calls, expected, strict=True):
            torch.testing.assert_close(call(), want, rtol=1e-4, atol=1e-4)

    assert child(work, 20, threads=1) == "ok"  # OpenMP's others are the parent's


FORKS_WHILE_OTHERS_CALL = """
import os, signal, sys, threading, torch, drystone
import torch.nn.functional as F
torch.set_num_threads(1)
drystone.enable()
weight = torch.randn(16, 8, 3, 3, 3)
size, stop = 8, False

def allocate():
    while not stop:
        torch.empty(5 << 20)

def convolve():  # another problem at each call
    global size
    while not stop:
        size = size + 1 if size < 60 else 8
        F.conv3d(torch.ones(1, 8, 8, 8, size), weight, padding=1)

threads = [threading.Thread(target=f) for f in (allocate, allocate, convolve)]
for thread in threads:
    thread.start()
try:
    for _ in range(60):
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            torch.empty(5 << 20)
            F.conv3d(torch.ones(1, 8, 8, 8, size), weight, padding=1)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended == 0, f"a child ended with {ended}, where {-signal.SIGALRM} is one that hangs"
finally:
    stop = True
    for thread in threads:
        thread.join()
"""


def test_a_fork_while_other_threads_call() -> None:
    """No child waits for what a thread of its parent held."""
    fresh_process.run(FORKS_WHILE_OTHERS_CALL, filter="ignore")


def test_pages_after_a_fork() -> None:
    drystone.enable(only=[])
    torch.empty(1 << 23)
    kept = pages.state().kept
    assert kept > 0

    def in_child() -> None:
        reused = pages.state().reused
        torch.empty(1 << 23)
        drystone.disable()
        assert pages.state().kept == 0 and reused < pages.state().reused

    assert child(in_child, 20, threads=1) == "ok"
    assert pages.state().kept == kept

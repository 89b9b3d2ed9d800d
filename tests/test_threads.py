"""Thread counts that change between calls, and calls from several threads at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import drystone
from agreement import Reference, program_of
from children import child
from drystone import forks, native
from drystone.preparer import programs_of


class Net(nn.Module):
    """Enough kinds of step that an error in the division of work among threads would show."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.point = nn.Conv2d(32, 48, 1)
        self.norm = nn.GroupNorm(4, 48)
        self.last = nn.Linear(48, 33)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.first(x))
        y = F.silu(self.norm(self.point(self.depthwise(y) + y)))
        y = torch.cat([F.max_pool2d(y, 3, 2, 1), F.avg_pool2d(y, 3, 2, 1)], 0)
        return F.softmax(self.last(y.mean((2, 3))), -1)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)


@pytest.mark.parametrize("tuning", ["estimate", "measure"])
def test_thread_count_changes_between_calls(model: nn.Module, tuning: Any) -> None:
    """In weights packed for one thread count and read under another, IPEX had wrong results."""
    x = torch.randn(2, 3, 40, 36)
    expected = Reference(model, (x,))
    torch.set_num_threads(2)
    fast = drystone.optimize(model, (x,), tuning=tuning)
    results: dict[int, torch.Tensor] = {}
    for threads in (2, 1, 2, 3, 1, 2):
        torch.set_num_threads(threads)
        expected.check_float32(fast(x))
        (result,) = program_of(fast)([x])
        expected.check_float32(result)
        assert fast.explain().threads == threads
        assert torch.get_num_threads() == threads
        assert torch.equal(results.setdefault(threads, result), result), "the same input and threads, another result"


def test_thread_count_at_preparation_does_not_stick(model: nn.Module) -> None:
    x = torch.randn(2, 3, 40, 36)
    torch.set_num_threads(1)
    one = drystone.optimize(model, (x,), tuning="estimate", formats="channels_last")  # no choice: other plans round otherwise
    torch.set_num_threads(2)
    two = drystone.optimize(model, (x,), tuning="estimate", formats="channels_last")
    assert torch.equal(one(x), two(x))


def test_weights_are_packed_once_for_all_thread_counts() -> None:
    """In the blocked formats oneDNN's layout of the weights does not depend on the threads."""
    big = nn.Sequential(nn.Conv2d(64, 256, 3), nn.Conv2d(256, 64, 3)).eval().requires_grad_(False)
    x = torch.randn(1, 64, 9, 9)
    fast = drystone.optimize(big, (x,), tuning="estimate", formats=native.blocked().name)
    weights = fast.explain().weights_bytes
    assert weights >= 2 * 4 * 64 * 256 * 9
    torch.set_num_threads(1)
    fast(x)
    assert fast.explain().threads == 1
    assert fast.explain().weights_bytes == weights


def test_calls_from_several_threads_at_once(model: nn.Module) -> None:
    fast = drystone.optimize(model, (torch.randn(2, 3, 40, 36),), tuning="estimate")
    inputs = [torch.randn(2, 3, 40, 36) for _ in range(12)]
    wanted = [fast(x) for x in inputs]
    start = threading.Barrier(6)

    def worker(first: int) -> list[tuple[int, torch.Tensor]]:
        start.wait()
        return [(i % len(inputs), fast(inputs[i % len(inputs)])) for i in range(first, first + 24)]

    with ThreadPoolExecutor(6) as pool:
        for results in pool.map(worker, range(6)):
            for i, result in results:
                assert torch.equal(result, wanted[i])


class Small(nn.Module):
    """A few microseconds a call, with a segment among the steps: calls meet as often as they can."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(32, 48), nn.Linear(48, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.silu(self.first(x)).i0())


def test_eight_threads_of_a_thousand_calls() -> None:
    """Each thread's results are bitwise those of one thread alone."""
    torch.manual_seed(0)
    small = Small().eval().requires_grad_(False)
    inputs = [torch.randn(4, 32) for _ in range(8)]
    with pytest.warns(drystone.DrystoneWarning, match="i0"):
        fast = drystone.optimize(small, inputs[0], tuning="estimate")
    program = program_of(fast)
    wanted = [program([x])[0] for x in inputs]
    start = threading.Barrier(8)

    def worker(i: int) -> bool:
        start.wait()
        return all(torch.equal(program([inputs[i]])[0] if call % 2 else fast(inputs[i]), wanted[i]) for call in range(1000))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(worker, range(8)))


def test_first_calls_of_new_shapes_from_several_threads(model: nn.Module) -> None:
    """Each shape is prepared once, whoever comes first."""
    batch = torch.export.Dim("batch", min=1, max=16)
    fast = drystone.optimize(model, (torch.randn(2, 3, 40, 36),), tuning="estimate", dynamic_shapes=({0: batch},))
    inputs = {n: torch.randn(n, 3, 40, 36) for n in (1, 3, 4)}
    start = threading.Barrier(6)

    def worker(i: int) -> tuple[int, torch.Tensor]:
        n = (1, 3, 4)[i % 3]
        start.wait()
        return n, fast(inputs[n])

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(worker, range(6)))
    for n, result in results:
        assert torch.equal(result, fast(inputs[n]))
        Reference(model, (inputs[n],)).check_float32(result)
    assert len(programs_of(fast)) == 4


def test_explain_while_calls_run(model: nn.Module) -> None:
    x = torch.randn(2, 3, 40, 36)
    fast = drystone.optimize(model, (x,), tuning="estimate")
    want = fast(x)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(fast, x) for _ in range(20)]
        shown = [str(fast.explain()) for _ in range(20)]
    assert all(torch.equal(call.result(), want) for call in calls)
    assert len(set(shown)) == 1


@pytest.mark.parametrize("child_threads", [1, 2])
def test_after_a_fork_nothing_hangs(model: nn.Module, child_threads: int) -> None:
    """OpenMP's threads do not outlive a fork; they are let go of before, where its library can."""
    x = torch.randn(2, 3, 40, 36)
    fast = drystone.optimize(model, (x,), tuning="estimate")
    expected = fast(x)
    said = child(lambda: torch.testing.assert_close(fast(x), expected), threads=child_threads)
    assert said == "ok" or (said.startswith("DrystoneError") and child_threads > 1 and not forks.pause_openmp())

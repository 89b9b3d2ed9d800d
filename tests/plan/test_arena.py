"""The arena: buffers that are alive together never overlap, and little memory is lost."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drystone.plan import arena
from drystone.plan.arena import Lifetime, plan_arena


def aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def peak(lifetimes: list[Lifetime], alignment: int = 1) -> int:
    steps = {lifetime.first for lifetime in lifetimes}
    return max((sum(aligned(x.size, alignment) for x in lifetimes if x.first <= step <= x.last) for step in steps), default=0)


def check(lifetimes: list[Lifetime], alignment: int) -> int:
    offsets, total = plan_arena(lifetimes, alignment)
    assert len(offsets) == len(lifetimes)
    for offset, lifetime in zip(offsets, lifetimes, strict=True):
        assert offset >= 0 and offset % alignment == 0
        assert offset + lifetime.size <= total
    for (a, x), (b, y) in itertools.combinations(zip(offsets, lifetimes, strict=True), 2):
        alive_together = x.first <= y.last and y.first <= x.last
        if alive_together and x.size and y.size:
            assert a + x.size <= b or b + y.size <= a, (x, a, y, b)
    assert total % alignment == 0
    assert total >= peak(lifetimes)
    return total


lifetimes = st.builds(
    lambda size, first, length: Lifetime(size, first, first + length), st.integers(0, 500), st.integers(0, 20), st.integers(0, 8)
)


@settings(deadline=None, max_examples=200)
@given(st.lists(lifetimes, max_size=40), st.sampled_from([1, 3, 64]))
def test_live_buffers_never_overlap(buffers, alignment):
    total = check(buffers, alignment)
    assert total <= sum(aligned(buffer.size, alignment) for buffer in buffers)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.sampled_from([1, 64]))
def test_a_chain_needs_no_more_than_its_peak(sizes, alignment):
    """Each step reads the buffer that the one before it wrote."""
    buffers = [Lifetime(size, step, step + 1) for step, size in enumerate(sizes)]
    assert check(buffers, alignment) == peak(buffers, alignment)


def test_a_chain_on_which_greedy_by_size_and_by_breadth_lose():
    buffers = [Lifetime(size, step, step + 1) for step, size in enumerate([20, 18, 16, 19])]
    assert check(buffers, 1) == 38


def test_residual_blocks():
    """conv, conv, add with the block's input alive throughout: three buffers of equal size are enough."""
    buffers = []
    for block in range(10):
        step = 3 * block
        buffers += [Lifetime(64, step, step + 3), Lifetime(64, step + 1, step + 2), Lifetime(64, step + 2, step + 3)]
    assert check(buffers, 64) == peak(buffers)


def test_memory_is_shared_where_lifetimes_only_touch_at_steps():
    """A step reads its input while it writes its output: these may not share; the step after may reuse."""
    assert check([Lifetime(64, 0, 1), Lifetime(64, 1, 2)], 64) == 128
    assert check([Lifetime(64, 0, 1), Lifetime(64, 2, 3)], 64) == 64


def test_a_gap_is_filled():
    """The small buffer goes between the two that outlive the large one."""
    buffers = [Lifetime(100, 0, 9), Lifetime(300, 0, 4), Lifetime(100, 3, 9), Lifetime(200, 5, 9), Lifetime(100, 5, 9)]
    assert check(buffers, 1) == peak(buffers)


def test_empty_and_zero_sizes():
    assert plan_arena([]) == ([], 0)
    assert plan_arena([Lifetime(0, 0, 5), Lifetime(0, 0, 5)]) == ([0, 0], 0)
    assert plan_arena([Lifetime(0, 0, 5), Lifetime(1, 0, 5), Lifetime(0, 0, 5)])[1] == 64


def test_large_sizes_stay_exact():
    size = 2**40 + 1
    assert check([Lifetime(size, 0, 1), Lifetime(size, 1, 2)], 64) == 2 * aligned(size, 64)


@pytest.mark.parametrize(
    ("buffers", "alignment"), [([Lifetime(-1, 0, 1)], 64), ([Lifetime(1, 2, 1)], 64), ([Lifetime(1, 0, 1)], 0)]
)
def test_nonsense_is_refused(buffers, alignment):
    with pytest.raises(ValueError):
        plan_arena(buffers, alignment)


@settings(deadline=None, max_examples=200)
@given(st.lists(lifetimes, max_size=40), st.sampled_from([1, 64]))
def test_allocated_one_after_the_other(buffers, alignment):
    """As where there are too many to compare each with all others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arena, "MAX_CONTEMPORARIES", -1)
        total = check(buffers, alignment)
    assert total <= sum(aligned(buffer.size, alignment) for buffer in buffers)
    arrays = arena._Buffers(*(np.array([getattr(b, name) for b in buffers], dtype=np.int64) for name in ("size", "first", "last")))
    pairs = itertools.combinations(buffers, 2)
    assert arrays.contemporaries() == sum(x.first <= y.last and y.first <= x.last for x, y in pairs)


def test_thousands_that_live_together():
    count = 20_000
    buffers = [Lifetime(1 + step % 7, step, count) for step in range(count)]
    offsets, total = plan_arena(buffers, 1)
    assert total == sum(buffer.size for buffer in buffers) and len(set(offsets)) == count
    gone = [Lifetime(8 * (1 + step % 3), step, step + 1) for step in range(count)]
    assert plan_arena(gone, 8)[1] <= 2 * peak(gone[:50])

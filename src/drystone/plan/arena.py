"""Lay the buffers of a program into one arena, so that buffers share memory unless both are alive at some step.

Three greedy layouts are tried, and the smallest is kept: by size and by breadth, as in Pisarchyk and Lee, "Efficient memory
management for deep neural net inference" (2020), and by time from both ends of the arena, which needs no more than the
peak of live bytes on a chain, where the other two may. They compare each buffer with all of its contemporaries; where these
are too many, the buffers are allocated and freed one after the other.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Beyond these, comparing them would take seconds.
MAX_BUFFERS = 1 << 12
MAX_CONTEMPORARIES = 1 << 18


@dataclass
class Lifetime:
    """A buffer of ``size`` bytes, written at step ``first`` and last read at step ``last`` (both inclusive)."""

    size: int
    first: int
    last: int


def plan_arena(lifetimes: list[Lifetime], alignment: int = 64) -> tuple[list[int], int]:
    """The offset of each buffer and the size of the arena, in bytes; both are multiples of ``alignment``.

    Buffers of size 0 take no space. Raises ``ValueError`` if a size is negative, a lifetime ends before it begins, or
    ``alignment`` is less than 1.

    >>> plan_arena([Lifetime(100, 0, 1), Lifetime(64, 1, 2), Lifetime(128, 2, 3)])
    ([0, 128, 0], 192)
    """
    if alignment < 1:
        raise ValueError(f"alignment must be at least 1, but is {alignment}")
    for index, lifetime in enumerate(lifetimes):
        if lifetime.size < 0 or lifetime.first > lifetime.last:
            raise ValueError(f"lifetimes[{index}] has a negative size or ends before it begins: {lifetime}")
    # In units of the alignment, so that every offset is aligned by itself.
    buffers = _Buffers(
        np.array([-(-lifetime.size // alignment) for lifetime in lifetimes], dtype=np.int64),
        np.array([lifetime.first for lifetime in lifetimes], dtype=np.int64),
        np.array([lifetime.last for lifetime in lifetimes], dtype=np.int64),
    )
    if len(lifetimes) > MAX_BUFFERS or buffers.contemporaries() > MAX_CONTEMPORARIES:
        places, end = _allocated(buffers)
        return [place * alignment for place in places], end * alignment
    live = buffers.live_at_starts()
    peak = max((int(buffers.size[mask].sum()) for mask in live), default=0)
    layouts: tuple[Callable[[], np.ndarray], ...] = (
        lambda: _place(buffers, _by_size(buffers)),
        lambda: _place(buffers, _by_breadth(buffers, live)),
        lambda: _place(buffers, _by_time(buffers), capacity=peak),
    )
    best = np.zeros(len(lifetimes), dtype=np.int64)
    best_total: int | None = None
    for layout in layouts:
        offsets = layout()
        total = int((offsets + buffers.size).max(initial=0))
        if best_total is None or total < best_total:
            best, best_total = offsets, total
        if best_total == peak:
            break
    return [int(offset) * alignment for offset in best], (best_total or 0) * alignment


@dataclass
class _Buffers:
    """The lifetimes as arrays."""

    size: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def contemporaries(self) -> int:
        """How many pairs of buffers live together."""
        begun = np.searchsorted(np.sort(self.first), self.last, side="right")
        ended = np.searchsorted(np.sort(self.last), self.first, side="left")
        return int((begun - ended - 1).sum()) // 2

    def live_at_starts(self) -> list[np.ndarray]:
        """A mask of the live buffers for each step that writes one: nothing is ever live that is not live at such a step."""
        return [(self.first <= step) & (step <= self.last) for step in np.unique(self.first)]


def _by_size(buffers: _Buffers) -> Sequence[int]:
    return sorted(range(len(buffers.size)), key=lambda i: (-buffers.size[i], buffers.first[i]))


def _by_breadth(buffers: _Buffers, live: list[np.ndarray]) -> Sequence[int]:
    """The step with the most live bytes first, within a step the largest buffer first."""
    order: dict[int, None] = {}
    for mask in sorted(live, key=lambda mask: -int(buffers.size[mask].sum())):
        indices = np.flatnonzero(mask)
        order.update(dict.fromkeys(indices[np.argsort(-buffers.size[indices], kind="stable")].tolist()))
    return list(order)


def _by_time(buffers: _Buffers) -> Sequence[int]:
    return sorted(range(len(buffers.size)), key=lambda i: (buffers.first[i], -buffers.size[i]))


def _place(buffers: _Buffers, order: Sequence[int], capacity: int | None = None) -> np.ndarray:
    """Offsets when the buffers are placed in ``order``, each into the tightest gap that its contemporaries leave.

    With a ``capacity``, the space between the last contemporary and the capacity is a gap as well, and is filled from its
    upper end. A buffer that fits no gap goes above its contemporaries.
    """
    offsets = np.zeros(len(buffers.size), dtype=np.int64)
    # Buffers of size 0 stay at offset 0 and are in nobody's way.
    placed = np.zeros(len(buffers.size), dtype=bool)
    for index in order:
        size = int(buffers.size[index])
        if not size:
            continue
        contemporary = placed & (buffers.first <= buffers.last[index]) & (buffers.first[index] <= buffers.last)
        indices = np.flatnonzero(contemporary)
        indices = indices[np.argsort(offsets[indices], kind="stable")]
        top, tightest, offset = 0, None, None
        for begin, length in zip(offsets[indices].tolist(), buffers.size[indices].tolist(), strict=True):
            gap = begin - top
            if gap >= size and (tightest is None or gap < tightest):
                tightest, offset = gap, top
            top = max(top, begin + length)
        if capacity is not None and top and capacity - top >= size and (tightest is None or capacity - top < tightest):
            offset = capacity - size
        offsets[index] = top if offset is None else offset
        placed[index] = True
    return offsets


def _allocated(buffers: _Buffers) -> tuple[list[int], int]:
    """Offsets and total when the buffers are allocated in the order of time, each in the smallest gap that takes it."""
    sizes, firsts, lasts = buffers.size.tolist(), buffers.first.tolist(), buffers.last.tolist()
    offsets, top = [0] * len(sizes), 0
    by_size: list[tuple[int, int]] = []  # the gaps: (size, offset), sorted
    begins: dict[int, int] = {}  # offset → size
    ends: dict[int, int] = {}  # end → offset

    def take(offset: int) -> int:
        size = begins.pop(offset)
        del ends[offset + size]
        del by_size[bisect.bisect_left(by_size, (size, offset))]
        return size

    def give(offset: int, size: int) -> None:
        if offset in ends:
            before = ends[offset]
            offset, size = before, size + take(before)
        if offset + size in begins:
            size += take(offset + size)
        begins[offset], ends[offset + size] = size, offset
        bisect.insort(by_size, (size, offset))

    alive: list[tuple[int, int]] = []
    for index in sorted(range(len(sizes)), key=lambda i: (firsts[i], -sizes[i])):
        while alive and alive[0][0] < firsts[index]:
            _, ended = heapq.heappop(alive)
            give(offsets[ended], sizes[ended])
        size = sizes[index]
        if not size:
            continue
        fits = bisect.bisect_left(by_size, (size, 0))
        if fits < len(by_size):
            offset = by_size[fits][1]
            left = take(offset) - size
        else:  # at the end, over a gap that reaches it
            offset = ends.get(top, top)
            left = 0
            if offset < top:
                take(offset)
            top = offset + size
        if left:
            give(offset + size, left)
        offsets[index] = offset
        heapq.heappush(alive, (lasts[index], index))
    return offsets, top

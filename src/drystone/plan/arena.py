"""Lay the buffers of a program into one arena, so that buffers share memory unless both are alive at some step.

Three greedy layouts are tried, and the smallest is kept: by size and by breadth, as in Pisarchyk and Lee, "Efficient memory
management for deep neural net inference" (2020), and by time from both ends of the arena, which needs no more than the
peak of live bytes on a chain, where the other two may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


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

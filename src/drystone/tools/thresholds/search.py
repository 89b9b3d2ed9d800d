"""The search for a threshold: sizes around the one in force, each timed on both sides of it, in bursts in turn."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass, field

import torch

import drystone
from drystone import native
from drystone.eager.thresholds import NEVER, table, threshold

from ..bench.burst import burst
from ..bench.results import median_ratio
from ..ops.probe import AtSize, Probe

STEPS = 3  # doublings on either side of the threshold
ROUNDS, BURST_SECONDS = 7, 0.003
#: Below 1 by no more than noise.
AS_FAST = 0.97


@dataclass(frozen=True)
class Found:
    """How one threshold stands on this machine.

    ``ratios``: by size, the time on the other side of the threshold over that on drystone's, of the call that gains least.
    """

    name: str
    unit: str
    decides: str
    in_force: int
    ratios: dict[int, float] = field(default_factory=dict)

    @property
    def measured(self) -> int | None:
        """From which size on, or up to which, drystone is as fast at all sizes that were timed; None where at none."""
        sizes = sorted(self.ratios, reverse=self.decides != "up to")
        fast = list(itertools.takewhile(lambda size: self.ratios[size] >= AS_FAST, sizes))
        return fast[-1] if fast else None

    @property
    def ratio(self) -> float:
        """At the threshold, or at the least size that was timed beyond it."""
        return self.ratios[min(size for size in self.ratios if size >= self.in_force)]


def search(probe: Probe) -> Found:
    row = table()[probe.threshold]
    found = Found(row.name, row.unit, row.decides, row.in_force)
    with torch.inference_mode(), drystone.enabled(only=probe.operators, reuse_pages=False):
        for size in sizes_around(row.in_force, probe.least):
            found.ratios[size] = min(_ratio(row, make, size) for make in probe.calls.values())
    return found


def sizes_around(size: int, least: int) -> list[int]:
    """``size``, or ``least`` if that is more, with doublings and halvings of it down to ``least``."""
    middle = max(size, least)
    sizes = {middle, *(round(middle * 2**step) for step in range(-STEPS, STEPS + 1))}
    return sorted(size for size in sizes if size >= least)


def sides(row: native.Threshold) -> tuple[int, int]:
    """Thresholds that all sizes are on drystone's side of, and none."""
    return (NEVER, 0) if row.decides == "up to" else (0, NEVER)


def _ratio(row: native.Threshold, make: AtSize, size: int) -> float:
    call = make(size)
    times: tuple[list[float], list[float]] = [], []
    for _ in range(ROUNDS):
        for value, rounds in zip(sides(row), times, strict=True):
            with threshold(row.name, value):
                call()  # what it needs is in the caches, and its plan is made
                rounds.append(statistics.median(burst(call, BURST_SECONDS)))
    ours, others = times
    return median_ratio(others, ours)

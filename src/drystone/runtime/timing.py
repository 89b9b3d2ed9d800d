"""Seconds of a program's steps, and of its calls beside eager's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from drystone.runtime.program import Program

# Timed runs of a candidate, at most, and the seconds after which fewer must do.
AUTOTUNE_RUNS = 5
AUTOTUNE_SECONDS = 0.15
# Before eager is believed to be the faster: another process may have had the cores.
DOUBT_SECONDS = 1.0
# Where eager takes this many times as long, two runs of each must do.
CLEARLY_FASTER = 1.5


def step_seconds(program: Program, tensors: list[torch.Tensor]) -> list[list[float]]:
    """Seconds of each step, in a few runs after one that warms up."""
    began = time.perf_counter()
    program.time_steps(tensors)
    runs: list[list[float]] = []
    while len(runs) < AUTOTUNE_RUNS and (len(runs) < 2 or time.perf_counter() - began < AUTOTUNE_SECONDS):
        runs.append(program.time_steps(tensors))
    return runs


def against_eager(
    fast: Callable[[], Any], model: Callable[[], Any], renew: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """Seconds of a call of the one and of the other, in turn, the best of a few each. ``renew`` goes before each of ``model``."""
    ours: list[float] = []
    eager: list[float] = []
    began = time.perf_counter()
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        while len(ours) < 2 or (
            len(ours) < 200
            and time.perf_counter() - began < (DOUBT_SECONDS if min(eager) < min(ours) else AUTOTUNE_SECONDS)
            and min(eager) < CLEARLY_FASTER * min(ours)
        ):
            start = time.perf_counter()
            fast()
            ours.append(time.perf_counter() - start)
            renew()
            start = time.perf_counter()
            model()
            eager.append(time.perf_counter() - start)
    return min(ours), min(eager)

"""Seconds of a program's steps, and of its calls beside eager's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from drystone.plan.budget import Budget
from drystone.runtime.program import Program

# Timed runs of a candidate, at most, and the seconds after which fewer must do.
AUTOTUNE_RUNS = 5
AUTOTUNE_SECONDS = 0.15
# Before eager is believed to be the faster: another process may have had the cores.
DOUBT_SECONDS = 1.0
# Where eager takes this many times as long, two runs of each must do.
CLEARLY_FASTER = 1.5
# What takes so many times as long in a first run, a long one, is not run again: as the fastest candidate, or eager as the program.
HOPELESS = 2.0
# Calls of each, at most.
RACES = 200


def step_seconds(program: Program, tensors: list[torch.Tensor], budget: Budget, fastest: float = math.inf) -> list[list[float]]:
    """Seconds of each step, in a few runs after one that warms up; of that one too, if it is long, or the budget ends with it.

    ``fastest``: seconds of the fastest candidate so far. A first run that is hopeless beside it, or that the budget does not hold,
    ends with the step that shows it: it is the only one, and has the steps until then.
    """
    began = budget.clock()
    limit = max(AUTOTUNE_SECONDS, min(HOPELESS * fastest, budget.left))

    def run(limit: float = math.inf) -> list[float]:
        budget.ran += 1
        return program.time_steps(tensors, limit)

    warm = run(limit)
    runs = [warm] if sum(warm) > AUTOTUNE_SECONDS else []
    if sum(warm) > limit:
        return runs
    while (
        len(runs) < AUTOTUNE_RUNS
        and (len(runs) < 2 or budget.clock() - began < AUTOTUNE_SECONDS)
        and budget.allows(sum(runs[-1] if runs else warm))
    ):
        runs.append(run())
    return runs or [warm]


def against_eager(
    fast: Callable[[], Any],
    model: Callable[[], Any],
    budget: Budget,
    renew: Callable[[], None] = lambda: None,
    known: float | None = None,
) -> tuple[float, float]:
    """Seconds of a call of the one and of the other, in turn, the best of a few each. ``renew`` goes before each of ``model``.

    ``known``: what the one took in autotuning. If that is long and the other is far slower, it is the answer.
    Where the budget has ended it is two of short calls, as a first one makes what later ones find, and one of long calls.
    """
    ours: list[float] = []
    eager: list[float] = []
    clock = budget.clock
    began = clock()

    def again() -> bool:
        pair = ours[-1] + eager[-1]
        if len(ours) < 2:
            return pair < AUTOTUNE_SECONDS or budget.left > pair
        longest = DOUBT_SECONDS if min(eager) < min(ours) else AUTOTUNE_SECONDS
        doubtful = clock() - began < longest and min(eager) < CLEARLY_FASTER * min(ours)
        return doubtful and len(ours) < RACES and budget.left > pair

    with torch.no_grad(), torch.autocast("cpu", enabled=False), budget.spending():
        if known is not None and known > AUTOTUNE_SECONDS:
            eager.append(_seconds(model, renew, clock))
            if eager[0] > HOPELESS * known:
                return known, eager[0]
        while not ours or again():
            ours.append(_seconds(fast, lambda: None, clock))
            if len(eager) < len(ours):
                eager.append(_seconds(model, renew, clock))
    return min(ours), min(eager)


def _seconds(call: Callable[[], Any], before: Callable[[], None], clock: Callable[[], float]) -> float:
    before()
    began = clock()
    call()
    return clock() - began

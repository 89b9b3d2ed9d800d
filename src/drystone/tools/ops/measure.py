"""The measurement of a case: its contenders in short bursts in turn, A B C A B C …

As with whole models, a machine's speed drifts by more than contenders differ, and only the ratios within a round are believed.

All contenders share this process. Those on OpenMP share torch's threads in any case; OpenVINO has threads of its own, with which
OpenMP's would compete for the cores, as they spin for some milliseconds after their last task. A pause before each burst lets
them go to sleep first, as it does between the processes of ``drystone bench``. Only OMP_WAIT_POLICY=active keeps them awake:
the command then finds the processors busy while nothing runs, and says so.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import fields

import torch

from ..bench.rounds import PAUSE_SECONDS
from ..bench.worker import relative_error
from .case import Call, Case, Work
from .results import Measurement, Run, Timing

BURST_SECONDS = 0.06


def measure(case: Case, rounds: int, run: Run) -> Measurement:
    """Every contender's error against float64, then ``rounds`` rounds of bursts."""
    with torch.inference_mode():
        contest = case.make()
        calls, reasons = contest.prepare()
        exact = contest.exact().numpy()
        timings = {name: Timing(name, reasons.get(name)) for name in contest.contenders}
        for name, call in calls.items():
            with contest.around(name):
                timings[name].relative_error = relative_error(call(0), exact)
        del exact
        # Each contender goes through its copies in a ring, and comes back to one when all others have passed through the caches.
        rings = {name: itertools.cycle(range(case.copies)) for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                time.sleep(PAUSE_SECONDS)
                with contest.around(name):
                    if name in contest.within:
                        call(next(rings[name]))  # the pages that later calls use again
                    timings[name].rounds.append(round(burst(call, rings[name]), 3))
    work = {field.name: getattr(case, field.name) for field in fields(Work)}
    return Measurement(**work, timings=list(timings.values()), run=run)


def burst(call: Call, ring: Iterator[int]) -> float:
    """The median microseconds of the calls that ``BURST_SECONDS`` have room for; one at least."""
    times: list[float] = []
    end = time.perf_counter() + BURST_SECONDS
    while not times or time.perf_counter() < end:
        i = next(ring)
        start = time.perf_counter()
        call(i)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6

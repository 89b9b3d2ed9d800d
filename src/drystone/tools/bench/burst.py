"""Calls timed one by one for a given time."""

from __future__ import annotations

import time
from collections.abc import Callable


def burst(call: Callable[[], object], seconds: float, least: int = 1) -> list[float]:
    """The seconds of each of the calls that ``seconds`` have room for; of ``least`` calls at least."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times

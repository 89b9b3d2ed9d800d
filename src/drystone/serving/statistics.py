"""What a pool has done: requests, batches, latencies."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

# Of the latest requests, so that a service that runs for months says how it is doing now.
KEPT = 10_000
PERCENTS = (50, 90, 99)


def percentiles(seconds: Sequence[float]) -> dict[int, float]:
    """Milliseconds, by percent; zeros of nothing."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [*seconds, 0.0][:1] * 99
    return {percent: cuts[percent - 1] * 1e3 for percent in PERCENTS}


@dataclass(frozen=True)
class PoolStatistics:
    """Counts since the pool was made. Latencies, from request to result, are of the latest 10 000 requests, in milliseconds.

    ``requests``: with a result. ``failed``: with an error of the model's. ``late``: past their deadline. ``batches``: calls of the
    model. ``queued``: waiting now.
    """

    requests: int
    failed: int
    late: int
    batches: int
    queued: int
    p50_ms: float
    p90_ms: float
    p99_ms: float

    @property
    def mean_batch(self) -> float:
        """Requests a call of the model."""
        return (self.requests + self.failed) / self.batches if self.batches else 0.0


class Recorder:
    """Counts, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = self._failed = self._late = self._batches = 0
        self._seconds: deque[float] = deque(maxlen=KEPT)

    def batch(self) -> None:
        with self._lock:
            self._batches += 1

    def late(self) -> None:
        with self._lock:
            self._late += 1

    def request(self, seconds: float, failed: bool) -> None:
        with self._lock:
            self._failed += failed
            self._requests += not failed
            self._seconds.append(seconds)

    def read(self, queued: int) -> PoolStatistics:
        with self._lock:
            seconds = list(self._seconds)
            counts = (self._requests, self._failed, self._late, self._batches)
        return PoolStatistics(*counts, queued, *percentiles(seconds).values())

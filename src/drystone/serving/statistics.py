"""What a pool has done: requests, batches, latencies."""

from __future__ import annotations

import statistics
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class GenerationStatistics:
    """Counts since the pool was made. Latencies, from request to first token, are of the latest 10 000 requests, in milliseconds.

    ``requests``: answered in full. ``failed``: with an error. ``late``: past their deadline. ``cancelled``: by whoever asked.
    ``tokens``: generated, of all requests. ``steps``: calls that decoded a token of each sequence, ``decoded`` in all. ``reused``:
    tokens of prompts that were in the cache. ``running`` and ``queued``: requests now. ``cache_bytes``: of the pages that sequences
    have now.
    """

    requests: int
    failed: int
    late: int
    cancelled: int
    tokens: int
    steps: int
    decoded: int
    reused: int
    running: int
    queued: int
    cache_bytes: int
    p50_ms: float
    p90_ms: float
    p99_ms: float

    @property
    def mean_batch(self) -> float:
        """Sequences a step."""
        return self.decoded / self.steps if self.steps else 0.0


class Recorder:
    """Counts by name, and latencies, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds: deque[float] = deque(maxlen=KEPT)

    def count(self, **more: int) -> None:
        with self._lock:
            self._counts.update(more)

    def took(self, seconds: float) -> None:
        with self._lock:
            self._seconds.append(seconds)

    def read(self, *names: str) -> dict[str, Any]:
        """Counts of these names, and the latencies' percentiles."""
        with self._lock:
            seconds, counts = list(self._seconds), {name: self._counts[name] for name in names}
        return counts | {f"p{percent}_ms": value for percent, value in percentiles(seconds).items()}

"""Whether other work had the cores while something was measured."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass
class Contention:
    """``share``: how much of the threads' time they waited for a core, or a hypervisor had it."""

    share: float = 0.0


@contextmanager
def contention(threads: int) -> Iterator[Contention]:
    """Gives a ``Contention`` that is filled in at the end; zero where the system does not tell."""
    found = Contention()
    waited, stolen, began = _waited(), _stolen(), time.perf_counter()
    yield found
    seconds = time.perf_counter() - began
    if seconds > 0:
        lost = _waited() - waited + (_stolen() - stolen) * threads / (os.cpu_count() or threads)
        found.share = max(0.0, lost / (seconds * threads))


def _waited() -> float:
    """Seconds for which this process's threads have been ready to run, and did not (Linux: the second number of schedstat)."""
    total = 0
    for task in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(task.read_text().split()[1])
        except (OSError, ValueError, IndexError):
            continue
    return total / 1e9


def _stolen() -> float:
    """Seconds of all processors that a hypervisor gave to others."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))

"""The memory of a process under load: sampled, its slope, its plot."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from rich.progress import track

SAMPLE_SECONDS = 2.0

Memory = list[tuple[float, float]]  # megabytes at seconds


def sampled(minutes: float, megabytes: Callable[[], float]) -> Memory:
    """Of the next ``minutes``, with a progress bar."""
    memory, began = Memory(), time.monotonic()
    for _ in track(range(max(1, int(60 * minutes / SAMPLE_SECONDS))), "soak", transient=True):
        time.sleep(SAMPLE_SECONDS)
        memory.append((time.monotonic() - began, megabytes()))
    return memory


def slope_of(memory: Memory, minutes: float) -> float:
    """Megabytes an hour, after the first tenth of the time."""
    later = [point for point in memory if point[0] > 6 * minutes] or memory
    return round(statistics.linear_regression(*zip(*later, strict=True)).slope * 3600, 2) if len(later) > 1 else 0.0


def described(memory: Memory, minutes: float) -> dict[str, Any]:
    return {
        "megabytes_an_hour": slope_of(memory, minutes),
        "memory_mb": [[round(at, 1), round(size, 1)] for at, size in memory],
    }


def draw_memory(axis: Any, found: dict[str, Any], name: str) -> None:
    """``found``: with what ``described`` gives."""
    axis.plot([at / 60 for at, _ in found["memory_mb"]], [size for _, size in found["memory_mb"]])
    axis.set(title=f"{name}: {found['megabytes_an_hour']} MB an hour", xlabel="minutes", ylabel="resident MB")
    axis.set_ylim(0, 1.2 * max(size for _, size in found["memory_mb"]))

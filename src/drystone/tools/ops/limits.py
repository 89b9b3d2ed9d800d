"""What the machine can do, measured in the same run: the fastest product of hot matrices, and reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from drystone import native

from ..bench.burst import burst
from ..bench.workload import DTYPES
from .case import last_level_cache_bytes
from .operators.gemm import layer
from .results import READ

SIDES = (512, 1024)  # of the square matrices: they stay in the second or third level cache
SECONDS = 0.2  # for each rate


def limits(dtypes: Sequence[str]) -> dict[str, float]:
    """GFLOP/s by dtype, of the fastest of all contenders, and GB/s under ``READ``."""
    found: dict[str, float] = {}
    with torch.inference_mode():
        for dtype in dtypes:
            found[dtype] = max(_product_rate(side, DTYPES[dtype]) for side in SIDES)
        found[READ] = reading()()
    return found


def reading() -> Callable[[], float]:
    """Whose calls measure GB/s of reading."""
    # As packed weights lie, on huge pages where the system has them, and too large for the caches.
    large = native.allocate(max(256 << 20, 4 * last_level_cache_bytes())).view(torch.float32).zero_()
    return lambda: large.nbytes * 1e-9 / least_seconds(partial(torch.dot, large, large))


def _product_rate(side: int, dtype: torch.dtype) -> float:
    calls, _ = layer(side, side, side, dtype, 1).prepare()
    return 2e-9 * side**3 / min(least_seconds(partial(call, 0)) for call in calls.values())


def least_seconds(call: Callable[[], object]) -> float:
    """The fastest of the calls within ``SECONDS``."""
    return min(burst(call, SECONDS))

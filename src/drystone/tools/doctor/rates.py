"""The machine's rates and torch's memory formats, measured in about two seconds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn
from torch.utils import mkldnn

from drystone.tools.ops.limits import limits
from drystone.tools.ops.results import READ

from ..bench.burst import burst
from .finding import Finding

STEPS = ("products and memory", "a convolution in three formats")
SECONDS = 0.15

# A convolution of ResNet's second stage.
CHANNELS, SIDE = 128, 28


def findings(announce: Callable[[str], None]) -> Iterator[Finding]:
    """``announce`` is told each of ``STEPS``."""
    announce(STEPS[0])
    found = limits(("float32", "bfloat16"))
    memory = found.pop(READ)
    products = ", ".join(f"{rate:.0f} GFLOP/s in {dtype}" for dtype, rate in found.items())
    yield Finding("measured", f"products {products}; memory read at {memory:.1f} GB/s by {torch.get_num_threads()} threads")
    announce(STEPS[1])
    yield _formats()


def _formats() -> Finding:
    """Plain, channels_last and oneDNN's blocked format: all three should work, and plain is the slowest of them."""
    x, plain = torch.randn(1, CHANNELS, SIDE, SIDE), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).eval()
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    blocked = mkldnn.to_mkldnn(copy.deepcopy(plain))
    calls = {
        "plain": partial(plain, x),
        "channels_last": partial(last, x.contiguous(memory_format=torch.channels_last)),
        "blocked": partial(blocked, x.to_mkldnn()),
    }
    times: dict[str, float] = {}
    failed: list[str] = []
    with torch.no_grad():
        for name, call in calls.items():
            try:
                call()
                times[name] = min(burst(call, SECONDS)) * 1e3
            except RuntimeError as error:
                failed.append(f"{name}: {str(error).splitlines()[0]}")
    state = f"3x3 convolution of {CHANNELS} channels, {SIDE}x{SIDE}: " + ", ".join(
        f"{name} {ms:.2f} ms" for name, ms in times.items()
    )
    return Finding("memory formats", state, "; ".join(failed))

"""A probe: calls of torch's whose size a threshold decides on.

Sizes other than the probed one are such that their own thresholds let a call through.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Probed = Callable[[], object]
#: Makes the call at a size, in the threshold's unit, on operands of its own.
AtSize = Callable[[int], Probed]


@dataclass(frozen=True)
class Probe:
    """``operators``: as ``drystone.enable(only=…)`` takes them."""

    threshold: str
    operators: tuple[str, ...]
    calls: dict[str, AtSize]
    least: int = 1  # the smallest size that can be called


def of_random(function: Callable[[Tensor], Tensor], *shape: int) -> AtSize:
    """``function`` of a random tensor; -1 in its shape is what makes up its elements."""

    def make(size: int) -> Probed:
        known = math.prod(axis for axis in shape if axis > 0)
        x = torch.randn([size // known if axis < 0 else axis for axis in shape] or [size])
        return lambda: function(x)

    return make

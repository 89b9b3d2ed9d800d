"""tanh, sigmoid, silu and gelu."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..probe import AtSize, Probe, of_random


def _activations() -> dict[str, AtSize]:
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    }
    return {name: of_random(function) for name, function in functions.items()}


PROBES = (
    Probe("activation_elements", ("tanh", "sigmoid", "silu", "gelu"), _activations()),
    Probe("activation_shared_elements", ("tanh", "gelu"), {"tanh": of_random(torch.tanh), "gelu": of_random(F.gelu)}),
)

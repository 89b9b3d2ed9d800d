"""Small networks as PT2E leaves them: quantize and dequantize around operators of floats, weights as codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
import torch.nn.functional as F
from torch import nn

Tensor = torch.Tensor
q = torch.ops.quantized_decomposed


def rounded(
    x: Tensor, scale: float, zero_point: int = 0, dtype: torch.dtype = torch.uint8, ends: tuple[int, int] | None = None
) -> Tensor:
    """To codes and back."""
    limits = torch.iinfo(dtype)
    low, high = ends or (limits.min, limits.max)
    codes = q.quantize_per_tensor(x, scale, zero_point, low, high, dtype)
    return q.dequantize_per_tensor(codes, scale, zero_point, low, high, dtype)


class Coded(nn.Module):
    """A weight of int8, one scale an output channel; ``forward`` gives what it stands for."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed + sum(shape))
        weight = torch.randn(shape, generator=generator)
        scales = weight.flatten(1).abs().amax(1) / 127
        zeros = torch.zeros(shape[0], dtype=torch.int64)
        self.register_buffer("codes", q.quantize_per_channel(weight, scales, zeros, 0, -128, 127, torch.int8))
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", zeros)

    def forward(self) -> Tensor:
        return q.dequantize_per_channel(self.codes, self.scales, self.zeros, 0, -128, 127, torch.int8)


class Quantised(nn.Module):
    """``function(x, *weights)`` with the weights as codes of these shapes."""

    def __init__(self, function: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ModuleList(Coded(*shape, seed=i) for i, shape in enumerate(shapes))
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, *(weight() for weight in self.weights))


def block(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Tensor:
    """A residual block with a pool and a linear layer: (N, 16, H, W) → (N, 10)."""
    x = rounded(x, 0.03, 131)
    y = rounded(F.relu(F.conv2d(x, w1, padding=1)), 0.2)
    y = rounded(F.relu(F.conv2d(y, w2, padding=1) + x), 2.0)
    y = rounded(F.max_pool2d(y, 3, 2, 1), 2.0)
    y = rounded(y.mean((2, 3)), 1.0)
    return F.linear(y.flatten(1), w3)


BLOCK = (16, 16, 3, 3), (16, 16, 3, 3), (10, 16)

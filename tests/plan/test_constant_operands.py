"""Constants in an epilogue: a position embedding added to a linear, a scale after a residual."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import drystone
from agreement import Reference, program_of


class Scaled(nn.Module):
    """MobileBERT's way: linear, plus residual, times weight, plus bias."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(24, 16)
        self.position, self.weight, self.bias = torch.randn(5, 16), torch.randn(16), torch.randn(16)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        y = self.linear(x) + self.position
        return (self.linear(x) + residual) * self.weight + self.bias + y


class Mapped(nn.Module):
    """A convolution plus a constant for every position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.map = torch.randn(1, 16, 6, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x) + self.map)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("formats", [None, "plain", "channels_last"])
def test_constants_in_an_epilogue(dtype: torch.dtype | None, formats: str | None) -> None:
    inputs: tuple[torch.Tensor, ...]
    for model, inputs in (
        (Scaled(), (torch.randn(2, 5, 24), torch.randn(2, 5, 16))),
        (Mapped(), (torch.randn(1, 3, 6, 7),)),
    ):
        expected = Reference(model.eval().requires_grad_(False), inputs)
        fast = drystone.optimize(model, inputs, tuning="estimate", dtype=dtype, formats=formats)
        for result in (fast(*inputs), program_of(fast)(list(inputs))[0]):
            expected.check_float32(result) if dtype is None else expected.check_bfloat16(result)

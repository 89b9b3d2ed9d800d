"""A model in which the call itself is all that costs: 16 → 16 → 4 at batch 1."""

from __future__ import annotations

import torch
from torch import nn


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The module and its input, (1, 16)."""
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), (torch.randn(1, 16),)

"""Modules that many tests make their models of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Calls(nn.Module):
    """A function of ``layers`` and the inputs, for inference."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Any) -> Any:
        return self.function(*self.layers, *inputs)


class Decides(nn.Module):
    """``inner``, where the first number is below 1e9: control flow that no capture of the whole follows. For inference."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x) if float(x.flatten()[0]) < 1e9 else self.inner(-x)

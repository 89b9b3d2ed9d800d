"""Linear layers that round x to codes in each call and have a weight of codes: torchao's ``quantize_`` with
Int8DynamicActivationInt8WeightConfig, and ``torch.ao.nn.quantized.dynamic.Linear``.

torch.export can't trace their weights, so a layer of one operator stands for each.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from drystone.graph.quantisation import Dynamic

Tensor = torch.Tensor

OPERATOR = "drystone::dynamic_linear"
torch.library.define(
    OPERATOR,
    "(Tensor x, Tensor codes, Tensor scales, Tensor? bias, int low, int high, float eps, bool symmetric, bool rows) -> Tensor",
)


@torch.library.register_fake(OPERATOR)
def _fake(x: Tensor, codes: Tensor, *_: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@torch.library.impl(OPERATOR, "CPU")
def _dynamic_linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, *dynamic: Any) -> Tensor:
    return F.linear(Dynamic(*dynamic).rounded(x.float()), codes.float() * scales[:, None], bias).to(x.dtype)


class _Parts(NamedTuple):
    codes: Tensor  # (N, K)
    scales: Tensor  # (N,)
    bias: Tensor | None
    dynamic: Dynamic


class DynamicLayer(nn.Module):
    def __init__(self, parts: _Parts) -> None:
        super().__init__()
        self.register_buffer("codes", parts.codes.contiguous())
        self.register_buffer("scales", parts.scales.float().contiguous())
        self.register_buffer("bias", None if parts.bias is None else parts.bias.detach())
        self.dynamic = tuple(vars(parts.dynamic).values())
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return torch.ops.drystone.dynamic_linear(x, self.codes, self.scales, self.bias, *self.dynamic)


def layer_of(module: nn.Module) -> DynamicLayer | None:
    """What stands for ``module``; None where that is another layer, or of another scheme."""
    parts = _of_torchao(module) if type(module) is nn.Linear else _of_torch(module)
    return DynamicLayer(parts) if parts is not None else None


def _of_torchao(module: nn.Linear) -> _Parts | None:
    """A scale a row of x, symmetric, and a scale a row of the weight."""
    weight: Any = module.weight
    if type(weight).__name__ != "Int8Tensor" or not type(weight).__module__.startswith("torchao."):
        return None
    x = weight.act_quant_kwargs
    fixed = any(getattr(weight, name, None) is not None for name in ("act_quant_scale", "act_quant_zero_point", "act_pre_scale"))
    if x is None or fixed or getattr(x, "reduce_range", False) or x.mapping_type.name != "SYMMETRIC":
        return None
    if type(x.granularity).__name__ != "PerRow" or weight.scale.numel() not in (1, weight.shape[0]) or _shifted(weight.zero_point):
        return None
    scales = weight.scale.flatten().expand(weight.shape[0])
    dynamic = Dynamic(-128, 127, torch.finfo(torch.float32).eps, symmetric=True, rows=True)
    return _Parts(weight.qdata, scales, module.bias, dynamic)


def _of_torch(module: nn.Module) -> _Parts | None:
    """One scale and zero point of x, in 7 bits, as that layer asks for."""
    theirs: Any = sys.modules.get("torch.ao.nn.quantized.dynamic")
    if theirs is None or type(module) is not theirs.Linear:
        return None
    layer: Any = module
    weight, bias = layer.weight(), layer.bias()
    if weight.dtype is not torch.qint8:
        return None
    rows = weight.shape[0]
    if weight.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scales, zero_points = torch.full((rows,), weight.q_scale()), torch.tensor(weight.q_zero_point())
    else:
        scales, zero_points = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
    if scales.shape != (rows,) or _shifted(zero_points):
        return None
    return _Parts(weight.int_repr(), scales, bias, Dynamic(0, 127, torch.finfo(torch.float32).eps, symmetric=False))


def _shifted(zero_points: Tensor | None) -> bool:
    return zero_points is not None and bool(zero_points.any())

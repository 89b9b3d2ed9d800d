"""Weights that torchao's ``quantize_`` has quantised, the weights alone: Int8WeightOnlyConfig and IntxWeightOnlyConfig.

Their tensors have no memory that torch.export could trace, so a twin of the model stands for it, with floats in their places; their
codes are kept beside. Layers that round x as well have others in their places (``dynamic``).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Hashable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from drystone.checkpoints.dynamic import DynamicLayer, layer_of
from drystone.graph.graph import identity_of
from drystone.graph.groups import Grouped, Kind, Parts, packed


class Twin(NamedTuple):
    """``model`` shares all with the one it stands for but its structure and the ``grouped`` weights, known by identity."""

    model: nn.Module
    grouped: dict[Hashable, Grouped]
    modules: dict[int, nn.Module]  # by the id of the module that each stands for

    def those_of(self, modules: Collection[nn.Module]) -> set[nn.Module]:
        return {self.modules[id(module)] for module in modules}


def twin_of(model: nn.Module) -> Twin | None:
    """None where no weight of ``model`` is of torchao's, and no layer rounds x."""
    stored = {id(weight): weight for weight in model.parameters() if _kind(weight)}
    layers: dict[int, DynamicLayer] = {id(module): made for module in model.modules() if (made := layer_of(module)) is not None}
    if not stored and not layers:
        return None
    memo: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]} | layers
    grouped: dict[Hashable, Grouped] = {}
    for weight in stored.values():
        floats = nn.Parameter(weight.dequantize().contiguous(), requires_grad=False)
        kind, identity = _kind(weight), identity_of(floats)
        assert kind is not None
        memo[id(weight)] = floats
        n, k = floats.shape
        grouped[identity] = Grouped((n, k), kind, ("torchao", identity), partial(_parts, weight, kind))
    modules = list(model.modules())
    twin = copy.deepcopy(model, memo)
    return Twin(twin, grouped, {id(module): memo[id(module)] for module in modules if id(module) in memo})


def _kind(weight: Any) -> Kind | None:
    """How a tensor's numbers become codes; None where it is another, or the layer rounds x as well."""
    parts = [getattr(weight, name, None) for name in ("qdata", "scale", "zero_point")]
    if not type(weight).__module__.startswith("torchao.") or not all(isinstance(part, torch.Tensor) for part in parts):
        return None
    rounds_x = any(
        getattr(weight, name, None) is not None for name in ("act_quant_kwargs", "activation_quantization", "act_pre_scale")
    )
    rows, length = weight.block_size if len(weight.block_size) == 2 else (0, 0)
    if rounds_x or weight.dim() != 2 or rows != 1 or weight.qdata.dtype is not torch.int8:
        return None
    bits = 4 if getattr(weight, "target_dtype", None) is getattr(torch, "int4", "none") and length % 8 == 0 else 8
    if length != weight.shape[1] and length % (32 // bits):
        return None
    return Kind(bits, length, torch.float32, bool(weight.zero_point.any()))


def _parts(weight: Any, kind: Kind) -> Parts:
    """(q - zero point) * scale."""
    codes = packed((weight.qdata + torch.tensor(kind.zero, dtype=torch.int16)).to(torch.uint8), kind.bits)
    scales = weight.scale.float().contiguous()
    return Parts(codes, scales, -scales * (weight.zero_point.float() + kind.zero) if kind.has_minima else None)

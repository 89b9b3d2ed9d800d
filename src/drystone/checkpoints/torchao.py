"""Weights that torchao's ``quantize_`` has quantised, the weights alone: Int8WeightOnlyConfig and IntxWeightOnlyConfig.

Their tensors have no memory that torch.export could trace. Layers that round x as well: ``dynamic``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from drystone.graph.graph import identity_of
from drystone.graph.groups import Grouped, Kind, Parts, packed


def floats_and_codes(weight: Any) -> tuple[nn.Parameter, Grouped] | None:
    """What a weight stands for, and its codes; None for one that is not of these."""
    if (kind := _kind(weight)) is None:
        return None
    floats = nn.Parameter(weight.dequantize().contiguous(), requires_grad=False)
    identity = identity_of(floats)
    n, k = floats.shape
    return floats, Grouped((n, k), kind, ("torchao", identity), partial(_parts, weight, kind))


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

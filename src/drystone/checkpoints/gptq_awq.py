"""Linear layers of GPTQ and AWQ checkpoints, as transformers puts them into a model: known by their tensors, of any class.

Both pack codes of a weight (K, N), input by output, into int32, the first in the lowest bits. ``scales`` (groups, N):

            qweight                     qzeros                   weight
    GPTQ    (K * bits / 32, N)          (groups, N * bits / 32)  scale * (code − zero), in files of its first form zero + 1
    AWQ     (K, N / 8), in ``_ORDER``   (groups, N / 8), too     scale * (code − zero), 4 bits

``g_idx`` (K) of GPTQ is the group of each input. Frantar et al. 2022, Lin et al. 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from drystone.errors import UnsupportedError
from drystone.graph.groups import Kind, Parts, dequantised, packed

Tensor = torch.Tensor

# The output of eight neighbours that each place of an int32 of AWQ holds, from the lowest bits on.
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
# Of a layer's result, beyond what float16 rounds: another zero is off by a step of the scale.
_AGREES = 0.02


class Packed(NamedTuple):
    """A layer's codes are those of ``inputs`` in this order, if it is another than the model's."""

    kind: Kind
    shape: tuple[int, int]
    make: Callable[[], Parts]
    inputs: Tensor | None


def is_packed(module: nn.Module) -> bool:
    names = ("qweight", "qzeros", "scales")
    tensors: list[Any] = [getattr(module, name, None) for name in names]
    return all(isinstance(tensor, Tensor) and tensor.dim() == 2 for tensor in tensors) and tensors[0].dtype is torch.int32


def read(name: str, module: Any) -> Packed:
    """Raises ``UnsupportedError`` for codes of other bits, or in another order than those two, seen by what the layer computes."""
    groups, outputs = module.scales.shape
    rows, columns = module.qweight.shape
    index = getattr(module, "g_idx", None)
    if columns * 8 == outputs:
        readings = [_Reading(4, rows, "awq", 0)]
    else:
        inputs = len(index) if index is not None and len(index) else module.in_features
        bits = 32 * rows // inputs
        readings = [_Reading(bits, inputs, "gptq", one) for one in (1, 0)]
    first = readings[0]
    if columns not in (outputs, outputs // 8) or first.bits not in (4, 8) or first.inputs % groups:
        raise UnsupportedError(f"{name} has weights packed in another way than GPTQ's and AWQ's in 4 or 8 bits; {_INSTEAD}")
    order = None
    if first.packing == "gptq" and index is not None and len(index) and bool((index.diff() < 0).any()):
        order = index.long().argsort(stable=True)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, first.inputs, generator=generator).to(module.scales.dtype)
    with torch.no_grad():
        given = module(x)
        given = given.float() if module.bias is None else given.float() - module.bias.float()
    for reading in readings:
        kind, parts = _kind(module, reading, order)
        taken = x.float() if order is None else x.float()[:, order]
        if (given - taken @ _floats(kind, parts).t()).norm() <= _AGREES * given.norm():
            return Packed(kind, (outputs, first.inputs), partial(_parts, module, reading, order, kind), order)
    raise UnsupportedError(f"{name} computes something else than its packed weights say in GPTQ's or AWQ's way; {_INSTEAD}")


_INSTEAD = 'load the model without quantization_config, from floats, and use weights="int4" or "int8"'


class _Reading(NamedTuple):
    bits: int
    inputs: int
    packing: str
    one: int  # what is to be added to the zeros


def _codes(tensor: Tensor, bits: int, packing: str, dim: int) -> Tensor:
    """uint8, ``32 / bits`` along ``dim`` for each of int32."""
    places = torch.arange(0, 32, bits, dtype=torch.int32)
    if packing == "awq":
        places = places[torch.tensor(_ORDER).argsort()]
    apart = (tensor.unsqueeze(dim + 1) >> places.view(-1, *[1] * (tensor.dim() - 1 - dim))) & (2**bits - 1)
    return apart.to(torch.uint8).flatten(dim, dim + 1)


def _parts(module: Any, reading: _Reading, order: Tensor | None, kind: Kind) -> Parts:
    codes = _codes(module.qweight, reading.bits, reading.packing, 1 if reading.packing == "awq" else 0)
    scales = module.scales.t().float().contiguous()
    minima = -scales * _zeros(module, reading).t() if kind.has_minima else None
    codes = codes if order is None else codes[order]
    return Parts(packed(codes.t().contiguous(), kind.bits), scales.to(kind.dtype), minima)


def _zeros(module: Any, reading: _Reading) -> Tensor:
    """(groups, N), float32."""
    return (_codes(module.qzeros, reading.bits, reading.packing, 1) + reading.one).float()


def _kind(module: Any, reading: _Reading, order: Tensor | None) -> tuple[Kind, Parts]:
    zero, group = 2 ** (reading.bits - 1), reading.inputs // module.scales.shape[0]
    has_minima = bool((_zeros(module, reading) != zero).any())
    exact = not has_minima and module.scales.dtype is torch.float16
    kind = Kind(reading.bits, group, torch.float16 if exact else torch.float32, has_minima)
    return kind, _parts(module, reading, order, kind)


def _floats(kind: Kind, parts: Parts) -> Tensor:
    codes, *scales = parts.tensors()
    return dequantised(kind.bits, codes, *[scale.float() for scale in scales])


class Unpacked(nn.Module):
    """Stands in a twin for a layer ``original``: traced, a linear layer on ``weight``, of inputs in the order of its codes.

    ``weight`` (N, K) takes no memory: its only number is NaN, and whoever traces puts the codes in its place.
    """

    original: Any
    inputs: Tensor | None

    def __init__(self, original: Any, layer: Packed, dtype: torch.dtype) -> None:
        super().__init__()
        self.training = False
        self.weight = nn.Parameter(torch.full((), torch.nan, dtype=dtype).expand(layer.shape), requires_grad=False)
        self.bias = original.bias
        self.__dict__.update(original=original, inputs=layer.inputs)

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.compiler.is_exporting() or isinstance(x, FakeTensor)):
            result: Tensor = self.original(x)
            return result
        taken = x if self.inputs is None else x.index_select(-1, self.inputs)
        return nn.functional.linear(taken, self.weight, None if self.bias is None else self.bias.to(x.dtype))


def floats_of(original: Any, layer: Packed) -> nn.Linear:
    """The same layer on floats."""
    weight = _floats(layer.kind, layer.make())
    if layer.inputs is not None:
        weight = weight[:, layer.inputs.argsort()]
    linear = nn.Linear(layer.shape[1], layer.shape[0], bias=False, device="meta").eval()
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if original.bias is not None:
        linear.register_parameter("bias", nn.Parameter(original.bias.float(), requires_grad=False))
    return linear

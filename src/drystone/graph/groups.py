"""Weights as integers of 4 or 8 bits, of which neighbours along a row share a scale.

A weight (N, K) is ``codes``, uint8 (N, K), or of 4 bits (N, K / 2) with the first of two in the low half; ``scales``
(N, K / group); and ``minima`` of the same shape and dtype, or None. It stands for scale * code + minimum, without minima for
scale * (code − 2^(bits−1)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from drystone import native
from drystone.graph.graph import Value

Tensor = torch.Tensor


@dataclass(frozen=True)
class Kind:
    """How a weight is grouped, but for its numbers. ``dtype``: of scales and minima, float16 or float32."""

    bits: int
    group: int
    dtype: torch.dtype = torch.float16
    has_minima: bool = False

    @property
    def zero(self) -> int:
        return int(2 ** (self.bits - 1))


@dataclass(frozen=True)
class Parts:
    codes: Tensor
    scales: Tensor
    minima: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        return [self.codes, self.scales] if self.minima is None else [self.codes, self.scales, self.minima]


def unpacked(codes: Tensor, bits: int) -> Tensor:
    """One code an entry, (N, K)."""
    return codes if bits == 8 else torch.stack([codes & 15, codes >> 4], -1).flatten(-2)


def packed(codes: Tensor, bits: int) -> Tensor:
    """What ``unpacked`` takes apart."""
    return codes if bits == 8 else codes[..., ::2] | codes[..., 1::2] << 4


def dequantised(bits: int, codes: Tensor, scales: Tensor, minima: Tensor | None = None) -> Tensor:
    """The weight (N, K) that they stand for, in the dtype of the scales."""
    grouped = unpacked(codes, bits).to(scales.dtype).unflatten(-1, (scales.shape[-1], -1))
    scale = scales.unsqueeze(-1)
    weight = scale * (grouped - 2 ** (bits - 1)) if minima is None else scale * grouped + minima.unsqueeze(-1)
    return weight.flatten(-2)


def quantised(weight: Tensor, kind: Kind) -> Parts:
    """``weight``, float32 or bfloat16, rounded to the nearest codes, without minima, by the float16 scales that err least."""
    n, k = weight.shape
    weight = weight.detach().contiguous()
    codes = torch.empty(n, k * kind.bits // 8, dtype=torch.uint8)
    scales = torch.empty(n, k // kind.group, dtype=torch.float16)
    dtype = native.DTYPES[weight.dtype]
    native.group_weights(dtype, weight.data_ptr(), n, k, kind.bits, kind.group, codes.data_ptr(), scales.data_ptr())
    return Parts(codes, scales)


def rounded(x: Tensor, group: int) -> Tensor:
    """``x`` (…, K), each ``group`` neighbours rounded to int8: multiples of a 127th of their largest magnitude; float32.

    Of NaN and infinities all of a group is NaN; numbers below 2^-120 are 0.
    """
    grouped = x.float().unflatten(-1, (-1, group))
    largest = grouped.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 2**-120, 127 / largest, 0)
    scale = torch.where(largest.isfinite(), largest / 127, math.nan)
    return ((grouped * inverse).round() * scale).flatten(-2)


class Grouped:
    """A weight whose codes are made when they are asked for; each part is given away, as what is packed of it is kept.

    ``key`` is equal for equal weights, as of a ``Value``.
    """

    def __init__(self, shape: tuple[int, int], kind: Kind, key: Hashable, make: Callable[[], Parts], name: str = "") -> None:
        self.shape, self.kind, self.key, self.name, self.parts = shape, kind, key, name, make
        self._made: dict[int, Tensor] = {}

    def _part(self, index: int) -> Tensor:
        if index not in self._made:
            self._made = dict(enumerate(self.parts().tensors()))
        return self._made.pop(index)

    def values(self) -> list[Value]:
        """The constants of a graph: codes, scales, minima if there are any. Read in this order, they are made once."""
        (n, k), kind = self.shape, self.kind
        shapes = [(n, k * kind.bits // 8), *[(n, k // kind.group)] * (1 + kind.has_minima)]
        dtypes = [torch.uint8, kind.dtype, kind.dtype]
        return [
            Value(shape, dtype, self.name, data=partial(self._part, index), identity=(self.key, index))
            for index, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
        ]


def join(weights: Sequence[Grouped]) -> Grouped:
    """One weight of all rows, of weights of one kind."""
    if len(weights) == 1:
        return weights[0]

    def make() -> Parts:
        each = [weight.parts() for weight in weights]
        return Parts(*[torch.cat(parts) for parts in zip(*[parts.tensors() for parts in each], strict=True)])

    shape = (sum(weight.shape[0] for weight in weights), weights[0].shape[1])
    return Grouped(shape, weights[0].kind, ("joined", *[weight.key for weight in weights]), make, weights[0].name)


def grouped(weight: Value, kind: Kind) -> Grouped:
    """A float constant, rounded when it is packed."""
    n, k = weight.shape
    return Grouped((n, k), kind, ("grouped", weight.key, kind), lambda: quantised(weight.constant, kind), weight.name)

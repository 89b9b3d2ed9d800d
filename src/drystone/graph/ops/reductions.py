"""Sums and means, softmax, and normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F

from drystone.graph.graph import Value
from drystone.graph.ops.operator import (
    IMAGE,
    ROWS,
    Axis,
    Finite,
    OneOf,
    Operator,
    Sample,
    Shape,
    Sizes,
    Step,
    Tensor,
    axis_of,
    rank_of,
    require,
    rising,
    takes,
    without_axes,
)

__all__ = ["GroupNorm", "LayerNorm", "LocalResponseNorm", "Norm", "Reduce", "Softmax"]


@dataclass(frozen=True)
class Reduce(Operator):
    """The mean or the sum over ``dims``, which rise."""

    name: ClassVar[str] = "reduce"
    converts: ClassVar[bool] = True
    quantises: ClassVar[bool] = True
    sample: ClassVar[Sample] = (("mean", (2, 3), False), [IMAGE], [])

    kind: Annotated[str, OneOf(("mean", "sum"))]
    dims: Sizes
    keepdim: bool

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        rising(self.dims, len(inputs[0].shape))
        return without_axes(inputs[0].shape, self.dims, self.keepdim)

    def run(self, inputs: list[Tensor]) -> Tensor:
        function = torch.mean if self.kind == "mean" else torch.sum
        return function(inputs[0], dim=self.dims, keepdim=self.keepdim)


@dataclass(frozen=True)
class Softmax(Operator):
    """Softmax along ``dim``."""

    name: ClassVar[str] = "softmax"
    converts: ClassVar[bool] = True
    sample: ClassVar[Sample] = ((2,), [ROWS], [])

    dim: Axis

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        axis_of(self.dim, rank_of(self, inputs, 1))
        return inputs[0].shape

    def run(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0].softmax(self.dim)


@dataclass(frozen=True)
class Norm(Operator):
    converts: ClassVar[bool] = True

    eps: Finite
    has_weight: bool
    has_bias: bool

    @property
    def operands(self) -> int:
        return 1 + self.has_weight + self.has_bias

    def _parameters(self, inputs: Sequence[Value], shape: Shape) -> None:
        takes(self, inputs, self.operands)
        require(all(value.shape == shape for value in inputs[1:]), f"weight and bias must be {list(shape)}")


@dataclass(frozen=True)
class LayerNorm(Norm):
    """Over ``dims`` (usually the last; (1,) is the channels-first kind), with a weight and a bias of their sizes if there are any.

    Not ``centred``, the mean counts as 0: RMSNorm.
    """

    name: ClassVar[str] = "layer_norm"
    quantises: ClassVar[bool] = True
    sample: ClassVar[Sample] = ((1e-5, False, False, (2,)), [ROWS], [])

    dims: Sizes
    centred: bool = True

    def shape(self, inputs: Sequence[Value]) -> Shape:
        shape = inputs[0].shape
        rising(self.dims, len(shape))
        self._parameters(inputs, tuple(shape[dim] for dim in self.dims))
        return shape

    def run(self, inputs: list[Tensor]) -> Tensor:
        x, *rest = inputs
        mean = x.mean(self.dims, keepdim=True) if self.centred else 0
        var = (x - mean).square().mean(self.dims, keepdim=True)
        x = (x - mean) / (var + self.eps).sqrt()
        # Weight and bias have the sizes of the normalised axes: put them there.
        placed = [size if dim in self.dims else 1 for dim, size in enumerate(x.shape)]
        rest = [tensor.reshape(placed) for tensor in rest]
        if self.has_weight:
            x = x * rest.pop(0)
        return x + rest.pop(0) if self.has_bias else x


@dataclass(frozen=True)
class GroupNorm(Norm):
    """Over the channels of each of ``groups`` and all spatial axes, with a weight (C) and a bias (C) if there are any."""

    name: ClassVar[str] = "group_norm"
    sample: ClassVar[Sample] = ((1e-5, False, False, 4), [IMAGE], [])

    groups: Step

    def shape(self, inputs: Sequence[Value]) -> Shape:
        rank_of(self, inputs, 2)
        shape = inputs[0].shape
        require(shape[1] % self.groups == 0, f"{shape[1]} channels in {self.groups} groups")
        self._parameters(inputs, shape[1:2])
        return shape

    def run(self, inputs: list[Tensor]) -> Tensor:
        x, *rest = inputs
        weight = rest.pop(0) if self.has_weight else None
        bias = rest.pop(0) if self.has_bias else None
        return F.group_norm(x, self.groups, weight, bias, self.eps)


@dataclass(frozen=True)
class LocalResponseNorm(Operator):
    """x / (k + alpha * mean of the squares of ``size`` channels around) ** beta, as ``torch.nn.LocalResponseNorm``."""

    name: ClassVar[str] = "lrn"
    keeps_dtype: ClassVar[bool] = True
    sample: ClassVar[Sample] = ((3, 1e-4, 0.75, 1.0), [IMAGE], [])

    size: Step
    alpha: Finite
    beta: Finite
    k: Finite

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        rank_of(self, inputs, 3, 5)
        return inputs[0].shape

    def run(self, inputs: list[Tensor]) -> Tensor:
        return F.local_response_norm(inputs[0], self.size, self.alpha, self.beta, self.k)

"""Convolutions and transposed ones, of one to three spatial axes. The weight is (O, C / groups, *kernel) for both."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from drystone.graph.graph import Value
from drystone.graph.ops.operator import IMAGE, Sample, Shape, SignedSteps, Sizes, Step, Steps, Tensor, per_axis, rank_of, require
from drystone.graph.ops.weight_product import WeightProduct

__all__ = ["Conv", "ConvTranspose", "Convolution"]


@dataclass(frozen=True)
class Convolution(WeightProduct):
    stride: Steps
    padding_l: Sizes
    padding_r: SignedSteps
    dilation: Steps
    groups: Step
    has_bias: bool

    def _axes(self, inputs: Sequence[Value]) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Along each axis: size, kernel, stride, padding on both sides, dilation."""
        weight, x = self.weight(inputs), inputs[0]
        rank = rank_of(self, inputs, 3, 5)
        require(len(weight.shape) == rank, f"{weight} is no weight for {x}")
        per_axis(self, rank - 2, "stride", "padding_l", "padding_r", "dilation")
        fits = weight.shape[0] % self.groups == 0 and x.shape[1] == weight.shape[1] * self.groups
        require(fits, f"{weight} in {self.groups} groups does not fit {x}")
        steps = self.stride, self.padding_l, self.padding_r, self.dilation
        return zip(x.shape[2:], weight.shape[2:], *steps, strict=True)


@dataclass(frozen=True)
class Conv(Convolution):
    """Convolution of x (N, C, *spatial), as ``torch.nn.functional.conv1d`` to ``conv3d``.

    Operands: x, weight (O, C / groups, *k), bias (O) if ``has_bias``, then those of the epilogue.
    """

    name: ClassVar[str] = "conv"
    sample: ClassVar[Sample] = ((*((1, 1),) * 4, 1, False), [IMAGE], [(16, 16, 3, 3)])

    padding_r: Sizes

    def shape(self, inputs: Sequence[Value]) -> Shape:
        sizes = []
        for size, kernel, stride, left, right, dilation in self._axes(inputs):
            room = size + left + right - dilation * (kernel - 1) - 1
            require(room >= 0, "the kernel is larger than its input")
            sizes.append(room // stride + 1)
        return (inputs[0].shape[0], inputs[1].shape[0], *sizes)

    def run(self, inputs: list[Tensor]) -> Tensor:
        x, weight, *rest = inputs
        pads = zip(reversed(self.padding_l), reversed(self.padding_r), strict=True)
        x = F.pad(x, list(itertools.chain.from_iterable(pads)))
        function = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
        return function(x, weight, rest[0] if self.has_bias else None, self.stride, 0, self.dilation, self.groups)


@dataclass(frozen=True)
class ConvTranspose(Convolution):
    """Transposed convolution, of operands as ``Conv``'s, the weight too (torch's is (C, O / groups, *k)).

    ``padding_l`` and ``padding_r`` are what the result lacks at its ends, the latter less torch's ``output_padding``: a negative
    one adds results that no kernel reaches.
    """

    name: ClassVar[str] = "conv_transpose"
    sample: ClassVar[Sample] = ((*((1, 1),) * 4, 1, False), [IMAGE], [(16, 16, 3, 3)])

    def shape(self, inputs: Sequence[Value]) -> Shape:
        sizes = []
        for size, kernel, stride, left, right, dilation in self._axes(inputs):
            require(right > -stride, "outputs of no input")
            sizes.append((size - 1) * stride + dilation * (kernel - 1) + 1 - left - right)
            require(sizes[-1] >= 1, "nothing is left of the output")
        return (inputs[0].shape[0], inputs[1].shape[0], *sizes)

    def operations(self, inputs: Sequence[Value], output: Value) -> int:
        x, weight = inputs[:2]  # each weight meets every input of its channel
        return 2 * x.numel // max(x.shape[1], 1) * weight.numel

    def run(self, inputs: list[Tensor]) -> Tensor:
        x, weight, *rest = inputs
        weight = weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.ndim - 3]
        whole = function(x, weight, None, self.stride, 0, 0, self.groups, self.dilation)
        cuts = zip(reversed(self.padding_l), reversed(self.padding_r), strict=True)
        result = F.pad(whole, [-cut for cut in itertools.chain.from_iterable(cuts)])
        return result + rest[0].reshape(-1, *(1,) * (x.ndim - 2)) if self.has_bias else result

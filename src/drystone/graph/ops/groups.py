"""Operators on weights that are codes with scales (``graph/groups.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from drystone.graph.dtypes import FLOATS, INDICES
from drystone.graph.graph import Value
from drystone.graph.groups import Kind, dequantised
from drystone.graph.ops.operator import ROWS, Operator, Sample, Shape, Step, Tensor, Whole, rank_of, require, takes
from drystone.graph.ops.weight_product import WeightProduct

__all__ = ["QuantisedLinear", "QuantisedRows"]

Bits = Annotated[int, Whole(4, 8)]


def check_groups(weight: Sequence[Value], bits: int, group: int, depth: int) -> int:
    """The rows of a weight of codes, scales, and minima if there are any, whose K is ``depth``. Raises ``OperatorError``."""
    codes, scales, *minima = weight
    require(bits in (4, 8), f"codes have 4 or 8 bits, not {bits}")
    require(all(value.is_constant for value in weight), "the weight is no constant")
    require(depth % group == 0, f"groups of {group} do not divide {depth}")
    require(group == depth or group % (32 // bits) == 0, f"groups of {group} codes do not fill words of 32 bits")
    fits = codes.dtype is torch.uint8 and len(codes.shape) == 2 and codes.shape[1] * 8 == depth * bits
    require(fits, f"{codes} are no codes of {bits} bits for {depth} numbers")
    shape = (codes.shape[0], depth // group)
    require(scales.dtype in (torch.float16, torch.float32), f"{scales} are no scales")
    require(all(value.shape == shape for value in (scales, *minima)), f"{scales} do not fit {codes}")
    require(all(value.dtype is scales.dtype for value in minima), "minima are of the dtype of scales")
    return shape[0]


@dataclass(frozen=True)
class QuantisedLinear(WeightProduct):
    """(…, K) by a constant (N, K) in codes of ``bits``, of which ``group`` along K share a scale.

    Operands: x, codes, scales, minima if ``has_minima``, bias (N) if ``has_bias``, then those of the epilogue.
    ``may_round_x``: x may be rounded to int8 in the same groups (``graph/groups.py``), where that is faster.
    """

    name: ClassVar[str] = "quantised_linear"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (*FLOATS, torch.uint8, torch.float16)
    sample: ClassVar[Sample] = ((False, 8, 8, False, False), [ROWS], [(torch.uint8, 16, 16), (torch.float16, 16, 2)])

    has_bias: bool
    bits: Bits
    group: Step
    has_minima: bool
    may_round_x: bool = False

    @property
    def operands(self) -> int:
        return 3 + self.has_minima + self.has_bias

    def operations(self, inputs: Sequence[Value], output: Value) -> int:
        return 2 * output.numel * inputs[0].shape[-1]

    def kind(self, inputs: Sequence[Value]) -> Kind:
        return Kind(self.bits, self.group, inputs[2].dtype, self.has_minima)

    def weight_of(self, inputs: Sequence[Value]) -> list[Value]:
        """Codes, scales, minima."""
        return list(inputs[1 : 3 + self.has_minima])

    def shape(self, inputs: Sequence[Value]) -> Shape:
        require(len(inputs) >= self.operands, "an operand is missing")
        rank_of(self, inputs, 1)
        x = inputs[0]
        n = check_groups(self.weight_of(inputs), self.bits, self.group, x.shape[-1])
        if (bias := self.bias(inputs)) is not None:
            require(bias.is_constant and bias.shape == (n,), f"{bias} is no bias")
        return (*x.shape[:-1], n)

    def check_dtypes(self, inputs: Sequence[Value], output: Value) -> None:
        floats = [inputs[0], output, *inputs[3 + self.has_minima :]]
        require(all(value.dtype in FLOATS for value in floats), "x, bias and result are float32 or bfloat16")

    def run(self, inputs: list[Tensor]) -> Tensor:
        x, codes, scales = inputs[:3]
        weight = dequantised(self.bits, codes, scales, inputs[3] if self.has_minima else None)
        bias = inputs[self.operands - 1] if self.has_bias else None
        return torch.nn.functional.linear(x, weight.to(x.dtype), bias)


@dataclass(frozen=True)
class QuantisedRows(Operator):
    """The rows, float32 or bfloat16, of a constant (N, K) in codes, at computed indices: an embedding.

    Operands: indices (int64 or int32), codes, scales, minima if ``has_minima``.
    """

    name: ClassVar[str] = "quantised_rows"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (*FLOATS, *INDICES, torch.uint8, torch.float16)
    sample: ClassVar[Sample] = ((8, 8, False), [(torch.int64, 2, 3)], [(torch.uint8, 16, 16), (torch.float16, 16, 2)])

    bits: Bits
    group: Step
    has_minima: bool

    @property
    def operands(self) -> int:
        return 3 + self.has_minima

    def weight_of(self, inputs: Sequence[Value]) -> list[Value]:
        """Codes, scales, minima."""
        return list(inputs[1:])

    def kind(self, inputs: Sequence[Value]) -> Kind:
        return Kind(self.bits, self.group, inputs[2].dtype, self.has_minima)

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, self.operands)
        codes = inputs[1]
        require(len(codes.shape) == 2, f"{codes} are no codes")
        depth = codes.shape[1] * 8 // self.bits
        check_groups(self.weight_of(inputs), self.bits, self.group, depth)
        return (*inputs[0].shape, depth)

    def check_dtypes(self, inputs: Sequence[Value], output: Value) -> None:
        require(inputs[0].dtype in INDICES, "indices are int64 or int32")
        require(output.dtype in FLOATS, "rows are float32 or bfloat16")

    def run(self, inputs: list[Tensor]) -> Tensor:
        indices, *weight = inputs
        if bool(((indices < 0) | (indices >= len(weight[0]))).any()):
            raise IndexError("index out of range in self")
        codes, scales, *minima = (part[indices.long()] for part in weight)
        return dequantised(self.bits, codes, scales, minima[0] if minima else None)

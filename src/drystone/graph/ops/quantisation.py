"""Between floats and the codes that they are quantised to. The quantisation is that of the values (``graph/quantisation.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F

from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Value
from drystone.graph.ops.operator import ROWS, Finite, Operator, Sample, Shape, Tensor, Whole, rank_of, require, takes
from drystone.graph.ops.weight_product import WeightProduct
from drystone.graph.quantisation import Dynamic

__all__ = ["Dequantise", "DynamicLinear", "Quantise"]


@dataclass(frozen=True)
class Quantise(Operator):
    """To the codes of the result, from floats or from the codes of another quantisation."""

    name: ClassVar[str] = "quantise"
    quantises: ClassVar[bool] = True
    sample: ClassVar[Sample] = ((), [ROWS], [])

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        return inputs[0].shape

    def check_dtypes(self, inputs: Sequence[Value], output: Value) -> None:
        require(output.quantisation is not None, "its result has no quantisation")

    def run(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0]


@dataclass(frozen=True)
class Dequantise(Operator):
    """To floats, from codes."""

    name: ClassVar[str] = "dequantise"
    quantises: ClassVar[bool] = True
    sample: ClassVar[Sample] = ((), [ROWS], [])

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        return inputs[0].shape

    def check_dtypes(self, inputs: Sequence[Value], output: Value) -> None:
        require(inputs[0].quantisation is not None, "its operand has no quantisation")
        require(output.dtype in FLOATS, "its result is no float")

    def run(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0]


Code = Annotated[int, Whole(-128, 255)]


@dataclass(frozen=True)
class DynamicLinear(WeightProduct):
    """``linear`` with a weight of codes, of x rounded to what codes from ``low`` to ``high`` stand for. The scale follows from
    its range in each call, or that of each of its rows (``Dynamic``)."""

    name: ClassVar[str] = "dynamic_linear"
    factors: ClassVar[int] = 0  # its precision is that of codes, whatever is asked for
    sample: ClassVar[Sample] = ((0, 255, 1e-7, False, False, False), [ROWS], [(16, 16)])

    low: Code
    high: Code
    eps: Finite
    symmetric: bool
    rows: bool
    has_bias: bool

    def shape(self, inputs: Sequence[Value]) -> Shape:
        weight, x = self.weight(inputs), inputs[0]
        low, high = self.low, self.high
        require(low < high and high - low <= 255 and (low >= 0 or high <= 127), f"codes from {low} to {high}")
        require(self.eps > 0, "the least scale is not positive")
        rank_of(self, inputs, 1)
        require(len(weight.shape) == 2 and x.shape[-1] == weight.shape[1], f"{weight} does not fit {x}")
        return (*x.shape[:-1], weight.shape[0])

    def check_dtypes(self, inputs: Sequence[Value], output: Value) -> None:
        require(inputs[0].dtype in FLOATS and inputs[0].quantisation is None, "x is no float")
        require(inputs[1].quantisation is not None, "the weight has no codes")

    def run(self, inputs: list[Tensor]) -> Tensor:
        x = Dynamic(self.low, self.high, self.eps, self.symmetric, self.rows).rounded(inputs[0])
        return F.linear(x, inputs[1], inputs[2] if self.has_bias else None)

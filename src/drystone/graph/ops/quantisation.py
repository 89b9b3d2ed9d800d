"""Between floats and the codes that they are quantised to. The quantisation is that of the values (``graph/quantisation.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Value
from drystone.graph.ops.operator import ROWS, Operator, Sample, Shape, Tensor, require, takes

__all__ = ["Dequantise", "Quantise"]


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

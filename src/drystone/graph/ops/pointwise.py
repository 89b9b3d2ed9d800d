"""Chains of elementwise instructions on floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drystone.graph.graph import Value
from drystone.graph.instructions import PointwiseOp, run_instructions
from drystone.graph.ops.operator import IMAGE, Operator, Sample, Shape, Tensor, check_instructions, require, together

__all__ = ["Pointwise"]


@dataclass(frozen=True)
class Pointwise(Operator):
    """``ops`` in turn, on operands and on results before: what the last gives, in the shape that the operands broadcast to.

    Batch norm in inference is one of mul and add with constants of shape (C, 1, …), of sub, mul and add where a running mean is far
    from zero.
    """

    name: ClassVar[str] = "pointwise"
    converts: ClassVar[bool] = True
    quantises: ClassVar[bool] = True
    sample: ClassVar[Sample] = (((PointwiseOp("add", (("in", 0), ("in", 1))),),), [IMAGE, IMAGE], [])

    ops: tuple[PointwiseOp, ...]

    def shape(self, inputs: Sequence[Value]) -> Shape:
        require(self.ops, "it has no instructions")
        check_instructions(self.ops)
        read = max((index for op in self.ops for where, index in op.args if where == "in"), default=0)
        require(read < len(inputs), f"it reads operand {read} of {len(inputs)}")
        return together([value.shape for value in inputs])

    def run(self, inputs: list[Tensor]) -> Tensor:
        return run_instructions(self.ops, inputs)

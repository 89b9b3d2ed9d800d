"""The base of convolutions and linear layers: products of what is computed with a constant weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from drystone.graph.graph import Value
from drystone.graph.ops.operator import Operator, require

__all__ = ["WeightProduct"]


class WeightProduct(Operator):
    """Operands are x, the weight with its outputs first, and a bias of as many entries if there is one."""

    has_bias: bool  # a field of each

    converts: ClassVar[bool] = True
    factors: ClassVar[int] = 2
    takes_epilogue: ClassVar[bool] = True
    quantises: ClassVar[bool] = True

    @property
    def operands(self) -> int:
        return 2 + self.has_bias

    def bias(self, inputs: Sequence[Value]) -> Value | None:
        """The last operand before those of the epilogue."""
        return inputs[self.operands - 1] if self.has_bias else None

    def operations(self, inputs: Sequence[Value], output: Value) -> int:
        weight = inputs[1]  # each of which meets every output of its channel
        return 2 * output.numel // max(weight.shape[0], 1) * weight.numel

    def weight(self, inputs: Sequence[Value]) -> Value:
        """The weight, after it and the bias are looked at."""
        require(len(inputs) >= self.operands, "an operand is missing")
        weight = inputs[1]
        require(weight.is_constant, "the weight is no constant")
        for bias in inputs[2 : self.operands]:
            require(bias.is_constant and bias.shape == weight.shape[:1], f"{bias} is no bias")
        return weight

"""Linear layers by the own GEMM on packed weights."""

from __future__ import annotations

import torch

from drystone import native
from drystone.graph.graph import Node, Value
from drystone.graph.ops import Linear, QuantisedLinear, QuantisedRows
from drystone.plan.formats import PLAIN
from drystone.plan.implementations.base import CodedWeight, Context, Created, Implementation, Layout, WeightStore
from drystone.plan.implementations.linear import PackedLinear, stored_narrow

MAX_EPILOGUE = 8


class Gemm(PackedLinear):
    """Weights are packed into strips of columns in the order in which they are consumed, each strip is used for all rows before
    the next one, which is fetched meanwhile; the epilogue works on tiles in the first level cache.

    ``narrow``: weights stored as bfloat16 stay so when they are packed, and are widened in registers: half the memory traffic.
    """

    def __init__(self, narrow: bool = False) -> None:
        self.narrow = narrow
        self.name = "drystone_gemm_narrow" if narrow else "drystone_gemm"

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or self._own_reason(node)

    def _own_reason(self, node: Node) -> str | None:
        if self.narrow and not stored_narrow(node):
            return "the weight is of the dtype of x"
        return too_long(node)

    def step(
        self,
        node: Node,
        x: native.TensorDesc,
        output: native.TensorDesc,
        chain: list[native.PostOp],
        coded: CodedWeight,
    ) -> native.Gemm:
        return native.Gemm(x, output.shape[1], node.of(Linear).has_bias, output, chain, self.narrow, *coded)


class GroupedGemm(PackedLinear):
    """The same on weights of 4 or 8 bits, which are decoded when they are read: in registers for a few rows, else by the strip.

    ``rounds_x``: x is rounded to codes of 8 bits, and codes are multiplied.
    """

    op = QuantisedLinear

    def __init__(self, rounds_x: bool = False) -> None:
        self.rounds_x = rounds_x
        self.name = "drystone_gemm_rounded" if rounds_x else "drystone_gemm"

    def refuses(self, node: Node) -> str | None:
        return Implementation.refuses(self, node) or self._own_reason(node)

    def _own_reason(self, node: Node) -> str | None:
        if self.rounds_x and not node.of(QuantisedLinear).may_round_x:
            return 'x is not rounded without activations="int8"'
        return too_long(node)

    def step(
        self,
        node: Node,
        x: native.TensorDesc,
        output: native.TensorDesc,
        chain: list[native.PostOp],
        coded: CodedWeight,
    ) -> native.Gemm:
        op = node.of(QuantisedLinear)
        strips = strips_of(op.weight_of(node.inputs), op)
        return native.Gemm(x, output.shape[1], op.has_bias, output, chain, groups=strips, rounds_x=self.rounds_x)

    def packed(self, node: Node, step: native.Gemm | native.Linear, weights: WeightStore) -> torch.Tensor:
        op = node.of(QuantisedLinear)
        weight = op.weight_of(node.inputs)
        return weights.packed_groups(strips_of(weight, op), weight)


class GroupedRows(Implementation):
    """Rows of an embedding, decoded out of what the GEMM reads: a last layer that shares the weight shares its memory."""

    op = QuantisedRows
    name = "drystone"

    def layouts(self, node: Node) -> list[Layout]:
        return [Layout(tuple([None if value.is_constant else PLAIN for value in node.inputs]), PLAIN)]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        op = node.of(QuantisedRows)
        weight = op.weight_of(node.inputs)
        strips = strips_of(weight, op)
        step = native.grouped_rows(strips, inputs[0], output)
        return Created(step, [context.weights.packed_groups(strips, weight), context.operand(node, 0), ("out", 0)])


def strips_of(weight: list[Value], op: QuantisedLinear | QuantisedRows) -> native.GroupedStrips:
    codes, scales, *minima = weight
    n, k = codes.shape[0], codes.shape[1] * 8 // op.bits
    return native.GroupedStrips(n, k, op.bits, op.group, native.DTYPES[scales.dtype], bool(minima))


def too_long(node: Node) -> str | None:
    return f"the GEMM takes {MAX_EPILOGUE} instructions after it at most" if len(node.epilogue) > MAX_EPILOGUE else None

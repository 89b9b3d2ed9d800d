"""dynamic_linear by the own GEMM, which finds the range of x or of each row, rounds it to codes and multiplies these."""

from __future__ import annotations

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.ops import DynamicLinear
from drystone.plan.implementations.base import CodedWeight
from drystone.plan.implementations.gemm import too_long
from drystone.plan.implementations.linear import PackedLinear


class DynamicGemm(PackedLinear):
    op = DynamicLinear
    name = "drystone_gemm"

    def refuses(self, node: Node) -> str | None:
        return too_long(node) or super().refuses(node)

    def step(
        self,
        node: Node,
        x: native.TensorDesc,
        output: native.TensorDesc,
        chain: list[native.PostOp],
        coded: CodedWeight,
    ) -> native.Gemm:
        op, n = node.of(DynamicLinear), node.inputs[1].shape[0]
        codes, by = (op.low, op.high), "row" if op.rows else "tensor"
        return native.Gemm(x, n, op.has_bias, output, chain, False, *coded, by, op.symmetric, codes, op.eps)

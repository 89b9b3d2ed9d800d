"""matmul (a linear layer) by the own GEMM on packed weights."""

from __future__ import annotations

import math

import torch

from drystone import native
from drystone.graph.graph import Node
from drystone.plan.formats import PLAIN
from drystone.plan.implementations.base import Context, Created, Implementation, Layout
from drystone.plan.implementations.epilogue import post_ops
from drystone.plan.implementations.linear import as_rows, linear_reason

MAX_EPILOGUE = 8


class Gemm(Implementation):
    """All axes but the last are rows: x (…, K) is read as (M, K).

    Weights are packed into strips of columns in the order in which they are consumed, each strip is used for all rows before
    the next one, which is fetched meanwhile; the epilogue works on tiles in the first level cache.
    """

    op = "matmul"
    name = "drystone_gemm"

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or linear_reason(node) or _own_reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        return [Layout(tuple(PLAIN if not value.is_constant else None for value in node.inputs), PLAIN)]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        weight = node.inputs[1]
        n, k = weight.shape
        m = math.prod(node.output.shape[:-1])
        if not inputs[0].is_dense or not output.is_dense:
            raise ValueError("a matmul reads and writes dense memory")
        rows = [as_rows(desc, m, n) if node.epilogue and i >= node.epilogue_start else desc for i, desc in enumerate(inputs)]
        target = as_rows(output, m, n)
        chain, operands, overwrites = post_ops(node, rows, target, context.free_inputs)
        x = native.TensorDesc.dense(inputs[0].dtype, native.FORMATS["plain"], [m, k])
        step = native.Gemm(x, n, node.attrs["has_bias"], target, chain)
        constants: list[torch.Tensor] = [context.weights.packed(step, weight)]
        if node.attrs["has_bias"]:
            constants.append(context.weights.plain(node.inputs[2], torch.float32))
        return Created(step, [("in", 0), *constants, ("out", 0), *operands], overwrites=overwrites)


def _own_reason(node: Node) -> str | None:
    if node.inputs[0].dtype != node.inputs[1].dtype:
        return "x and the weight are not of one dtype"
    if len(node.epilogue) > MAX_EPILOGUE:
        return f"the GEMM takes {MAX_EPILOGUE} instructions after it at most"
    return None

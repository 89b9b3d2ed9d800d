"""matmul (a linear layer) by the own GEMM on packed weights."""

from __future__ import annotations

from drystone import native
from drystone.graph.graph import Node
from drystone.plan.implementations.linear import Linear

MAX_EPILOGUE = 8


class Gemm(Linear):
    """Weights are packed into strips of columns in the order in which they are consumed, each strip is used for all rows before
    the next one, which is fetched meanwhile; the epilogue works on tiles in the first level cache.
    """

    name = "drystone_gemm"

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or _own_reason(node)

    def step(
        self, x: native.TensorDesc, n: int, has_bias: bool, output: native.TensorDesc, chain: list[native.PostOp]
    ) -> native.Gemm:
        return native.Gemm(x, n, has_bias, output, chain)


def _own_reason(node: Node) -> str | None:
    if node.inputs[0].dtype != node.inputs[1].dtype:
        return "x and the weight are not of one dtype"
    if len(node.epilogue) > MAX_EPILOGUE:
        return f"the GEMM takes {MAX_EPILOGUE} instructions after it at most"
    return None

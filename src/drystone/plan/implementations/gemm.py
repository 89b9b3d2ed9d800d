"""Linear layers by the own GEMM on packed weights."""

from __future__ import annotations

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.ops import Linear
from drystone.plan.implementations.base import CodedWeight
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
        if len(node.epilogue) > MAX_EPILOGUE:
            return f"the GEMM takes {MAX_EPILOGUE} instructions after it at most"
        return None

    def step(
        self,
        node: Node,
        x: native.TensorDesc,
        output: native.TensorDesc,
        chain: list[native.PostOp],
        coded: CodedWeight,
    ) -> native.Gemm:
        return native.Gemm(x, output.shape[1], node.of(Linear).has_bias, output, chain, self.narrow, *coded)

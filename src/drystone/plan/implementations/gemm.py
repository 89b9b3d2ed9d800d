"""Linear layers by the own GEMM on packed weights."""

from __future__ import annotations

import torch

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.ops import Linear, QuantisedLinear
from drystone.plan.implementations.base import CodedWeight, Implementation, WeightStore
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
        return _too_long(node)

    def step(
        self,
        node: Node,
        x: native.TensorDesc,
        output: native.TensorDesc,
        chain: list[native.PostOp],
        coded: CodedWeight,
    ) -> native.Gemm:
        return native.Gemm(x, output.shape[1], node.of(Linear).has_bias, output, chain, self.narrow, *coded)


class CodedGemm(PackedLinear):
    """The same on weights of 4 or 8 bits, which are decoded when they are read: in registers for a few rows, else by the strip."""

    op = QuantisedLinear
    name = "drystone_gemm"

    def refuses(self, node: Node) -> str | None:
        return Implementation.refuses(self, node) or self._own_reason(node)

    def _own_reason(self, node: Node) -> str | None:
        op = node.of(QuantisedLinear)
        constants = [*op.weight_of(node.inputs), *([] if (bias := op.bias(node.inputs)) is None else [bias])]
        if not all(value.is_constant for value in constants):
            return "the weight or the bias is not a constant"
        return _too_long(node)

    def step(
        self,
        node: Node,
        x: native.TensorDesc,
        output: native.TensorDesc,
        chain: list[native.PostOp],
        coded: CodedWeight,
    ) -> native.Gemm:
        op = node.of(QuantisedLinear)
        kind = op.kind(node.inputs)
        codes = native.GemmCodes(kind.bits, kind.group, native.DTYPES[kind.dtype], kind.has_minima)
        return native.Gemm(x, output.shape[1], op.has_bias, output, chain, weight_codes=codes)

    def packed(self, node: Node, step: native.Gemm | native.Linear, weights: WeightStore) -> torch.Tensor:
        assert isinstance(step, native.Gemm)
        return weights.packed_codes(step, node.of(QuantisedLinear).weight_of(node.inputs))


def _too_long(node: Node) -> str | None:
    return f"the GEMM takes {MAX_EPILOGUE} instructions after it at most" if len(node.epilogue) > MAX_EPILOGUE else None

"""Linear layers: what their implementations share, and those by oneDNN, as a matmul or as an inner product."""

from __future__ import annotations

import math

import torch

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.ops import Linear, Operator, WeightProduct
from drystone.plan.formats import PLAIN, densely
from drystone.plan.implementations.base import (
    CodedWeight,
    Context,
    Created,
    Implementation,
    Layout,
    WeightStore,
    float_reason,
    number_reason,
)
from drystone.plan.implementations.epilogue import post_ops


class PackedLinear(Implementation):
    """All axes but the last are rows: x (…, K) is read as (M, K). Weights are packed, biases float32.

    Weights may be stored as bfloat16 where x is float32: they are widened when they are packed, or, ``narrow``, when they are read.
    """

    op: type[Operator] = Linear
    narrow = False

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or _reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        return [Layout(tuple(PLAIN if not value.is_constant else None for value in node.inputs), PLAIN)]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        k, n = node.inputs[0].shape[-1], node.output.shape[-1]
        m = math.prod(node.output.shape[:-1])
        if not inputs[0].is_dense or not output.is_dense:
            raise ValueError("a linear layer reads and writes dense memory")
        rows = [_as_rows(desc, m, n) if node.epilogue and i >= node.epilogue_start else desc for i, desc in enumerate(inputs)]
        target = _as_rows(output, m, n)
        chain, operands, overwrites = post_ops(node, rows, target, context.free_inputs)
        x = densely(inputs[0], [m, k], PLAIN)
        step = self.step(node, x, target, chain, context.weights.coded(node.inputs[1]))
        return context.product_of(node, step, self.packed(node, step, context.weights), operands, overwrites)

    def step(
        self,
        node: Node,
        x: native.TensorDesc,
        output: native.TensorDesc,
        chain: list[native.PostOp],
        coded: CodedWeight,
    ) -> native.Gemm | native.Linear:
        """The step for x (M, K) and output (M, N).

        ``coded``: of weights of codes. Raises ``ValueError`` where the native side declines them.
        """
        raise NotImplementedError

    def packed(self, node: Node, step: native.Gemm | native.Linear, weights: WeightStore) -> torch.Tensor:
        weight = node.inputs[1]
        return weights.packed(step, weight, weight.dtype if self.narrow or weight.quantisation else node.inputs[0].dtype)


class OneDnnLinear(PackedLinear):
    packs_for_sizes = True

    def __init__(self, inner_product: bool) -> None:
        self.inner_product = inner_product
        self.name = "onednn_inner_product" if inner_product else "onednn_matmul"

    def refuses(self, node: Node) -> str | None:
        codes = self.inner_product and node.inputs[0].quantisation is not None
        return "codes are multiplied by oneDNN's matmul" if codes else super().refuses(node)

    def step(
        self,
        node: Node,
        x: native.TensorDesc,
        output: native.TensorDesc,
        chain: list[native.PostOp],
        coded: CodedWeight,
    ) -> native.Linear:
        step = native.Linear(self.inner_product, x, output.shape[1], node.of(WeightProduct).has_bias, output, chain, *coded)
        if step.implementation.startswith(("ref", "gemm:ref")):
            raise ValueError("oneDNN has only its reference implementation")
        return step


def _reason(node: Node) -> str | None:
    """Why the node is no linear layer of floats, or None."""
    if node.output.numel == 0 or node.inputs[1].numel == 0:
        return "a linear layer without elements"
    if node.inputs[1].quantisation is not None:
        return number_reason(node)
    if node.inputs[0].dtype != node.inputs[1].dtype and not stored_narrow(node):
        return "x and the weight are not of one dtype"
    return float_reason(node)


def stored_narrow(node: Node) -> bool:
    """Whether the weight is bfloat16 in storage alone: x is float32, and so are the products."""
    return node.inputs[0].dtype == torch.float32 and node.inputs[1].dtype == torch.bfloat16


def _as_rows(desc: native.TensorDesc, m: int, n: int) -> native.TensorDesc:
    """An epilogue operand (or the output) as (M, N), (1, N) or (1, 1). Raises ``ValueError`` for other broadcasts."""
    count = math.prod(desc.shape)
    last = desc.shape[-1] if desc.shape else 1
    if count == m * n and last == n and desc.is_dense:
        shape = [m, n]
    elif count == n == last:
        shape = [1, n]
    elif count == 1:
        shape = [1, 1]
    else:
        raise ValueError(f"an operand of shape {list(desc.shape)} in the epilogue of an {m} x {n} linear")
    return densely(desc, shape, PLAIN)

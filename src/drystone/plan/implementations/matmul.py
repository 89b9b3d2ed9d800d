"""matmul, the product of two computed matrices, by oneDNN: operands that are permuted are read where they lie."""

from __future__ import annotations

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.ops import Matmul
from drystone.plan.formats import PLAIN, seen_as
from drystone.plan.implementations.base import Context, Created, Implementation, Layout, float_reason


class OneDnnMatmul(Implementation):
    """Batch axes of one operand may be 1 where the other's are not."""

    name = "onednn_matmul"
    op = Matmul

    def refuses(self, node: Node) -> str | None:
        if any(value.numel == 0 for value in [*node.inputs, node.output]):
            return "a product without elements"
        return super().refuses(node) or float_reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        return [Layout(tuple(None if value.is_constant else PLAIN for value in node.inputs), PLAIN)]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        a, b = (_seen(desc, dims) for desc, dims in zip(inputs, node.of(Matmul).dims, strict=True))
        step = native.Matmul(a, b, output)
        if step.implementation.startswith(("ref", "gemm:ref")):
            raise ValueError("oneDNN has only its reference implementation")
        return Created(step, [context.operand(node, 0), context.operand(node, 1), ("out", 0)])


def _seen(desc: native.TensorDesc, dims: tuple[int, ...]) -> native.TensorDesc:
    """The operand with its axes in the order in which the product takes them."""
    return seen_as(desc, [desc.shape[d] for d in dims], [desc.strides[d] for d in dims])

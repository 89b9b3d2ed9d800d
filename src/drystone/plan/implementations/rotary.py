"""rotary, a rotary position embedding, by the own kernel: x may be permuted or lie with holes."""

from __future__ import annotations

from drystone import native
from drystone.graph import ops
from drystone.graph.graph import Node
from drystone.plan.formats import PLAIN
from drystone.plan.implementations.base import Context, Created, Implementation, Layout, float_reason


class Rotary(Implementation):
    name = "drystone"
    op = ops.Rotary

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or float_reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        return [Layout(tuple(None if value.is_constant else PLAIN for value in node.inputs), PLAIN)]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        x, cosines, sines = inputs
        dims = node.of(ops.Rotary).dims
        seen = native.TensorDesc(x.dtype, x.format, [x.shape[d] for d in dims], [x.strides[d] for d in dims])
        step = native.rotary(seen, cosines, sines, output)
        return Created(step, [*(context.operand(node, i) for i in range(3)), ("out", 0)])

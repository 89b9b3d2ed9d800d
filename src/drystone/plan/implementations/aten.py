"""ATen: torch itself computes the node, on tensors that alias the arena. Always there, never first."""

from __future__ import annotations

from drystone import native
from drystone.graph import ops
from drystone.graph.graph import Node
from drystone.graph.ops.operator import evaluate
from drystone.plan.formats import PLAIN
from drystone.plan.implementations.base import Context, Created, Implementation, Layout


class Aten(Implementation):
    name = "aten"

    def refuses(self, node: Node) -> str | None:
        return None

    def layouts(self, node: Node) -> list[Layout]:
        return [Layout(tuple(PLAIN if not value.is_constant else None for value in node.inputs), PLAIN)]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        if isinstance(node.op, ops.Aten):
            return Created(call=node.op.prepared())
        return Created(call=lambda tensors: evaluate(node, tensors))

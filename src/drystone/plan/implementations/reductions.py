"""reduce, softmax, layer_norm and group_norm by the own kernels."""

from __future__ import annotations

from dataclasses import replace

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.ops import GroupNorm, LayerNorm, Operator, Reduce, Softmax
from drystone.plan.implementations.base import Context, Created, Implementation, Layout, float_reason, joint_layouts, number_reason


class Reduction(Implementation):
    """One of the operators whose statistics are kept in float32."""

    name = "drystone"

    def __init__(self, op: type[Operator]) -> None:
        self.op = op
        self.reads_strided = 256 if op is Reduce else 64  # shorter runs are copied faster

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or self._reason(node)

    def _reason(self, node: Node) -> str | None:
        if self.op is Reduce:
            return number_reason(node)
        if self.op is LayerNorm and node.output.quantisation is not None:  # it rounds its results to codes
            return float_reason(replace(node, outputs=[]))
        return float_reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        return joint_layouts(node, node.inputs[0])

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        op = node.op
        if isinstance(op, Reduce):
            step = native.reduce(inputs[0], output, op.kind, list(op.dims))
        elif isinstance(op, Softmax):
            step = native.softmax(inputs[0], output, op.dim)
        else:
            assert isinstance(op, (LayerNorm, GroupNorm))
            weight = inputs[1] if op.has_weight else None
            bias = inputs[1 + op.has_weight] if op.has_bias else None
            if isinstance(op, LayerNorm):
                kind, dims, groups = "layer" if op.centred else "rms", list(op.dims), 1
            else:
                kind, dims, groups = "group", [], op.groups
            step = native.norm(inputs[0], weight, bias, output, kind, dims, groups, op.eps)
        return Created(step, [*(context.operand(node, i) for i in range(len(inputs))), ("out", 0)])


REDUCTIONS = [Reduction(op) for op in (Reduce, Softmax, LayerNorm, GroupNorm)]

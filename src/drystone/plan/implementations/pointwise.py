"""Pointwise chains by the own kernel, in each format; conversions between dtypes by it too, or by oneDNN's reorder."""

from __future__ import annotations

from drystone import native
from drystone.graph import ops
from drystone.graph.graph import Node
from drystone.plan.formats import formats_of
from drystone.plan.implementations.base import (
    Context,
    Created,
    Implementation,
    Layout,
    Operand,
    float_reason,
    joint_layouts,
    number_reason,
)


class Pointwise(Implementation):
    name = "drystone"
    op = ops.Pointwise
    reads_strided = 32  # shorter runs are copied faster

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or number_reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        return joint_layouts(node, node.output)

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        chain = [(op.kind, list(op.args), op.alpha, op.beta) for op in node.of(ops.Pointwise).ops]
        step = native.pointwise(inputs, output, chain)
        operands: list[Operand] = [context.operand(node, i) for i in range(len(inputs))]
        overwrites = None
        for i in sorted(context.free_inputs):
            d = inputs[i]
            if d.shape == output.shape and d.dtype == output.dtype and d.strides == output.strides and d.format == output.format:
                overwrites = i
                break
        return Created(step, [*operands, ("out", 0)], overwrites=overwrites)


class Convert(Implementation):
    """To another dtype, where it lies."""

    name = "drystone"
    op = ops.Convert

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or float_reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        return joint_layouts(node, node.output)

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        return Created(native.pointwise(inputs, output, [("copy", [("in", 0)], 0.0, 0.0)]), [context.operand(node, 0), ("out", 0)])


class OneDnnConvert(Implementation):
    """To another dtype, and to any format on the way."""

    name = "onednn_reorder"
    op = ops.Convert

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or float_reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        return [Layout((source,), target) for source in formats_of(node.inputs[0]) for target in formats_of(node.output)]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        step = native.Reorder(inputs[0], output)
        if "ref" in step.implementation or "simple" in step.implementation:
            raise ValueError("oneDNN converts number by number")
        return Created(step, [context.operand(node, 0), ("out", 0)])

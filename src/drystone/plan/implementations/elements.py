"""Operators on integers and truth values (and floats as they are): elementwise, aggregates, entries by index, order. All plain."""

from __future__ import annotations

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.ops import Aggregate, Convert, Elementwise, Index, IndexCopy, Operator, Topk
from drystone.plan.formats import PLAIN, dense
from drystone.plan.implementations.base import Context, Created, Implementation, Layout, float_reason


class Elements(Implementation):
    """elementwise, aggregate, index, index_copy and topk, and the conversions that oneDNN lacks."""

    name = "drystone"

    def __init__(self, op: type[Operator]) -> None:
        self.op = op
        self.reads_strided = 64 if op is Elementwise else None  # shorter runs are copied faster

    def refuses(self, node: Node) -> str | None:
        if self.op is Convert and float_reason(node) is None:
            return "a conversion between floats"
        missing = next((value.dtype for value in [*node.inputs, *node.outputs] if value.dtype not in native.DTYPES), None)
        return super().refuses(node) or (f"{missing} has no native kernel" if missing else None)

    def layouts(self, node: Node) -> list[Layout]:
        return [Layout(tuple(None if value.is_constant else PLAIN for value in node.inputs), PLAIN)]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        op = node.op
        if isinstance(op, Aggregate):
            step = native.aggregate(inputs[0], output, op.kind, list(op.dims))
        elif isinstance(op, Index) and op.caller == "gather":
            step = native.gather(inputs[0], inputs[1], output, op.dim)
        elif isinstance(op, Index):
            step = native.index(inputs[0], inputs[1:], output, op.dim, op.wraps, op.caller)
        elif isinstance(op, IndexCopy):
            step = native.index_copy(inputs[0], inputs[1], inputs[2], output, op.dim, op.wraps)
            operands = [context.operand(node, i) for i in range(3)]
            return Created(step, [*operands, ("out", 0)], overwrites=0 if 0 in context.free_inputs else None)
        elif isinstance(op, Topk):
            step = native.topk(inputs[0], output, dense(node.outputs[1], PLAIN), op.dim, op.largest, op.sorted)
        else:
            step = native.elementwise(inputs, output, op.kind if isinstance(op, Elementwise) else "convert")
        return Created(
            step, [*(context.operand(node, i) for i in range(len(inputs))), *(("out", i) for i in range(len(node.outputs)))]
        )


ELEMENTS = [Elements(op) for op in (Elementwise, Aggregate, Index, IndexCopy, Topk, Convert)]

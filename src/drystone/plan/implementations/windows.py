"""pool, resize, grid_sample, overlap_add and lrn by the own kernels."""

from __future__ import annotations

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.ops import GridSample, LocalResponseNorm, Operator, OverlapAdd, Pool, Resize
from drystone.plan.formats import PLAIN, formats_of
from drystone.plan.implementations.base import Context, Created, Implementation, Layout, float_reason, joint_layouts, number_reason


class Window(Implementation):
    """An operator that reads a neighbourhood of each position."""

    name = "drystone"

    def __init__(self, op: type[Operator]) -> None:
        self.op = op

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or (number_reason(node) if self.op is Pool else float_reason(node))

    def layouts(self, node: Node) -> list[Layout]:
        if isinstance(node.op, GridSample):  # its grid is read as a list of places
            grid = None if node.inputs[1].is_constant else PLAIN
            return [Layout((format, grid), format) for format in formats_of(node.output)]
        if self.op is OverlapAdd:
            return [Layout((PLAIN,), PLAIN)]
        return joint_layouts(node, node.output)

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        op = node.op
        if isinstance(op, Pool):
            windows = [list(axis) for axis in op.windows]
            divisors = [list(axis) for axis in op.divisors or [[1] * len(axis) for axis in windows]]
            step = native.pool(inputs[0], output, op.kind, windows, divisors, op.divisor_override or 0)
        elif isinstance(op, Resize):
            step = native.resize(inputs[0], output, op.mode, op.align_corners, list(op.scales))
        elif isinstance(op, GridSample):
            step = native.grid_sample(inputs[0], inputs[1], output, op.mode, op.padding, op.align_corners)
        elif isinstance(op, OverlapAdd):
            step = native.overlap_add(inputs[0], output, list(op.kernel), list(op.strides), list(op.dilations), list(op.padding))
        else:
            norm = node.of(LocalResponseNorm)
            step = native.lrn(inputs[0], output, norm.size, norm.alpha, norm.beta, norm.k)
        return Created(step, [*(context.operand(node, index) for index in range(len(inputs))), ("out", 0)])


WINDOWS = [Window(op) for op in (Pool, Resize, GridSample, OverlapAdd, LocalResponseNorm)]

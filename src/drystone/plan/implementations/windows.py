"""pool, resize and lrn by the own kernels."""

from __future__ import annotations

from drystone import native
from drystone.graph.graph import Node
from drystone.plan.implementations.base import Context, Created, Implementation, Layout, float_reason, joint_layouts


class Window(Implementation):
    """An operator that reads a neighbourhood of each position."""

    name = "drystone"

    def __init__(self, op: str) -> None:
        self.op = op

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or float_reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        return joint_layouts(node, node.output)

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        a = node.attrs
        if self.op == "pool":
            windows = [list(axis) for axis in a["windows"]]
            divisors = [list(axis) for axis in a.get("divisors") or [[1] * len(axis) for axis in windows]]
            step = native.pool(inputs[0], output, a["kind"], windows, divisors, a.get("divisor_override") or 0)
        elif self.op == "resize":
            step = native.resize(inputs[0], output, a["mode"], a["align_corners"], list(a["scales"]))
        else:
            step = native.lrn(inputs[0], output, a["size"], a["alpha"], a["beta"], a["k"])
        return Created(step, [context.operand(node, 0), ("out", 0)])

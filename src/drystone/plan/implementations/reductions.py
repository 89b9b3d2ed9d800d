"""reduce, softmax, layer_norm and group_norm by the own kernels."""

from __future__ import annotations

from drystone import native
from drystone.graph.graph import Node
from drystone.plan.implementations.base import Context, Created, Implementation, Layout, float_reason, joint_layouts


class Reduction(Implementation):
    """One of the operators whose statistics are kept in float32."""

    name = "drystone"

    def __init__(self, op: str) -> None:
        self.op = op

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or float_reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        return joint_layouts(node, node.inputs[0])

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        a = node.attrs
        if self.op == "reduce":
            step = native.reduce(inputs[0], output, a["kind"], list(a["dims"]))
        elif self.op == "softmax":
            step = native.softmax(inputs[0], output, a["dim"])
        else:
            weight = inputs[1] if a["has_weight"] else None
            bias = inputs[1 + a["has_weight"]] if a["has_bias"] else None
            layer = self.op == "layer_norm"
            of_axes = "layer" if a.get("centred", True) else "rms"
            kind, dims, groups = (of_axes, list(a["dims"]), 1) if layer else ("group", [], a["groups"])
            step = native.norm(inputs[0], weight, bias, output, kind, dims, groups, a["eps"])
        return Created(step, [*(context.operand(node, i) for i in range(len(inputs))), ("out", 0)])

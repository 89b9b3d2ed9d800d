"""conv in groups of whole vectors of channels by the own direct kernel."""

from __future__ import annotations

import math

import torch

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.ops import Conv
from drystone.plan.formats import CHANNELS_LAST
from drystone.plan.implementations.base import Context, Created, Implementation, Layout
from drystone.plan.implementations.epilogue import post_ops


class Direct(Implementation):
    """Direct convolution of floats over one or two axes, of one group or several, in the formats in which vectors of channels lie
    together. ``winograd``: those that multiply less, where they serve."""

    op = Conv
    name = "drystone_direct"

    def __init__(self, winograd: tuple[Implementation, ...]) -> None:
        self.winograd = winograd

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or _reason(node) or self._slower_reason(node)

    def _slower_reason(self, node: Node) -> str | None:
        if any(other.refuses(node) is None for other in self.winograd):
            return "Winograd's filtering takes fewer multiplications"
        if node.of(Conv).groups == 1 and math.prod(node.inputs[1].shape[2:]) == 1:
            return "oneDNN's kernel for one tap is faster"
        return None

    def layouts(self, node: Node) -> list[Layout]:
        return [
            Layout(tuple(None if value.is_constant else format for value in node.inputs), format)
            for format in (CHANNELS_LAST, native.blocked().name)
        ]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        chain, operands, overwrites = post_ops(node, inputs, output, context.free_inputs)
        op, shape = node.of(Conv), list(node.inputs[1].shape)
        sides = list(op.stride), list(op.padding_l), list(op.padding_r), list(op.dilation)
        step = native.Direct(inputs[0], shape, op.has_bias, output, *sides, chain)
        return context.product(node, step, operands, overwrites)


def _reason(node: Node) -> str | None:
    """Why the node is no convolution in groups of whole vectors, or None."""
    op, x, weight = node.of(Conv), node.inputs[0], node.inputs[1]
    if any(value.dtype != torch.float32 or value.quantisation is not None for value in (x, weight, node.output)):
        return "the direct convolution is one of float32"
    if len(x.shape) > 4:
        return "the direct convolution has one or two spatial axes"
    vector, inputs = native.blocked().block, weight.shape[1]
    if inputs % vector or weight.shape[0] // op.groups % vector:
        return f"groups are not of whole vectors of {vector} channels"
    if len(node.epilogue) > 1 or any(step.kind not in ("relu", "clamp") or step.alpha > step.beta for step in node.epilogue):
        return "the direct convolution takes relu or a clamp after it"
    return None

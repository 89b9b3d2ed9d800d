"""conv of groups of few channels by the own kernel, in each format whose blocks fill a vector."""

from __future__ import annotations

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.ops import Conv
from drystone.plan.formats import CHANNELS_LAST, PLAIN, formats_of
from drystone.plan.implementations.base import Context, Created, Implementation, Layout, number_reason
from drystone.plan.implementations.epilogue import post_ops

MAX_EPILOGUE = 8


class Depthwise(Implementation):
    """Direct convolution of each channel by itself, or of groups of no more channels than a vector has, over one to three axes."""

    op = Conv
    name = "drystone_depthwise"

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or number_reason(node) or _reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        rank = len(node.output.shape)
        formats = (CHANNELS_LAST, native.blocked().name, *([PLAIN] if _group_inputs(node) == 1 else []))
        return [
            Layout(tuple(None if v.is_constant else format if len(v.shape) == rank else PLAIN for v in node.inputs), format)
            for format in formats
            if format in formats_of(node.inputs[0])
        ]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        chain, operands, overwrites = post_ops(node, inputs, output, context.free_inputs)
        op, weight = node.of(Conv), node.inputs[1]
        step = native.Depthwise(
            inputs[0],
            list(weight.shape),
            op.has_bias,
            output,
            list(op.stride),
            list(op.padding_l),
            list(op.padding_r),
            list(op.dilation),
            chain,
            context.weights.coded(weight).scales,
        )
        return context.product(node, step, operands, overwrites)


def _reason(node: Node) -> str | None:
    """Why the node is no convolution of small groups, or None."""
    op, x, weight = node.of(Conv), node.inputs[0], node.inputs[1]
    if op.groups == 1:
        return "there is one group"
    if _group_inputs(node) > native.blocked().block:
        return f"a group has more than {native.blocked().block} channels"
    codes = {value.quantisation is not None for value in (x, weight)}
    if True in codes and _group_inputs(node) > 1:
        return "the groups of codes are not single channels"
    if len(codes) > 1 or (codes == {False} and not x.dtype == weight.dtype == node.output.dtype):
        return "x, the weight and the output are not of one dtype"
    if len(node.epilogue) > MAX_EPILOGUE:
        return f"the depthwise convolution takes {MAX_EPILOGUE} instructions after it at most"
    return None


def _group_inputs(node: Node) -> int:
    return node.inputs[1].shape[1]

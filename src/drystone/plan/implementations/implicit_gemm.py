"""conv of codes by the own GEMM, on images in channels_last."""

from __future__ import annotations

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.ops import Conv
from drystone.plan.formats import CHANNELS_LAST, PLAIN
from drystone.plan.implementations.base import Context, Created, Implementation, Layout, number_reason
from drystone.plan.implementations.epilogue import post_ops
from drystone.plan.implementations.gemm import too_long


class ImplicitGemm(Implementation):
    """The rows of the product are what the kernel meets at each position, put together as they are read. Sums are exact."""

    op = Conv
    name = "drystone_gemm"

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or number_reason(node) or _reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        rank = len(node.output.shape)
        return [
            Layout(
                tuple(None if v.is_constant else CHANNELS_LAST if len(v.shape) == rank else PLAIN for v in node.inputs),
                CHANNELS_LAST,
            )
        ]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        chain, operands, overwrites = post_ops(node, inputs, output, context.free_inputs)
        op, weight = node.of(Conv), node.inputs[1]
        step = native.ImplicitGemm(
            inputs[0],
            list(weight.shape),
            op.has_bias,
            output,
            list(op.stride),
            list(op.padding_l),
            list(op.padding_r),
            list(op.dilation),
            chain,
            *context.weights.coded(weight),
        )
        return context.product(node, step, operands, overwrites)


def _reason(node: Node) -> str | None:
    if node.inputs[0].quantisation is None or node.inputs[1].quantisation is None:
        return "the GEMM convolves codes alone"
    if node.of(Conv).groups != 1 or len(node.output.shape) > 4:
        return "the GEMM convolves one group over one or two axes"
    return too_long(node)

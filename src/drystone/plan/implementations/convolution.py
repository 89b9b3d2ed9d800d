"""conv and conv_transpose by oneDNN, in each format."""

from __future__ import annotations

from dataclasses import replace

import torch

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.instructions import INSTRUCTIONS
from drystone.graph.ops import Conv, Convolution, ConvTranspose, Operator
from drystone.plan.formats import CHANNELS_LAST, PLAIN, block_of, formats_of, seen_as
from drystone.plan.implementations.base import (
    CodedWeight,
    Context,
    Created,
    Implementation,
    Layout,
    Operand,
    float_reason,
    number_reason,
)
from drystone.plan.implementations.depthwise import Depthwise
from drystone.plan.implementations.epilogue import post_ops, rest_of_epilogue

# With fewer results the start of another step takes longer than their exponentials.
MANY_RESULTS = 1 << 14


class OneDnnConvolution(Implementation):
    """Direct convolution; what oneDNN calls it (jit, brgconv, gemm …) becomes known when it is made."""

    name = "onednn"

    def __init__(self, op: type[Operator]) -> None:
        self.op = op

    def refuses(self, node: Node) -> str | None:
        if len(node.output.shape) == 5 and _has_own_kernel(node):
            return "oneDNN's kernels for volumes take five to forty times as long as the own one where channels are groups"
        if node.inputs[0].quantisation is not None and self.op is ConvTranspose:
            return "a transposed convolution of codes is not served"
        return super().refuses(node) or _codes_reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        x, output, depthwise = node.inputs[0], node.output, _is_depthwise(node)
        layouts = []
        # Of codes the result may be floats, but lies as codes do.
        for format in (CHANNELS_LAST,) if x.quantisation is not None else formats_of(output):
            if format == PLAIN and _has_own_kernel(node):
                continue  # oneDNN multiplies matrices, one a channel: three to fifty times the own kernel's time
            block = block_of(format)
            source = format
            if block > 1:
                # oneDNN's blocked kernels want whole blocks in each group, or read a few channels (an image) from plain memory.
                groups = node.of(Convolution).groups
                if groups > 1 and not depthwise and (x.shape[1] // groups % block or output.shape[1] // groups % block):
                    continue
                if block < native.blocked().block and output.dtype == torch.bfloat16:
                    continue
                if x.shape[1] < 4:
                    source = PLAIN
            inputs = tuple(
                None if v.is_constant else source if i == 0 else format if len(v.shape) == len(output.shape) else PLAIN
                for i, v in enumerate(node.inputs)
            )
            layouts.append(Layout(inputs, format))
        return layouts

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        coded = context.weights.coded(node.inputs[1])
        step, operands, overwrites = self._step(node, inputs, output, context.free_inputs, coded)
        finishes = bool(node.epilogue) or node.of(Convolution).has_bias
        if _is_reference(step, finishes) and overwrites is not None:
            # Most kernels add into the output's memory at the beginning of an epilogue only.
            step, operands, overwrites = self._step(node, inputs, output, frozenset(), coded)
        if _is_reference(step, finishes):
            raise ValueError("oneDNN has only its reference implementation")
        return context.product(node, step, operands, overwrites)

    @staticmethod
    def _step(
        node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, free_inputs: frozenset[int], coded: CodedWeight
    ) -> tuple[native.Convolution, list[Operand], int | None]:
        chain, operands, overwrites = post_ops(node, inputs, output, free_inputs)
        op, x, weights = node.of(Convolution), inputs[0], list(node.inputs[1].shape)
        stride, before, after, dilation = list(op.stride), list(op.padding_l), list(op.padding_r), list(op.dilation)
        if len(weights) == 3 and _is_depthwise(node):
            # oneDNN's depthwise kernels are for images: over one axis another kernel takes up to a hundred times their time.
            x, output, weights = _as_image(x), _as_image(output), [*weights[:2], 1, weights[2]]
            chain = [(kind, alpha, beta, operand and _as_image(operand)) for kind, alpha, beta, operand in chain]
            stride, before, after, dilation = [1, *stride], [0, *before], [0, *after], [1, *dilation]
        transposed = isinstance(node.op, ConvTranspose)
        step = native.Convolution(
            x, weights, op.has_bias, output, stride, before, after, dilation, op.groups, chain, transposed, *coded
        )
        return step, operands, overwrites


class ActivationApart(OneDnnConvolution):
    """An activation that takes an exponential is a step of its own, with what follows it: oneDNN takes up to twice as long for it.

    16 to 96 channels of 112x112 with SiLU, two cores of Zen 3: 673 us, in one step 826, without the activation 292.
    """

    name = "onednn_then_drystone"

    def refuses(self, node: Node) -> str | None:
        if node.output.quantisation is not None:
            return "codes are made in one step"
        if _first_exponential(node) == len(node.epilogue):
            return "no instruction of the epilogue takes an exponential"
        if node.output.numel < MANY_RESULTS:
            return f"fewer than {MANY_RESULTS} results"
        return super().refuses(node)

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        first = _first_exponential(node)
        created = super().create(replace(node, epilogue=node.epilogue[:first]), inputs, output, context)
        chain, read = rest_of_epilogue(node, first)
        finish = native.pointwise([output, *(inputs[index] for index in read)], output, chain)
        return replace(created, finish=(finish, [("out", 0), *(("in", index) for index in read), ("out", 0)]))


def _first_exponential(node: Node) -> int:
    return next((i for i, op in enumerate(node.epilogue) if INSTRUCTIONS[op.kind].exponential), len(node.epilogue))


def _codes_reason(node: Node) -> str | None:
    """Codes are multiplied by codes; their product may be floats, as operands of its epilogue may."""
    both = {value.quantisation is not None for value in node.inputs[:2]}
    return float_reason(node) if both == {False} else number_reason(node)


def _has_own_kernel(node: Node) -> bool:
    """Whether the own depthwise kernel computes it."""
    return isinstance(node.op, Conv) and _is_depthwise(node) and Depthwise().refuses(node) is None


def _is_depthwise(node: Node) -> bool:
    groups = node.of(Convolution).groups
    return groups > 1 and groups == node.inputs[0].shape[1]


def _as_image(desc: native.TensorDesc) -> native.TensorDesc:
    """(N, C, L) as (N, C, 1, L)."""
    *outer, length = desc.shape
    *steps, step = desc.strides
    return seen_as(desc, [*outer, 1, length], [*steps, length * step, step])


def _is_reference(step: native.Convolution, finishes: bool) -> bool:
    """``finishes``: with a bias or an epilogue. A transposed convolution by way of a convolution's gradient ("conv:any+…") has
    none of its own: oneDNN would add them to its results one by one. The gradient may be a reference implementation itself."""
    name = step.implementation
    return name.startswith("ref") or "+ref" in name or (finishes and name.startswith("conv:any+"))

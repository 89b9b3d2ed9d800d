"""quantise and dequantise by the own kernel; and nodes of codes computed in floats, between two conversions."""

from __future__ import annotations

from dataclasses import replace

import torch

from drystone import native
from drystone.graph.codes import dequantised
from drystone.graph.graph import Node, Value
from drystone.graph.ops import Dequantise, Operator, Quantise
from drystone.plan.formats import dense, formats_of
from drystone.plan.implementations.base import Context, Converted, Created, Implementation, Layout, joint_layouts, number_reason


def _convert(source: native.TensorDesc, target: native.TensorDesc) -> native.Step:
    return native.pointwise([source], target, [("copy", [("in", 0)], 0.0, 0.0)])


class ConvertCodes(Implementation):
    """From floats to codes, from codes to floats, and from codes to others."""

    name = "drystone"

    def __init__(self, op: type[Operator]) -> None:
        self.op = op
        self.reads_strided = 32  # shorter runs are copied faster

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or number_reason(node)

    def layouts(self, node: Node) -> list[Layout]:
        source = node.inputs[0]
        return joint_layouts(node, source if source.quantisation is not None else node.output)

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        return Created(_convert(inputs[0], output), [context.operand(node, 0), ("out", 0)])


CONVERSIONS = [ConvertCodes(op) for op in (Quantise, Dequantise)]


class InFloats(Implementation):
    """A node of codes by an implementation of floats: codes are converted to floats before it, and its result to codes after it.

    Where the float kernel gains more than the conversions take, as on CPUs that multiply codes slowly, or there is no other.
    """

    def __init__(self, inner: Implementation) -> None:
        self.inner, self.op, self.name = inner, inner.op, f"{inner.name}_float32"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InFloats) and other.inner == self.inner

    def __hash__(self) -> int:
        return hash((InFloats, self.inner))

    def refuses(self, node: Node) -> str | None:
        if node.op.moves or isinstance(node.op, (Quantise, Dequantise)):
            return "codes are moved as they are"
        if self.inner.suits_codes and self.inner.refuses(node) is None:
            return "it computes with the codes themselves"
        return number_reason(node) or self.inner.refuses(in_floats(node))

    def layouts(self, node: Node) -> list[Layout]:
        """Those in which codes lie as well."""
        return [layout for layout in self.inner.layouts(in_floats(node)) if _codes_lie(node, layout)]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        twin = in_floats(node)
        seen, before = list(inputs), dict[int, Converted]()
        for index, value in enumerate(node.inputs):
            if value.quantisation is None:
                continue
            seen[index] = dense(twin.inputs[index], inputs[index].format.name)
            if not value.is_constant:
                before[index] = Converted(_convert(inputs[index], seen[index]), seen[index])
        made = dense(twin.output, output.format.name)
        created = self.inner.create(twin, seen, made, Context(context.weights))
        after = None if node.output.quantisation is None else Converted(_convert(made, output), made)
        return replace(created, before=before, after=after)


def in_floats(node: Node) -> Node:
    """The same node of float32."""

    def real(value: Value) -> Value:
        if value.quantisation is None:
            return value
        return dequantised(value, torch.float32) if value.is_constant else Value(value.shape, torch.float32, value.name)

    output = real(node.output)
    return replace(node, inputs=[real(value) for value in node.inputs], outputs=[output, *node.outputs[1:]])


def _codes_lie(node: Node, layout: Layout) -> bool:
    pairs = [*zip(node.inputs, layout.inputs, strict=True), (node.output, layout.output)]
    return all(format is None or value.quantisation is None or format in formats_of(value) for value, format in pairs)


def is_of_codes(node: Node) -> bool:
    return any(value.quantisation is not None for value in [*node.inputs, node.output])

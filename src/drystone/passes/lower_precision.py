"""Products are computed from bfloat16, and all else in the wider dtype of what it reads, as under torch's autocast.

before:  x: float32 → linear(x, w: float32): float32 → add(·, x) → layer_norm
after:   x → convert: bfloat16 → linear(·, w: bfloat16): bfloat16 → add(·, x: float32): float32 → layer_norm
So the sums that run through a transformer stay float32, as its embeddings are; a convolutional network is bfloat16 from its first
convolution on. Biases, the weights of norms and pointwise operands of one value a channel stay float32 and widen nothing: kernels
compute in float32 what lies between load and store. What is computed from integers alone, as angles from positions, stays float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from drystone.graph.control_flow import ControlFlow
from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Graph, Node, Value, derived, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import (
    Aten,
    Cat,
    Convert,
    Elementwise,
    Matmul,
    Norm,
    Operator,
    Permute,
    Pointwise,
    Recurrent,
    Reduce,
    Reshape,
    Rotary,
)
from drystone.graph.ops.aten import map_structure
from drystone.passes.instructions import bypass, may_bypass, reading_counts

# What torch's autocast lowers, of what may run on ATen.
_NAMES = """
conv1d conv2d conv3d _convolution convolution conv_transpose1d conv_transpose2d conv_transpose3d linear matmul bmm mm mv addmm addmv
addbmm baddbmm einsum _grouped_mm scaled_dot_product_attention lstm gru rnn_tanh rnn_relu
"""
_ATEN_PRODUCTS = {f"aten::{name}" for name in _NAMES.split()}


def lower_precision(graph: Graph) -> Graph:
    """Run after ``simplify``, so that weights are folded in full precision and rounded once.

    Nodes that are ``float32`` stay so. Inputs and outputs of the graph keep their dtypes.
    """
    _Lowering(graph).run()
    _drop_idle_converts(graph)
    absorb_converts(graph, lambda op: op.converts)
    return graph


class _Lowering:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.converted: dict[tuple[int, torch.dtype], Value] = {}
        self.changed: set[int] = set()  # ids of the float32 values that have become bfloat16
        self.counted: set[int] = set()  # and of those that are computed from integers alone

    def run(self) -> None:
        outputs = [value for value in self.graph.outputs if value.dtype == torch.float32]
        for node in self.graph.nodes:
            self._lower(node)
        self.graph.nodes = self.nodes
        widened = {value.id: self._as(value, torch.float32) for value in outputs if value.id in self.changed}
        self.graph.outputs = [widened.get(value.id, value) for value in self.graph.outputs]

    def _as(self, value: Value, dtype: torch.dtype) -> Value:
        """``value`` in ``dtype``, if it is of one of the two."""
        if value.dtype == dtype or value.dtype not in FLOATS:
            return value
        key = (value.id, dtype)
        if key not in self.converted:
            if value.is_constant:
                self.converted[key] = rounded(value) if dtype == torch.bfloat16 else value
            else:
                self.nodes.append(make_node(Convert(), [value], dtype, value.name))
                self.converted[key] = self.nodes[-1].output
        return self.converted[key]

    def _lower(self, node: Node) -> None:
        if isinstance(node.op, Aten):
            self._lower_aten(node)
            return
        if _counts(node, self.counted):
            self.counted.add(node.output.id)
        elif node.op.factors:
            self._lower_product(node)
        elif isinstance(node.op, Recurrent):
            self._lower_recurrent(node)
        elif isinstance(node.op, Rotary):
            self._become(node.output, node.inputs[0].dtype)
        elif not isinstance(node.op, Convert):
            self._promote(node)
        self.nodes.append(node)

    def _lower_product(self, node: Node) -> None:
        """Its factors are bfloat16; so is the result, unless something wider is added to it at once."""
        if node.float32:
            node.inputs = [self._as(value, torch.float32) for value in node.inputs]
            return
        factors = node.op.factors  # a mask stays: its lowest float32 would become -inf
        others = node.inputs[node.epilogue_start :] if node.epilogue else []
        wide = any(_widens(value) for value in others)
        node.inputs = [self._as(value, torch.bfloat16) if index < factors else value for index, value in enumerate(node.inputs)]
        self._become(node.output, torch.float32 if wide else torch.bfloat16)

    def _lower_recurrent(self, node: Node) -> None:
        """Weights and states are bfloat16; the gates' inputs, which a product has summed, and cells stay float32."""
        if not node.float32:
            node.inputs[1:] = [self._as(value, torch.bfloat16) if len(value.shape) == 2 else value for value in node.inputs[1:]]
            for value in node.outputs[:2]:
                self._become(value, torch.bfloat16)
        node.inputs[0] = self._as(node.inputs[0], torch.float32)

    def _promote(self, node: Node) -> None:
        """float32 if something of it is, but for constants of one value a channel."""
        operands = node.inputs[:1] if isinstance(node.op, Norm) else node.inputs
        floats = [value for value in operands if value.dtype in FLOATS]
        wide = any(map(_widens, floats)) or all(value.is_constant for value in floats)
        wide = wide or node.output.dtype not in FLOATS or bool(node.float32)
        dtype = torch.float32 if wide else torch.bfloat16
        if isinstance(node.op, (Cat, Elementwise)):  # which take no mixture of dtypes
            node.inputs = [self._as(value, dtype) for value in node.inputs]
        elif isinstance(node.op, Pointwise) and not wide:
            node.op = Pointwise(tuple(_within(op) for op in node.op.ops))
        self._become(node.output, dtype)

    def _become(self, value: Value, dtype: torch.dtype) -> None:
        if dtype == torch.bfloat16 and value.dtype == torch.float32:
            value.dtype = dtype
            self.changed.add(value.id)

    def _lower_aten(self, node: Node) -> None:
        target = node.of(Aten).target
        floats = [value for value in node.inputs if value.dtype in FLOATS]
        computed = [value for value in floats if not value.is_constant]
        schema = getattr(target, "_schema", None)
        product = schema is not None and schema.name in _ATEN_PRODUCTS and not node.float32
        # The subgraphs of control flow are written for float32, as their own numbers are.
        wide = isinstance(target, ControlFlow) or any(value.dtype == torch.float32 for value in computed)
        if not computed or (wide and not product):
            node.inputs = [self._as(value, torch.float32) if value.id in self.changed else value for value in node.inputs]
            self.nodes.append(node)
            return
        node.inputs = [self._as(value, torch.bfloat16) for value in node.inputs]
        _lower_arguments(node)
        self.nodes.append(node)
        for value in node.outputs:
            if value.dtype == torch.float32:
                value.dtype = torch.bfloat16
                self.changed.add(value.id)


def _widens(value: Value) -> bool:
    return value.dtype == torch.float32 and not (value.is_constant and _is_per_channel(value))


def _is_per_channel(value: Value) -> bool:
    """At most one axis longer than 1: little to read, whatever its dtype."""
    return sum(size > 1 for size in value.shape) <= 1


def _within(op: PointwiseOp) -> PointwiseOp:
    """A scale and a shift by finite numbers that bfloat16 has: float32's lowest, which masks add, would become an infinity, and
    that NaN in a row that is masked whole."""
    if op.kind != "affine" or not all(map(math.isfinite, (op.alpha, op.beta))):
        return op
    limits = torch.finfo(torch.bfloat16)
    alpha, beta = (min(max(number, limits.min), limits.max) for number in (op.alpha, op.beta))
    return op if (alpha, beta) == (op.alpha, op.beta) else replace(op, alpha=alpha, beta=beta)


def rounded(value: Value) -> Value:
    """A constant in bfloat16. What is finite stays so, as above."""

    def of(full: torch.Tensor) -> torch.Tensor:
        limits = torch.finfo(torch.bfloat16)
        finite = torch.where(full.isinf(), full, full.clamp(limits.min, limits.max))
        return finite.to(torch.bfloat16).contiguous()

    if value.is_computed:
        return derived(value, value.shape, of)
    identity = ("lowered", value.key, torch.bfloat16)
    return Value(value.shape, torch.bfloat16, value.name, data=lambda: of(value.constant.detach()), identity=identity)


def _counts(node: Node, counted: set[int]) -> bool:
    """Whether a float32 result is computed from integers alone: positions, their angles, lengths, masks. They stay as exact."""
    if not (node.op.moves or isinstance(node.op, (Convert, Pointwise, Reduce, Matmul))) or node.output.dtype != torch.float32:
        return False
    computed = [value for value in node.inputs if not value.is_constant]
    if isinstance(node.op, Convert) and computed and not computed[0].dtype.is_floating_point:
        return True
    return bool(computed) and all(value.id in counted for value in computed)


def _lower_arguments(node: Node) -> None:
    """An ATen call that names float32 as its dtype names bfloat16."""

    def lower(leaf: Any) -> Any:
        return torch.bfloat16 if leaf is torch.float32 else leaf

    op = node.of(Aten)
    node.op = replace(op, args=map_structure(lower, op.args), kwargs=map_structure(lower, op.kwargs))


def _drop_idle_converts(graph: Graph) -> None:
    """The model's own conversions between float32 and bfloat16 that have nothing left to do."""
    idle = [node for node in graph.nodes if isinstance(node.op, Convert) and node.output.dtype == node.inputs[0].dtype]
    for node in idle:
        if may_bypass(graph, node, node.inputs[0]):
            bypass(graph, node, node.inputs[0])


def absorb_converts(graph: Graph, writes_both: Callable[[Operator], bool]) -> None:
    """What is read as the other dtype alone is written so, where the kernels of what makes it write both."""
    counts = reading_counts(graph)
    for node in [node for node in graph.nodes if isinstance(node.op, Convert) and node.inputs[0].dtype in FLOATS]:
        source, dtype = node.inputs[0], node.output.dtype
        views: list[Value] = []
        while counts[source.id] == 1 and source.producer is not None and isinstance(source.producer.op, (Reshape, Permute)):
            views.append(source)
            source = source.producer.inputs[0]
        maker = source.producer
        if dtype not in FLOATS or counts[source.id] != 1 or maker is None or not writes_both(maker.op):
            continue
        if may_bypass(graph, node, node.inputs[0]):
            bypass(graph, node, node.inputs[0])
            for value in [*views, source]:
                value.dtype = dtype

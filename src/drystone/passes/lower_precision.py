"""float32 becomes bfloat16 inside the graph; what goes in and comes out keeps its dtype.

before:  x: float32 → conv(x, w: float32, b: float32): float32
after:   x → convert: bfloat16 → conv(·, w: bfloat16, b: float32): bfloat16 → convert: float32
Biases, the weights of norms and pointwise operands of one value a channel stay float32: kernels widen before they use them.
What float32 holds and ``dtype`` does not, as the lowest number that a mask adds, becomes the nearest finite number: an infinity
would make NaN of a row that is masked whole. What is computed from integers alone, as angles from positions, stays float32.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from drystone.graph.aten import map_structure
from drystone.graph.control_flow import ControlFlow
from drystone.graph.graph import Graph, Node, PointwiseOp, Value, make_node
from drystone.passes.instructions import bypass, may_bypass


def lower_precision(graph: Graph, dtype: torch.dtype = torch.bfloat16) -> Graph:
    """Run after ``simplify``, so that weights are folded in full precision and rounded once."""
    lowered: dict[int, Value] = {}  # id of a float32 value that stays → the same in ``dtype``
    nodes: list[Node] = []

    def convert(value: Value, to: torch.dtype) -> Value:
        node = make_node("convert", [value], value.shape, to, value.name)
        nodes.append(node)
        return node.output

    def lower(value: Value) -> Value:
        """``value`` in ``dtype``, where it is float32 (still)."""
        if value.dtype != torch.float32:
            return value
        if value.id not in lowered:
            if value.is_constant:
                lowered[value.id] = _lowered_constant(value, dtype)
            else:
                lowered[value.id] = convert(value, dtype)
        return lowered[value.id]

    kept = {value.id for value in graph.outputs if value.dtype == torch.float32}
    restored: dict[int, Value] = {}  # id of an output of the graph → its float32 value, computed at the end
    changed: set[int] = set()  # the values that have become ``dtype``
    counted: set[int] = set()  # ids of the float32 values that are computed from integers alone
    for node in graph.nodes:
        if node.op == "aten" and isinstance(node.attrs["target"], ControlFlow):
            # Its subgraphs are written for float32, as their own numbers are.
            node.inputs = [convert(value, torch.float32) if value.id in changed else value for value in node.inputs]
            nodes.append(node)
            continue
        if node.op == "pointwise":
            node.attrs["ops"] = [_within(op, torch.finfo(dtype)) for op in node.attrs["ops"]]
        if _counts(node, counted):
            counted.add(node.output.id)
            nodes.append(node)
            continue
        node.inputs = [lower(value) if _follows(node, index, counted) else value for index, value in enumerate(node.inputs)]
        nodes.append(node)
        if node.op == "aten" and not _computes_from_floats(node, dtype):
            continue  # its float32 results, if any, are lowered where they are read
        if node.op == "aten":
            _lower_arguments(node, dtype)
        for value in node.outputs:
            if value.dtype == torch.float32:
                value.dtype = dtype
                changed.add(value.id)
                if value.id in kept:
                    restored[value.id] = value
    graph.nodes = nodes
    graph.outputs = [convert(value, torch.float32) if value.id in restored else value for value in graph.outputs]
    _drop_idle_converts(graph)
    return graph


def _within(op: PointwiseOp, limits: torch.finfo) -> PointwiseOp:
    """A scale and a shift by finite numbers that the dtype has."""
    if op.kind != "linear" or not all(map(math.isfinite, (op.alpha, op.beta))):
        return op
    alpha, beta = (min(max(number, limits.min), limits.max) for number in (op.alpha, op.beta))
    return op if (alpha, beta) == (op.alpha, op.beta) else replace(op, alpha=alpha, beta=beta)


def _lowered_constant(value: Value, dtype: torch.dtype) -> Value:
    def lowered() -> torch.Tensor:
        data, limits = value.constant.detach(), torch.finfo(dtype)
        finite = torch.where(data.isinf(), data, data.clamp(limits.min, limits.max))
        return finite.to(dtype).contiguous()

    return Value(value.shape, dtype, value.name, data=lowered, identity=("lowered", value.key, dtype))


_OF_COUNTS = {"convert", "pointwise", "reduce", "batch_matmul", "reshape", "permute", "expand", "slice", "cat", "gather", "pad"}


def _counts(node: Node, counted: set[int]) -> bool:
    """Whether a float32 result is computed from integers alone: positions, their angles, lengths, masks. They stay as exact."""
    if node.op not in _OF_COUNTS or node.output.dtype != torch.float32:
        return False
    computed = [value for value in node.inputs if not value.is_constant]
    if node.op == "convert" and computed and not computed[0].dtype.is_floating_point:
        return True
    return bool(computed) and all(value.id in counted for value in computed)


def _follows(node: Node, index: int, counted: set[int]) -> bool:
    """Whether input ``index`` goes to the dtype of the activations; the others stay float32: most are constants."""
    value = node.inputs[index]
    if node.op == "attention" and index == 3:
        return False  # the lowest float32, which masks are made of, would become -inf
    if (node.op == "rotary" and index > 0) or (node.op == "pointwise" and value.id in counted):
        return False
    if not value.is_constant or node.op == "aten":
        return True
    if node.op in ("conv", "matmul"):
        if node.epilogue and index >= node.epilogue_start:
            return not _is_per_channel(value)
        return index < 2
    if node.op == "pointwise":
        return not _is_per_channel(value)
    return node.op not in ("layer_norm", "group_norm") or index == 0


def _is_per_channel(value: Value) -> bool:
    """At most one axis longer than 1: little to read, whatever its dtype."""
    return sum(size > 1 for size in value.shape) <= 1


def _computes_from_floats(node: Node, dtype: torch.dtype) -> bool:
    return any(value.dtype == dtype for value in node.inputs)


def _lower_arguments(node: Node, dtype: torch.dtype) -> None:
    """An ATen call that names float32 as its dtype names ``dtype``."""

    def lower(leaf: Any) -> Any:
        return dtype if leaf is torch.float32 else leaf

    node.attrs["args"] = map_structure(lower, node.attrs["args"])
    node.attrs["kwargs"] = map_structure(lower, node.attrs["kwargs"])


def _drop_idle_converts(graph: Graph) -> None:
    """The model's own conversions between float32 and ``dtype`` have nothing left to do."""
    idle = [node for node in graph.nodes if node.op == "convert" and node.output.dtype == node.inputs[0].dtype]
    for node in idle:
        if may_bypass(graph, node, node.inputs[0]):
            bypass(graph, node, node.inputs[0])

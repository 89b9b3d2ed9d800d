"""A rotary position embedding that a model spells out becomes one node, which reads a permuted operand where it lies.

before:  p = permute(x)   r = cat(neg(slice(p, second half)), slice(p, first half))   y = add(mul(p, cos), mul(r, sin))
after:   y = rotary(x, cos, sin)
"""

from __future__ import annotations

from collections import Counter

from drystone.graph.graph import Graph, Node, Value, make_node
from drystone.graph.ops import Cat, Permute, Pointwise, Rotary, Slice
from drystone.passes.instructions import reading_counts


def recognise_rotary(graph: Graph) -> Graph:
    """Before pointwise nodes grow together: each is one instruction here."""
    counts = reading_counts(graph)
    for position, node in enumerate(graph.nodes):
        if (rotary := _rotary(node, counts)) is not None:
            graph.nodes[position] = rotary
    return graph.prune()


def _rotary(node: Node, counts: Counter[int]) -> Node | None:
    if not _computes(node, "add"):
        return None
    for straight, turned in (node.inputs, node.inputs[::-1]):
        one, two = straight.producer, turned.producer
        if straight is turned or not all(_computes(part, "mul") and counts[part.output.id] == 1 for part in (one, two) if part):
            continue
        if one is None or two is None:
            continue
        for x, cosines in (one.inputs, one.inputs[::-1]):
            for rotated, sines in (two.inputs, two.inputs[::-1]):
                if _rotated(rotated) is x and x.shape == node.output.shape and _fit(x, cosines) and _fit(x, sines):
                    return _node(node, x, cosines, sines)
    return None


def _computes(node: Node | None, kind: str) -> bool:
    """Whether the node is this one instruction on two operands."""
    if node is None or not isinstance(node.op, Pointwise) or len(node.inputs) != 2:
        return False
    return [op.kind for op in node.op.ops] == [kind] and node.op.ops[0].args == (("in", 0), ("in", 1))


def _fit(x: Value, factors: Value) -> bool:
    return bool(factors.shape) and factors.shape[-1] == x.shape[-1] and factors.dtype.is_floating_point


def _rotated(value: Value) -> Value | None:
    """The x of which ``value`` is the second half, negated, before the first."""
    cat = value.producer
    if cat is None or not isinstance(cat.op, Cat) or len(cat.inputs) != 2 or cat.op.dim != len(value.shape) - 1:
        return None
    negated, first = cat.inputs[0].producer, cat.inputs[1].producer
    if negated is None or not isinstance(negated.op, Pointwise) or [op.kind for op in negated.op.ops] != ["neg"]:
        return None
    second = negated.inputs[0].producer
    if not _is_half(first, 0) or not _is_half(second, 1) or first.inputs[0] is not second.inputs[0]:  # type: ignore[union-attr]
        return None
    return first.inputs[0]  # type: ignore[union-attr]


def _is_half(node: Node | None, which: int) -> bool:
    if node is None or not isinstance(node.op, Slice):
        return False
    half = node.output.shape[-1]
    last = len(node.output.shape) - 1
    return node.inputs[0].shape[-1] == 2 * half and node.op == Slice(last, which * half, half)


def _node(node: Node, x: Value, cosines: Value, sines: Value) -> Node:
    dims = tuple(range(len(x.shape)))
    permute = x.producer
    if permute is not None and isinstance(permute.op, Permute) and permute.op.dims[-1] == dims[-1]:
        x, dims = permute.inputs[0], permute.op.dims
    rotary = make_node(Rotary(dims), [x, cosines, sines], node.output.dtype, node.name)
    rotary.outputs = [node.output]
    node.output.producer = rotary
    return rotary

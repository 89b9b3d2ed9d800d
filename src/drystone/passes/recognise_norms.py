"""Normalisations that a model spells out become single nodes.

before:  mean(x) → sub(x, ·) → square → mean → + eps → sqrt → div      permute(x, 0231) → layer_norm(3) → permute(·, 0312)
after:   layer_norm(x, dims=(1,), eps)                                  layer_norm(x, dims=(1,))
         The same without the mean, x / sqrt(mean(x²) + eps), is an RMS norm: layer_norm(x) centred=False.
Scale and shift after them are taken in by ``fold_batch_norm``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from drystone.graph.graph import Graph, Node, Value, make_node
from drystone.graph.ops import LayerNorm, Permute, Pointwise
from drystone.passes.expressions import Expressions
from drystone.passes.instructions import reading_counts, remove_instruction, set_instructions


def recognise_norms(graph: Graph) -> Graph:
    """Layer norms over the last axes or over axis 1."""
    _recognise_spelled(graph)
    _recognise_permuted(graph)
    return graph.prune()


def _recognise_spelled(graph: Graph) -> None:
    expressions = Expressions()
    nodes: list[Node] = []
    for node in graph.nodes:
        numbers = expressions.add(node)
        # The last instruction first: it holds the others.
        for index in range(len(numbers) - 1, -1, -1):
            norm = _layer_norm(expressions, numbers[index]) or _rms_norm(expressions, numbers[index])
            if norm is None:
                continue
            nodes.append(norm)
            if index == len(numbers) - 1:
                norm.outputs = [node.output]
                node.output.producer = norm
                node = norm
            else:
                # What the instruction gave comes from outside now.
                left, _ = remove_instruction(node.of(Pointwise).ops, index, ("in", len(node.inputs)))
                set_instructions(node, left, [*node.inputs, norm.output])
            break
        if not nodes or nodes[-1] is not node:
            nodes.append(node)
    graph.nodes = nodes


def _layer_norm(expressions: Expressions, number: int) -> Node | None:
    """(x - mean) / sqrt(variance + eps), where ``number`` is that."""
    kind, _, operands = expressions[number]
    if kind not in ("div", "mul"):
        return None
    for centred, scale in (operands,) if kind == "div" else (operands, operands[::-1]):
        scaled = _under_root(expressions, scale, kind)
        if expressions[centred][0] != "sub" or scaled is None:
            continue
        variance, eps = scaled
        x, mean = expressions[centred][2]
        value = expressions.value(x)
        if value is None or expressions[mean][0] != "mean" or expressions[mean][2] != (x,):
            continue
        dims = expressions[mean][1]
        if expressions[variance] != ("variance", dims, (x,)):
            kind_of_mean, dims_of_mean, (squared, *_) = expressions[variance] if expressions[variance][2] else ("", (), (variance,))
            if kind_of_mean != "mean" or dims_of_mean != dims or expressions[squared] != ("square", (), (centred,)):
                continue
        if _is_normalisable([int(dim) for dim in dims], len(value.shape)):
            axes = tuple(int(dim) for dim in dims)
            return _norm(value, axes, eps, centred=True)
    return None


def _rms_norm(expressions: Expressions, number: int) -> Node | None:
    """x / sqrt(mean(x * x) + eps), where ``number`` is that."""
    kind, _, operands = expressions[number]
    if kind not in ("div", "mul"):
        return None
    for x, scale in (operands,) if kind == "div" else (operands, operands[::-1]):
        value, scaled = expressions.value(x), _under_root(expressions, scale, kind)
        if value is None or scaled is None or expressions[scaled[0]][0] != "mean":
            continue
        _, dims, (squared,) = expressions[scaled[0]]
        axes = tuple(int(dim) for dim in dims)
        if expressions[squared] == ("square", (), (x,)) and _is_normalisable(axes, len(value.shape)):
            return _norm(value, axes, scaled[1], centred=False)
    return None


def _norm(x: Value, dims: tuple[int, ...], eps: float, centred: bool) -> Node:
    return make_node(LayerNorm(eps, False, False, dims, centred), [x])


def _under_root(expressions: Expressions, number: int, joined_by: str) -> tuple[int, float] | None:
    """Of sqrt(variance + eps) to divide by, or its reciprocal to multiply by: the variance's number and eps."""
    kind, _, operands = expressions[number]
    if joined_by == "mul":
        if kind == "reciprocal":
            return _under_root(expressions, operands[0], "div")
        if kind != "rsqrt":
            return None
    elif kind != "sqrt":
        return None
    kind, scalars, inner = expressions[operands[0]]
    if kind == "affine":
        return (inner[0], scalars[1]) if scalars[0] == 1 and scalars[1] > 0 else None
    return operands[0], 0.0


def _is_normalisable(dims: Sequence[int], rank: int) -> bool:
    return list(dims) == [1] or list(dims) == list(range(rank - len(dims), rank))


def _recognise_permuted(graph: Graph) -> None:
    """A layer norm between a permute and its inverse normalises the axes that its own came from."""
    counts = reading_counts(graph)
    gone: list[Node] = []
    for node in graph.nodes:
        if not isinstance(node.op, Permute) or (norm := node.inputs[0].producer) is None or not isinstance(norm.op, LayerNorm):
            continue
        first = norm.inputs[0].producer
        if first is None or not isinstance(first.op, Permute) or counts[norm.output.id] != 1:
            continue
        to, back = first.op.dims, node.op.dims
        dims = [to[dim] for dim in norm.op.dims]
        # With several axes the order of the weight's would change too.
        if [to[dim] for dim in back] == list(range(len(to))) and dims == sorted(dims) and _is_normalisable(dims, len(to)):
            norm.inputs[0] = first.inputs[0]
            norm.op = replace(norm.op, dims=tuple(dims))
            norm.outputs = [node.output]
            node.output.producer = norm
            gone.append(node)
    graph.remove(gone)

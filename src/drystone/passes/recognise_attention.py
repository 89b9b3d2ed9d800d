"""Attention that a model spells out becomes one node.

before:  matmul(q, kᵀ) → * scale → + mask → softmax → matmul(·, v)      (batched matmuls run on ATen)
after:   attention(q, k, v, mask)
Reshapes to (B * H, …) and back between the parts, bmm, and several masks (a relative position bias is one) are seen through.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import torch

from drystone.graph.attention import Mask, simplified
from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Graph, Node, Value, derived, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Aten, Attention, Expand, Operator, Permute, Pointwise, Reshape, Softmax
from drystone.graph.ops.aten import Ref
from drystone.passes.instructions import is_moderate, reading_counts

_PRODUCTS = (torch.ops.aten.matmul.default, torch.ops.aten.bmm.default)


def recognise_attention(graph: Graph) -> Graph:
    """Before pointwise nodes are merged. Not where something else reads the scores or the weights."""
    counts = reading_counts(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        found = _match(node, counts)
        nodes += _attention(node, found) if found else [node]
    graph.nodes = nodes
    return graph.prune()


@dataclass
class _Found:
    """``shape`` is (B, H, T, S); each mask goes with the shape of the scores that it was added to. ``factors`` of a head each."""

    query: Value
    transposed_key: Value
    value: Value
    shape: tuple[int, ...]
    scale: float = 1.0
    masks: list[tuple[Value, tuple[int, ...]]] = field(default_factory=list)
    factors: list[Value] = field(default_factory=list)


def _product(node: Node | None) -> tuple[Value, Value] | None:
    """The factors of a batched matmul of two tensors."""
    if node is None or not isinstance(node.op, Aten) or node.op.target not in _PRODUCTS or node.op.kwargs:
        return None
    a, b = (node.inputs[arg.index] for arg in node.op.args if isinstance(arg, Ref))
    same = len(a.shape) == len(b.shape) and len(a.shape) in (3, 4) and a.shape[:-2] == b.shape[:-2]
    return (a, b) if same and a.dtype == b.dtype and a.dtype in FLOATS else None


def _scores(node: Node) -> tuple[Value, Value, float, Value | None] | None:
    """Of the product of queries and transposed keys: both, its factor, and what is added to it."""
    if not isinstance(node.op, Aten) or node.op.target is not torch.ops.aten.baddbmm.default:
        factors = _product(node)
        return None if factors is None else (*factors, 1.0, None)
    more = node.op.kwargs
    if more.get("beta", 1) != 1 or not isinstance(more.get("alpha", 1), (int, float)):
        return None
    mask, a, b = (node.inputs[arg.index] for arg in node.op.args)
    return a, b, float(more.get("alpha", 1)), mask


def _match(node: Node, counts: Counter[int]) -> _Found | None:
    """The parts of the attention that ends with ``node``."""
    outer = _product(node)
    if outer is None:
        return None
    weights, value = outer
    softmax = _before_reshapes(weights, counts)
    if softmax is None or not isinstance(softmax.op, Softmax) or softmax.op.dim != len(softmax.output.shape) - 1:
        return None
    scale, shapes = 1.0, [weights.shape, softmax.output.shape]
    masks: list[tuple[Value, tuple[int, ...]]] = []
    factors: list[Value] = []
    scores = softmax.inputs[0]
    while scores.producer is not None and counts[scores.id] == 1:
        producer = scores.producer
        shapes.append(scores.shape)
        inner = _scores(producer)
        if inner is not None:
            query, key, factor, mask = inner
            if mask is not None:
                if factors or scale != 1.0:
                    return None  # it is scaled, too
                masks.append((mask, scores.shape))
            full = next((shape for shape in shapes if len(shape) == 4), (scores.shape[0], 1, *scores.shape[1:]))
            regular = all(shape[-2:] == full[2:] and math.prod(shape) == math.prod(full) for shape in shapes)
            return _Found(query, key, value, full, scale * factor, masks, factors) if regular else None
        if isinstance(producer.op, Reshape):
            scores = producer.inputs[0]
            continue
        step = _step(producer, counts)
        if step is None:
            return None
        scores, number, other = step
        scale *= number
        if other is None:
            continue
        if producer.of(Pointwise).ops[0].kind == "mul":
            factors.append(other)
        elif factors or scale != 1.0:
            return None
        else:
            masks.append((other, producer.output.shape))
    return None


def _before_reshapes(value: Value, counts: Counter[int]) -> Node | None:
    """The node that makes ``value``, itself or before reshapes, if nothing else reads what it makes."""
    while value.producer is not None and counts[value.id] == 1:
        if not isinstance(value.producer.op, Reshape):
            return value.producer
        value = value.producer.inputs[0]
    return None


def _step(node: Node, counts: Counter[int]) -> tuple[Value, float, Value | None] | None:
    """Of a pointwise node that scales the scores or adds a mask: the scores before, the number, the factors or the mask."""
    if not isinstance(node.op, Pointwise) or len(node.op.ops) != 1:
        return None
    (op,) = node.op.ops
    if op.kind == "affine" and op.beta == 0 and is_moderate(op.alpha):
        return node.inputs[0], op.alpha, None
    if op.kind not in ("add", "mul") or len(node.inputs) != 2:
        return None
    first, second = (node.inputs[index] for _, index in op.args)
    # The scores are what a product, a scale or another mask made; the mask may be as large.
    for scores, mask in ((first, second), (second, first)):
        if op.kind == "mul" and not _is_one_a_head(mask, scores):
            continue
        if scores.shape == node.output.shape and counts[scores.id] == 1 and _leads_to_product(scores):
            return scores, 1.0, mask
    return None


def _is_one_a_head(factor: Value, scores: Value) -> bool:
    shape = (1,) * (4 - len(factor.shape)) + factor.shape
    return len(scores.shape) == len(shape) == 4 and shape[2:] == (1, 1)


def _leads_to_product(value: Value) -> bool:
    while value.producer is not None and isinstance(value.producer.op, (Reshape, Pointwise)):
        value = next(
            (x for x in value.producer.inputs if x.shape == value.shape and _leads_to_product(x)), value.producer.inputs[0]
        )
    return value.producer is not None and _scores(value.producer) is not None


def _attention(node: Node, found: _Found) -> list[Node]:
    """The nodes that take the place of ``node``."""
    made: list[Node] = []

    def emit(op: Operator, inputs: list[Value]) -> Value:
        made.append(make_node(op, inputs, name=node.name, instead_of=node))
        return made[-1].output

    def reshaped(value: Value, shape: tuple[int, ...]) -> Value:
        if value.shape == shape:
            return value
        if value.is_constant:
            return derived(value, shape, torch.reshape, shape)
        return emit(Reshape(shape), [value])

    def as_mask(mask: Value, scores: tuple[int, ...]) -> Value:
        """``mask``, which was added to scores of that shape, as what broadcasts to (B, H, T, S)."""
        shape = (1,) * (len(scores) - len(mask.shape)) + mask.shape
        lead, tail = shape[: len(scores) - 2], shape[-2:]
        mask = reshaped(mask, shape)
        if scores == found.shape:
            return mask
        if len(scores) == 5:  # (batch, windows, H, T, S) as Swin has it
            if lead[0] != scores[0] and lead[1] != 1:
                mask = emit(Expand((scores[0], *shape[1:])), [mask])
            elif lead[0] != 1 and lead[1] != scores[1]:
                mask = emit(Expand((*scores[:2], *shape[2:])), [mask])
            return reshaped(mask, (mask.shape[0] * mask.shape[1], lead[2], *tail))
        return reshaped(mask, (*(found.shape[:2] if lead[0] != 1 else (1, 1)), *tail))

    batch, heads, queries, keys = found.shape
    query = reshaped(found.query, (batch, heads, queries, found.query.shape[-1]))
    for factor in found.factors:
        query = emit(Pointwise((PointwiseOp("mul", (("in", 0), ("in", 1))),)), [query, factor])
    key = reshaped(found.transposed_key, (batch, heads, *found.transposed_key.shape[-2:]))
    key = emit(Permute((0, 1, 3, 2)), [key])
    value = reshaped(found.value, (batch, heads, keys, found.value.shape[-1]))
    masks = [as_mask(mask, shape) for mask, shape in found.masks]
    mask = masks[0] if masks else None
    for other in masks[1:]:
        mask = emit(Pointwise((PointwiseOp("add", (("in", 0), ("in", 1))),)), [mask, other])  # type: ignore[list-item]
    known = simplified(Mask(mask, False), queries, keys)
    op = Attention(
        heads_first=(True, True, True, True),
        scale=found.scale,
        causal=known.causal,
        has_mask=known.value is not None,
        nan_if_hidden=True,
    )
    result = emit(op, [query, key, value] if known.value is None else [query, key, value, known.value])
    if result.shape != node.output.shape:
        emit(Reshape(node.output.shape), [result])
    made[-1].outputs = [node.output]
    node.output.producer = made[-1]
    return made

"""The linears that make an attention's operands from one tensor become one.

before:  reshape(linear(x, wq)), reshape(linear(x, wk)), reshape(linear(x, wv)) → attention
after:   r = reshape(linear(x, cat(wq, wk, wv)))    attention(slice(r), slice(r), slice(r))
The slices are views, as attention reads its operands where they lie. So are the permutes before attention over a cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

import torch

from drystone.graph.graph import Graph, Node, Value, constant, make_node
from drystone.graph.ops import Attention, CachedAttention, Linear, Permute, Reshape, Slice
from drystone.graph.quantisation import Quantisation
from drystone.passes.absorb_into_attention import SWAP
from drystone.passes.instructions import reading_counts

# A node's input by its index: an operand with its positions first, (B, T, H, D).
Read = tuple[Node, int]

_JOINED = "joined"


def merge_linears(graph: Graph) -> Graph:
    """After permutes are absorbed into attention, and what follows a linear is folded into it."""
    counts = reading_counts(graph)
    for node in [node for node in graph.nodes if isinstance(node.op, (Attention, CachedAttention))]:
        groups: dict[int, list[tuple[Read, Node]]] = {}
        for index in range(3):
            read = _read(node, index, counts)
            linear = _linear_before(read, counts) if read is not None else None
            if read is not None and linear is not None:
                groups.setdefault(linear.inputs[0].id, []).append((read, linear))
        for group in groups.values():
            values = [reader.inputs[index] for (reader, index), _ in group]
            shapes = {(value.shape[3], value.dtype) for value in values}
            precisions = {(linear.float32, linear.stored) for _, linear in group}
            alike = len(shapes) == len(precisions) == 1
            if len(group) > 1 and alike:
                _merge(graph, group)
    return graph.prune()


def _read(node: Node, index: int, counts: Counter[int]) -> Read | None:
    """Where operand ``index`` of an attention is read with its positions first."""
    if isinstance(node.op, Attention):
        return None if node.op.heads_first[index] else (node, index)
    permute = node.inputs[index].producer
    if permute is None or not isinstance(permute.op, Permute) or permute.op.dims != SWAP or counts[permute.output.id] != 1:
        return None
    return permute, 0


def _linear_before(read: Read, counts: Counter[int]) -> Node | None:
    """The linear with constant weights whose result, its last axis split into heads, is what is read and nothing else."""
    value = read[0].inputs[read[1]]
    split = value.producer
    if split is None or not isinstance(split.op, Reshape) or counts[value.id] != 1:
        return None
    linear = split.inputs[0].producer
    if linear is None or not isinstance(linear.op, Linear) or linear.epilogue or counts[split.inputs[0].id] != 1:
        return None
    splits_last = value.shape[:2] == linear.output.shape[:2] and len(linear.output.shape) == 3
    constants = all(parameter.is_constant for parameter in linear.inputs[1:])
    return linear if splits_last and constants and linear.output.dtype == value.dtype else None


def _merge(graph: Graph, group: list[tuple[Read, Node]]) -> None:
    linears = [linear for _, linear in group]
    values = [reader.inputs[index] for (reader, index), _ in group]
    batch, length, _, size = values[0].shape
    heads = [value.shape[2] for value in values]
    dtype = linears[0].output.dtype
    inputs = [linears[0].inputs[0], _joined([linear.inputs[1] for linear in linears])]
    has_bias = any(linear.of(Linear).has_bias for linear in linears)
    if has_bias:
        inputs.append(constant(torch.cat([_bias(linear) for linear in linears]), "bias"))
    merged = make_node(Linear(has_bias=has_bias), inputs, dtype, linears[0].name, instead_of=linears[0])
    split = make_node(Reshape((batch, length, sum(heads), size)), [merged.output], name=linears[0].name)
    made = [merged, split]
    for position, ((reader, index), _) in enumerate(group):
        part = Slice(dim=2, start=sum(heads[:position]), length=heads[position])
        made.append(make_node(part, [split.output], name=values[position].name))
        reader.inputs[index] = made[-1].output
    # x is there before the first of them.
    place = min(graph.nodes.index(linear) for linear in linears)
    graph.nodes[place:place] = made


def _bias(linear: Node) -> torch.Tensor:
    if linear.of(Linear).has_bias:
        return linear.inputs[2].constant.detach()
    return torch.zeros(linear.inputs[1].shape[0], dtype=linear.inputs[1].dtype)


def _joined(weights: list[Value]) -> Value:
    """One weight of all rows; made when it is packed."""
    shape = (sum(weight.shape[0] for weight in weights), weights[0].shape[1])

    def joined() -> torch.Tensor:
        return torch.cat([weight.constant.detach() for weight in weights])

    identity = (_JOINED, *(weight.key for weight in weights))
    codes = _joined_codes([weight.codes for weight in weights])
    quantisation = _joined_quantisation(weights)
    return Value(shape, weights[0].dtype, weights[0].name, joined, identity=identity, quantisation=quantisation, codes=codes)


def _joined_codes(weights: list[Value | None]) -> Value | None:
    """The codes of all rows, where each weight has some of int8 around 0."""
    kept = [w for w in weights if w is not None and w.quantisation is not None and not w.quantisation.zero_point]
    return _joined(kept) if len(kept) == len(weights) and len({weight.dtype for weight in kept}) == 1 else None


def _joined_quantisation(weights: list[Value]) -> Quantisation | None:
    """One scale a row."""
    scales: list[float] = []
    for weight in weights:
        if weight.quantisation is None:
            return None
        own = weight.quantisation.scales
        scales += own if len(own) > 1 else own * weight.shape[0]
    return Quantisation(tuple(scales))


def joined_keys(weight: Value) -> tuple[Hashable, ...]:
    """The keys of the weights that were joined to this one, in order; none where it is none of those."""
    key = weight.key
    return key[1:] if isinstance(key, tuple) and key and key[0] is _JOINED else ()

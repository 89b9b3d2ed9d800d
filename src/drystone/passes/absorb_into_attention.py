"""What only brings operands into attention's axes becomes attributes of it.

before:  permute(q, 0213), permute(k, 0213) → reshape → expand → reshape (repeated heads), expand(mask) → attention → permute
after:   attention(q, k, v, mask)  with heads_first=(False, False, …), fewer heads of k and v
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from drystone.graph.graph import Graph, Node, Value
from drystone.graph.ops import Attention, Expand, Permute, Reshape
from drystone.passes.instructions import reading_counts

SWAP = (0, 2, 1, 3)
POSITIONS_FIRST = (2, 0, 1, 3)  # the same memory as SWAP where the batch is 1


def absorb_into_attention(graph: Graph) -> Graph:
    """Until nothing is left to absorb. The result is permuted where the one thing that reads it is a permute."""
    counts = reading_counts(graph)
    consumers = graph.consumers()
    for node in [node for node in graph.nodes if isinstance(node.op, Attention)]:
        while any([_absorb_operand(node, index) for index in range(3)]):
            pass
        if node.of(Attention).has_mask:
            node.inputs[3] = _unexpanded(node.inputs[3])
        _absorb_result(graph, node, counts, consumers)
    return graph.prune()


def _absorb_operand(node: Node, index: int) -> bool:
    producer, first = node.inputs[index].producer, node.of(Attention).heads_first
    if producer is not None and isinstance(producer.op, Permute) and producer.op.dims == SWAP:
        node.inputs[index] = producer.inputs[0]
        _flip(node, index)
        return True
    if index > 0 and (shared := _heads_before_repeat(node.inputs[index], first[index])) is not None:
        # Key and value keep as many heads as each other.
        other = 3 - index
        pair = _heads_before_repeat(node.inputs[other], first[other])
        if pair is not None and pair[1] == shared[1]:
            node.inputs[index], node.inputs[other] = shared[0], pair[0]
            return True
    return False


def _heads_before_repeat(value: Value, heads_first: bool) -> tuple[Value, int] | None:
    """What ``value`` was before each of its heads was repeated so many times in a row, and how many times."""
    axis = 1 if heads_first else 2
    joined = value.producer
    expanded = joined.inputs[0].producer if joined is not None and isinstance(joined.op, Reshape) else None
    if joined is None or expanded is None or not isinstance(expanded.op, Expand):
        return None
    shape, single = expanded.output.shape, expanded.inputs[0].shape
    times = shape[axis + 1] if len(shape) == 5 else 0
    if times < 2 or single != (*shape[: axis + 1], 1, *shape[axis + 2 :]):
        return None
    if value.shape != (*shape[:axis], shape[axis] * times, *shape[axis + 2 :]):
        return None
    apart = expanded.inputs[0].producer
    heads = (*shape[: axis + 1], *shape[axis + 2 :])
    if apart is None or not isinstance(apart.op, Reshape) or apart.inputs[0].shape != heads:
        return None
    return apart.inputs[0], times


def _unexpanded(mask: Value) -> Value:
    while mask.producer is not None and isinstance(mask.producer.op, Expand):
        mask = mask.producer.inputs[0]
    return mask


def _absorb_result(graph: Graph, node: Node, counts: Counter[int], consumers: dict[int, list[Node]]) -> None:
    readers = consumers.get(node.output.id, [])
    if counts[node.output.id] != 1 or not readers or not isinstance(readers[0].op, Permute):
        return
    permute = readers[0]
    dims = permute.of(Permute).dims
    if dims == SWAP:
        node.outputs = [permute.output]
        permute.output.producer = node
        graph.remove([permute])
    elif dims == POSITIONS_FIRST and node.output.shape[0] == 1:
        shape = node.output.shape
        node.output.shape = (1, *(shape[axis] for axis in SWAP[1:]))
        permute.op = Reshape(permute.output.shape)
    else:
        return
    _flip(node, 3)


def _flip(node: Node, index: int) -> None:
    op = node.of(Attention)
    q, k, v, result = (not first if position == index else first for position, first in enumerate(op.heads_first))
    node.op = replace(op, heads_first=(q, k, v, result))

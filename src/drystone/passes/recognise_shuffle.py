"""A channel shuffle is one take along the channels, and so is a slice of it.

before:  r = reshape(x → N, g, C/g, H, W)   p = permute(r, 0, 2, 1, 3, 4)   y = reshape(p → N, C, H, W)   z = slice(y, dim=1)
after:   y = take(x, dim=1, indices=[0, C/g, 2C/g, …, 1, …])               z = take(x, dim=1, …)

A take works in every format; the reshapes would force plain memory.
"""

from __future__ import annotations

from drystone.graph.graph import Graph, Node, Value, make_node
from drystone.graph.ops import Permute, Reshape, Slice, Take


def recognise_shuffle(graph: Graph) -> Graph:
    consumers = graph.consumers()
    for position, node in enumerate(graph.nodes):
        indices = _shuffle(node)
        if indices is None:
            continue
        source = node.inputs[0].producer.inputs[0].producer.inputs[0]  # type: ignore[union-attr]
        graph.nodes[position] = _take(node, source, indices)
    for position, node in enumerate(graph.nodes):
        producer = node.inputs[0].producer if node.inputs else None
        if (
            not isinstance(node.op, Slice)
            or producer is None
            or not isinstance(producer.op, Take)
            or producer.op.dims != (node.op.dim,)
        ):
            continue
        start, step, count = node.op.start, node.op.step, node.op.length
        if len(consumers.get(node.output.id, [])) or node.output in graph.outputs:
            indices = [producer.op.indices[0][start + step * i] for i in range(count)]
            graph.nodes[position] = _take(node, producer.inputs[0], indices)
    return graph.prune()


def _take(node: Node, source: Value, indices: list[int]) -> Node:
    """A take that takes the place, and the output, of ``node``."""
    made = make_node(Take((1,), (tuple(indices),)), [source], node.output.dtype, node.name)
    made.outputs = node.outputs
    node.output.producer = made
    return made


def _shuffle(node: Node) -> list[int] | None:
    """The order of the channels if ``node`` is the last reshape of a shuffle."""
    permute = node.inputs[0].producer if isinstance(node.op, Reshape) else None
    split = permute.inputs[0].producer if permute is not None and isinstance(permute.op, Permute) else None
    if split is None or not isinstance(split.op, Reshape) or permute is None:
        return None
    x, apart, y = split.inputs[0].shape, split.output.shape, node.output.shape
    rank = len(apart)
    if x != y or rank != len(x) + 1 or rank < 4 or permute.of(Permute).dims != (0, 2, 1, *range(3, rank)):
        return None
    if apart[0] != x[0] or apart[3:] != x[2:]:
        return None
    groups, each = apart[1], apart[2]
    return [group * each + i for i in range(each) for group in range(groups)]

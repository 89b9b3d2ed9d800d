"""A channel shuffle is one gather along the channels, and so is a slice of it.

before:  r = reshape(x → N, g, C/g, H, W)   p = permute(r, 0, 2, 1, 3, 4)   y = reshape(p → N, C, H, W)   z = slice(y, dim=1)
after:   y = gather(x, dim=1, indices=[0, C/g, 2C/g, …, 1, …])               z = gather(x, dim=1, …)

A gather works in every format; the reshapes would force plain memory.
"""

from __future__ import annotations

from drystone.graph.graph import Graph, Node, make_node


def recognise_shuffle(graph: Graph) -> Graph:
    consumers = graph.consumers()
    for position, node in enumerate(graph.nodes):
        indices = _shuffle(node)
        if indices is None:
            continue
        source = node.inputs[0].producer.inputs[0].producer.inputs[0]  # type: ignore[union-attr]
        graph.nodes[position] = _gather(node, source, indices)
    for position, node in enumerate(graph.nodes):
        producer = node.inputs[0].producer if node.inputs else None
        if node.op != "slice" or producer is None or producer.op != "gather" or producer.attrs["dim"] != node.attrs["dim"]:
            continue
        start, step, count = node.attrs["start"], node.attrs["step"], node.output.shape[node.attrs["dim"]]
        if len(consumers.get(node.output.id, [])) or node.output in graph.outputs:
            indices = [producer.attrs["indices"][start + step * i] for i in range(count)]
            graph.nodes[position] = _gather(node, producer.inputs[0], indices)
    return graph.prune()


def _gather(node: Node, source: object, indices: list[int]) -> Node:
    """A gather that takes the place, and the output, of ``node``."""
    made = make_node("gather", [source], node.output.shape, node.output.dtype, node.name, dim=1, indices=indices)  # type: ignore[list-item]
    made.outputs = node.outputs
    node.output.producer = made
    return made


def _shuffle(node: Node) -> list[int] | None:
    """The order of the channels if ``node`` is the last reshape of a shuffle."""
    permute = node.inputs[0].producer if node.op == "reshape" else None
    split = permute.inputs[0].producer if permute is not None and permute.op == "permute" else None
    if split is None or split.op != "reshape" or permute is None:
        return None
    x, apart, y = split.inputs[0].shape, split.output.shape, node.output.shape
    rank = len(apart)
    if x != y or rank != len(x) + 1 or rank < 4 or list(permute.attrs["dims"]) != [0, 2, 1, *range(3, rank)]:
        return None
    if apart[0] != x[0] or apart[3:] != x[2:]:
        return None
    groups, each = apart[1], apart[2]
    return [group * each + i for i in range(each) for group in range(groups)]

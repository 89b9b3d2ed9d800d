"""A cat that begins with all the parts of an earlier cat begins with that cat instead.

before:  a = cat(x, y)      b = cat(x, y, z)
after:   a = cat(x, y)      b = cat(a, z)

A dense block then grows one piece of memory: each cat lies at the front of the next, and no part is copied twice.
"""

from __future__ import annotations

from drystone.graph.graph import Graph, Node, Value
from drystone.graph.ops import Cat


def nest_cat(graph: Graph) -> Graph:
    earlier: list[tuple[Node, list[Value]]] = []  # with the parts that it had at first
    for node in graph:
        if not isinstance(node.op, Cat):
            continue
        parts = list(node.inputs)
        for other, front in reversed(earlier):
            count = len(front)
            if other.of(Cat).dim == node.op.dim and 1 < count < len(parts) and parts[:count] == front:
                node.inputs = [other.output, *parts[count:]]
                break
        earlier.append((node, parts))
    return graph

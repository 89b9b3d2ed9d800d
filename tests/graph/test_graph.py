"""The graph as data: how it is shown."""

from __future__ import annotations

import torch

from drystone.graph.graph import Graph, Node, Value


def test_repr_of_a_node_is_a_line() -> None:
    """And not all that leads to it, once for each way there."""
    value = Value((2, 3), torch.float32, name="x")
    graph = Graph(inputs=[value])
    for index in range(10):
        node = Node("add", [value, value], [Value((2, 3), torch.float32, name=f"y{index}")], {"alpha": 1})
        node.output.producer = node
        graph.nodes.append(node)
        value = node.output
    assert repr(value) == str(value) == "y9:float32[2, 3]"
    assert repr(node) == str(node) == "y9:float32[2, 3] = add(y8:float32[2, 3], y8:float32[2, 3]) alpha=1"
    assert len(repr(graph)) < 2000

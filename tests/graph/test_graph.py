"""The graph as data: how it is shown."""

from __future__ import annotations

import torch

from drystone.graph.graph import Graph, Value, make_node
from drystone.graph.ops import Cat


def test_repr_of_a_node_is_a_line() -> None:
    """And not all that leads to it, once for each way there."""
    value = Value((2, 3), torch.float32, name="x")
    graph = Graph(inputs=[value])
    for index in range(10):
        node = make_node(Cat(0), [value, value])
        node.output.name = f"y{index}"
        graph.nodes.append(node)
        value = node.output
    assert repr(value) == str(value) == "y9:float32[2048, 3]"
    assert repr(node) == str(node) == "y9:float32[2048, 3] = cat(y8:float32[1024, 3], y8:float32[1024, 3]) dim=0"
    assert len(repr(graph)) < 2000

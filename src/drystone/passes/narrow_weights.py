"""Weights of linear and recurrent layers are stored as bfloat16, on CPUs that do not multiply it: they are widened to be used.

before:  linear(x: float32, w: float32): float32
after:   linear(x: float32, w: bfloat16): float32
Products of few rows take as long as reading their weights does: half as long then. All else stays as it is, and costs what it
costs in float32: a convolution's weights are read for many outputs, and its activations would be rounded and widened at each step.
"""

from __future__ import annotations

import torch

from drystone.graph.graph import Graph, Value
from drystone.graph.ops import Linear, Recurrent
from drystone.passes.lower_precision import rounded


def narrow_weights(graph: Graph) -> Graph:
    """Nodes with ``float32`` keep their weights."""
    stored: dict[int, Value] = {}
    for node in graph:
        weights: list[Value] = []
        if isinstance(node.op, Linear):
            weights = node.inputs[1:2]
        elif isinstance(node.op, Recurrent):
            directions = node.op.by_role(node.inputs).directions
            weights = [value for direction in directions for value in (direction.weight, direction.projection) if value is not None]
        wide = node.float32 or not all(value.is_constant and value.dtype == torch.float32 for value in weights)
        if not weights or wide or node.inputs[0].dtype != torch.float32:
            continue
        for value in weights:
            stored.setdefault(value.id, rounded(value))
        node.inputs = [stored[value.id] if value in weights else value for value in node.inputs]
    return graph

"""Compute once, here, what depends on constants alone.

before:  permute(weight) → mul(·, scale) → conv
after:   conv with one constant
Floating-point arithmetic is done in float64 and stored in the value's own dtype.
"""

from __future__ import annotations

import torch

from drystone.graph.graph import Graph, Node
from drystone.graph.interpreter import run
from drystone.graph.ops import Aten, Convert

ALWAYS_BYTES = 1 << 20  # a constant up to this size is stored whatever it is computed from
GROWTH = 4  # beyond it, a result may be this many times the size of what it is computed from


def fold_constants(graph: Graph) -> Graph:
    """Nodes without an input that is computed become constants, unless random or large; outputs of the graph stay computed."""
    outputs = {value.id for value in graph.outputs}
    folded: list[Node] = []
    for node in graph.nodes:
        if not any(value.id in outputs for value in node.outputs) and _is_foldable(node):
            _fold(node)
            folded.append(node)
    graph.remove(folded)
    return graph


def _is_foldable(node: Node) -> bool:
    if any(not value.is_constant for value in node.inputs):
        return False
    if isinstance(node.op, Aten):
        # Operators say that they draw random numbers; a callable that is no operator says nothing.
        random = torch.Tag.nondeterministic_seeded
        if random in getattr(node.op.target, "tags", [random]):
            return False
    made, read = sum(value.bytes for value in node.outputs), sum(value.bytes for value in node.inputs)
    return made <= max(ALWAYS_BYTES, GROWTH * read)


def _fold(node: Node) -> None:
    exact = node.op.moves or isinstance(node.op, (Aten, Convert)) or not node.output.dtype.is_floating_point
    with torch.no_grad():
        results = run(Graph(outputs=list(node.outputs), nodes=[node]), [], None if exact else torch.float64)
    for value, result in zip(node.outputs, results, strict=True):
        value.data = result.to(value.dtype).contiguous()
        value.producer = None

"""The rotary embeddings of queries and keys that go into a cache become part of the attention over it.

before:  rotary(q, cos, sin), rotary(k, cos, sin), v → cached_attention
after:   cached_attention(permute(q), permute(k), v, cos, sin)  with rotary
The permutes are views, as attention reads its operands where they lie.
"""

from __future__ import annotations

from dataclasses import replace

from drystone.graph.graph import Graph, Node, make_node
from drystone.graph.ops import CachedAttention, Permute, Rotary
from drystone.graph.ops.operator import broadcasts
from drystone.passes.instructions import reading_counts


def absorb_rotary(graph: Graph) -> Graph:
    """Where all queries and keys are turned by the same cosines and sines, and nothing else reads them."""
    counts = reading_counts(graph)
    for node in [node for node in graph.nodes if isinstance(node.op, CachedAttention)]:
        op = node.of(CachedAttention)
        turned = node.inputs[: 1 + op.writes]
        rotaries = [value.producer for value in turned if counts[value.id] == 1]
        found = [rotary for rotary in rotaries if rotary is not None and isinstance(rotary.op, Rotary)]
        if op.rotary or len(found) < len(turned) or not _alike(node, found):
            continue
        cosines, sines = found[0].inputs[1:]
        for index, rotary in enumerate(found):
            permute = make_node(Permute(rotary.of(Rotary).dims), [rotary.inputs[0]], name=rotary.name)
            graph.nodes.insert(graph.nodes.index(rotary), permute)
            node.inputs[index] = permute.output
        node.inputs[op.tables : op.tables] = [cosines, sines]
        node.op = replace(op, rotary=True)
    return graph.prune()


def _alike(node: Node, rotaries: list[Node]) -> bool:
    batch, _, count, depth = node.inputs[0].shape
    factors = rotaries[0].inputs[1:]
    return all(rotary.inputs[1:] == factors and rotary.inputs[0].dtype == node.output.dtype for rotary in rotaries) and all(
        broadcasts(value.shape, (batch, 1, count, depth)) for value in factors
    )

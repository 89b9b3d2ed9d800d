"""Rotary embeddings become part of the attention over a cache where all that it turns is turned alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from drystone.generation.pages import Layer, Pages, Rows, Sequence
from drystone.graph.graph import Graph, Value, make_node
from drystone.graph.interpreter import run
from drystone.graph.ops import CachedAttention, Permute, Rotary
from drystone.passes.absorb_rotary import absorb_rotary

INT64 = torch.int64


def graph_of(turned: str = "qk", factors: tuple[int, ...] = (3, 8), same: bool = True, writes: bool = True) -> Graph:
    """q (2, 3, 4, 8) and k (2, 3, 2, 8), positions first, of which those in ``turned`` are turned."""
    q, k, v = (Value((2, 3, heads, 8), torch.float32, name) for heads, name in ((4, "q"), (2, "k"), (2, "v")))
    cosines, sines = (Value(factors, torch.float32, name) for name in ("cosines", "sines"))
    pages, lengths = Value((1, 2, 1), INT64, "pages"), Value((2,), INT64, "lengths")
    nodes, heads_first = [], []
    for value in (q, k, v) if writes else (q,):
        if value.name in turned:
            nodes.append(make_node(Rotary((0, 2, 1, 3)), [value, cosines, sines if same or value is q else cosines]))
        else:
            nodes.append(make_node(Permute((0, 2, 1, 3)), [value]))
        heads_first.append(nodes[-1].output)
    op = CachedAttention(0, 0.3, 0, 0.0, writes, False, False, False, False, True)
    nodes.append(make_node(op, [*heads_first, pages, lengths]))
    inputs = [q, *([k, v] if writes else []), cosines, sines, pages, lengths]
    return Graph(inputs, [nodes[-1].output], nodes)


def is_absorbed(graph: Graph) -> bool:
    graph.check()
    graph.check_order()
    return not any(isinstance(node.op, Rotary) for node in graph)


@pytest.mark.parametrize("factors", [(3, 8), (2, 1, 3, 8), (1, 1, 3, 8)])
@pytest.mark.parametrize("writes", [True, False])
def test_results_are_the_same(factors: tuple[int, ...], writes: bool) -> None:
    rows = Rows([Sequence(Pages([Layer(2, 8, 8)], 64)) for _ in range(2)])
    rows.reserve(3)
    before = graph_of(factors=factors, writes=writes)
    inputs = [torch.randn(value.shape) for value in before.inputs[:-2]] + [*rows.tables()]
    (wanted,) = run(before, inputs, torch.float64)
    after = absorb_rotary(before)
    assert is_absorbed(after)
    torch.testing.assert_close(run(after, inputs, torch.float64), [wanted])


@pytest.mark.parametrize("options", [{"turned": "q"}, {"turned": "k"}, {"same": False}, {"factors": (2, 4, 3, 8), "writes": False}])
def test_what_is_left(options: dict[str, Any]) -> None:
    assert not is_absorbed(absorb_rotary(graph_of(**options)))


def test_what_is_read_elsewhere_is_left() -> None:
    graph = graph_of()
    graph.outputs.append(graph.nodes[1].output)
    assert not is_absorbed(absorb_rotary(graph))

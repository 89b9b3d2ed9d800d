from __future__ import annotations

import torch
from small_graphs import keeps_numbers, ops

from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.passes.recognise_matmuls import recognise_matmuls
from small_models import Calls


def graph_of(function, *shapes):
    return build(capture(Calls(function).eval(), tuple(torch.randn(shape) for shape in shapes)))


def test_transposed_heads_are_read_where_they_lie():
    graph = graph_of(lambda q, k: q.transpose(1, 2) @ k.permute(0, 2, 3, 1), (2, 5, 3, 8), (2, 7, 3, 8))
    keeps_numbers(graph, recognise_matmuls)
    assert ops(graph) == ["matmul"]
    assert graph.nodes[0].op.dims == ((0, 2, 1, 3), (0, 2, 3, 1))


def test_elements_far_apart_are_moved_first():
    graph = graph_of(lambda x, y: x.permute(3, 0, 1, 2) @ y, (2, 5, 8, 3), (3, 2, 8, 9))
    keeps_numbers(graph, recognise_matmuls)
    assert ops(graph) == ["permute", "matmul"]


def test_operands_of_fewer_axes():
    graph = graph_of(lambda x, y: (x @ y, torch.bmm(x, x.mT)), (3, 5, 8), (8, 7))
    keeps_numbers(graph, recognise_matmuls)
    assert sorted(ops(graph)) == ["matmul", "matmul", "reshape"]


def test_vectors_and_others_stay():
    graph = graph_of(lambda x, y: (x @ y[0, 0], x.i0()), (3, 5, 8), (3, 5, 8))
    recognise_matmuls(graph)
    assert ops(graph).count("aten") == 2 and "matmul" not in ops(graph)

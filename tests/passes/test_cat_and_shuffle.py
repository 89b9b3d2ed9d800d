"""nest_cat and recognise_shuffle."""

import torch
from torch import nn

from drystone.capture.export import capture
from drystone.graph import interpreter
from drystone.graph.build import build
from drystone.graph.graph import Graph
from drystone.graph.ops import Cat
from drystone.passes.nest_cat import nest_cat
from drystone.passes.recognise_shuffle import recognise_shuffle


def _graph(module: nn.Module, x: torch.Tensor) -> Graph:
    return build(capture(module.eval(), (x,), {}))


def test_each_cat_of_a_dense_block_begins_with_the_one_before():
    x = torch.randn(2, 3, 4, 4)

    class Growing(nn.Module):
        def forward(self, x):
            parts = [x, x.relu()]
            a = torch.cat(parts, 1)
            parts.append(a[:, :3].sigmoid())
            b = torch.cat(parts, 1)
            parts.append(b[:, :3].tanh())
            return torch.cat(parts, 1), torch.cat([x, x.neg()], 1)

    graph = _graph(Growing(), x)
    before = interpreter.run(graph, [x])
    cats = [node for node in nest_cat(graph) if isinstance(node.op, Cat)]
    assert [len(node.inputs) for node in cats] == [2, 2, 2, 2]
    assert cats[1].inputs[0] is cats[0].output and cats[2].inputs[0] is cats[1].output
    assert cats[3].inputs[0] is graph.inputs[0]
    graph.check()
    for a, b in zip(before, interpreter.run(graph, [x]), strict=True):
        assert torch.equal(a, b)


def test_cats_along_other_axes_are_left_alone():
    class Other(nn.Module):
        def forward(self, x):
            y = x.relu()
            return torch.cat([x, y], 1), torch.cat([x, y, x], 2)

    graph = nest_cat(_graph(Other(), torch.randn(1, 2, 3, 3)))
    assert [len(node.inputs) for node in graph if isinstance(node.op, Cat)] == [2, 3]


def test_a_channel_shuffle_and_its_halves_are_takes():
    class Shuffle(nn.Module):
        def forward(self, x):
            n, c, h, w = x.shape
            y = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
            a, b = y.chunk(2, dim=1)
            return a, b, nn.functional.channel_shuffle(x, 3)

    x = torch.randn(2, 12, 3, 5)
    graph = _graph(Shuffle(), x)
    before = interpreter.run(graph, [x])
    graph = recognise_shuffle(graph)
    graph.check()
    assert [node.op.name for node in graph] == ["take"] * 3
    for a, b in zip(before, interpreter.run(graph, [x]), strict=True):
        assert torch.equal(a, b)


def test_another_permutation_is_no_shuffle():
    class Other(nn.Module):
        def forward(self, x):
            n, c, h, w = x.shape
            return x.view(n, 2, c // 2, h, w).permute(0, 1, 2, 4, 3).reshape(n, c, h, w)

    graph = recognise_shuffle(_graph(Other(), torch.randn(1, 4, 3, 3)))
    assert "take" not in [node.op.name for node in graph]

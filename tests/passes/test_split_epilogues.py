"""split_epilogues."""

import torch
from torch import nn

from drystone.capture.export import capture
from drystone.graph import reference
from drystone.graph.build import build
from drystone.passes import simplify
from drystone.passes.split_epilogues import split_epilogues


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(6, 5)

    def forward(self, x):
        y = self.a(x).relu()
        return self.c((self.b(y) + x).clamp(-1, 1)).sigmoid()


def test_the_same_numbers_without_epilogues():
    x = torch.randn(2, 4, 6, 6)
    graph = simplify(build(capture(Block().eval(), (x,), {})))
    before = str(graph)
    split = split_epilogues(graph)
    split.check()
    assert any(node.epilogue for node in graph) and not any(node.epilogue for node in split)
    assert str(graph) == before, "the graph that is given stays as it is"
    for a, b in zip(reference.run(graph, [x], torch.float64), reference.run(split, [x], torch.float64), strict=True):
        assert torch.equal(a, b)


def test_weights_are_shared():
    x = torch.randn(1, 4, 6, 6)
    graph = simplify(build(capture(Block().eval(), (x,), {})))
    weights = [node.inputs[1] for node in graph if node.op in ("conv", "matmul")]
    assert [node.inputs[1] for node in split_epilogues(graph) if node.op in ("conv", "matmul")] == weights

from __future__ import annotations

import pytest
import torch
from small_graphs import keeps_numbers, ops
from torch import nn

from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.passes.recognise_rotary import recognise_rotary

COSINES, SINES = torch.randn(5, 8), torch.randn(5, 8)


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("cosines", COSINES)
        self.register_buffer("sines", SINES)

    def forward(self, *inputs):
        return self.function(*inputs, self.cosines, self.sines)


def turned(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def graph_of(function, *shapes):
    graph = build(capture(Calls(function).eval(), tuple(torch.randn(shape) for shape in shapes)))
    keeps_numbers(graph, recognise_rotary)
    return graph


@pytest.mark.parametrize(
    "function",
    [
        lambda x, c, s: x * c + turned(x) * s,
        lambda x, c, s: s * turned(x) + c * x,
        lambda x, c, s: (x * c) + (turned(x) * s[None, None]),
    ],
)
def test_spellings(function):
    assert ops(graph_of(function, (2, 3, 5, 8))) == ["rotary"]


def test_heads_are_read_where_they_lie():
    graph = graph_of(lambda x, c, s: (y := x.transpose(1, 2)) * c + turned(y) * s, (2, 5, 3, 8))
    assert ops(graph) == ["rotary"]
    assert graph.nodes[0].op.dims == (0, 2, 1, 3)


def test_computed_angles():
    graph = graph_of(lambda x, a, c, s: x * a.cos() + turned(x) * a.sin(), (2, 3, 5, 8), (2, 1, 5, 8))
    assert sorted(ops(graph)) == ["pointwise", "pointwise", "rotary"]


def reordered(x):
    return torch.cat((x[..., :4], -x[..., 4:]), dim=-1)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, c, s: x * c - turned(x) * s,
        lambda x, c, s: x * c + reordered(x) * s,
        lambda x, c, s: x * c + turned(x + 1) * s,
        lambda x, c, s: x * c + torch.cat((-x[..., 3:], x[..., :3]), dim=-1) * s,
        lambda x, c, s: x * c + torch.cat((-x[:, 1:], x[:, :1]), dim=1) * s,
        lambda x, c, s: x * c[0, 0] + turned(x) * s[0, 0],
    ],
)
def test_others_that_look_alike_stay(function):
    assert "rotary" not in ops(graph_of(function, (2, 2, 5, 8)))


def test_parts_that_others_read_stay():
    graph = graph_of(lambda x, c, s: ((y := x * c) + turned(x) * s, y), (2, 2, 5, 8))
    assert "rotary" not in ops(graph)

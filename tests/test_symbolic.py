"""Graphs of a symbolic capture for given sizes: from templates, they are what is built anew for these sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agreement import needs_unconditional_sizes
from drystone.capture.export import Captured, capture
from drystone.capture.shapes import varying_shapes
from drystone.graph.graph import Graph
from drystone.graph.template import difference
from drystone.options import Options
from drystone.preparer import lowered
from drystone.sources.symbolic import MAX_TEMPLATES, SymbolicCapture

pytestmark = needs_unconditional_sizes


class Pictures(nn.Module):
    """Pools by tables of windows, a mean, a resize back to the size of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.down = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool2d(F.relu(self.norm(self.conv(x))), 3, 2, 1)
        y = F.avg_pool2d(y + self.down(y), 2, ceil_mode=True)
        return torch.cat([F.interpolate(y, x.shape[2:], mode="bilinear"), x], 1) * y.mean((1, 2, 3), keepdim=True)


class Sentences(nn.Module):
    """Positions from a table, a causal mask and a padding mask made of sizes, heads split and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 32), nn.Embedding(64, 32)
        self.norm, self.linears = nn.LayerNorm(32), nn.ModuleList(nn.Linear(32, 32) for _ in range(4))

    def forward(self, ids: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, int]:
        batch, length = ids.shape
        x = self.norm(self.words(ids) + self.places(torch.arange(length)))
        q, k, v = (linear(x).view(batch, length, 4, 8).transpose(1, 2) for linear in self.linears[:3])
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        mask = (~later & seen[:, None, None, :].bool()).expand(batch, 1, length, length)
        y = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).reshape(batch, length, 32)
        return x + self.linears[3](y), length


class Causal(nn.Module):
    """A mask that is a constant of each size, and found to be causal by its numbers."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        return torch.softmax(x @ y.transpose(-1, -2) + mask, -1) @ y


class Broadcasts(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = x.flatten(1) + y[:, :1]
        return torch.relu(z.reshape(x.shape) * 2)[:, :2, None].repeat(1, 1, 2, 1)


def tokens(batch: int, length: int) -> tuple[torch.Tensor, ...]:
    return torch.randint(0, 50, (batch, length)), torch.ones(batch, length, dtype=torch.int64)


def rows(batch: int, length: int) -> tuple[torch.Tensor, ...]:
    return torch.randn(batch, length, 16), torch.randn(batch, length, 16)


CASES: dict[str, tuple[type[nn.Module], Callable[..., tuple[torch.Tensor, ...]], list[set[int]]]] = {
    "pictures": (Pictures, lambda b, n: (torch.randn(b, 3, 8 * n, 8 * n + 2),), [{0, 2, 3}]),
    "sentences": (Sentences, tokens, [{0, 1}, {0, 1}]),
    "causal": (Causal, rows, [{0, 1}, {0, 1}]),
    "broadcasts": (Broadcasts, lambda b, n: (torch.randn(b, n, 4), torch.randn(b, n)), [{0, 1}, {0, 1}]),
}


class Counting:
    """``lowered``, counted."""

    def __init__(self, options: Options) -> None:
        self.options, self.calls = options, 0

    def __call__(self, captured: Captured) -> Graph:
        self.calls += 1
        return lowered(captured, self.options)


def symbolic(model: nn.Module, args: tuple[torch.Tensor, ...], axes: list[set[int]], options: Options) -> tuple[Any, Counting]:
    first = capture(model, args)
    shapes = varying_shapes(first.signature.parameters, args, {}, axes)
    counting = Counting(options)
    return SymbolicCapture(capture(model, args, {}, shapes), counting), counting


@pytest.mark.parametrize("name, dtype", [*((name, None) for name in CASES), ("sentences", torch.bfloat16)])
def test_graphs_of_templates_are_those_of_fresh_captures(name: str, dtype: torch.dtype | None) -> None:
    kind, make, axes = CASES[name]
    torch.manual_seed(0)
    model, options = kind().eval(), Options(dtype=dtype, tuning="estimate")
    found, counting = symbolic(model, make(3, 5), axes, options)
    for batch, length in [(3, 5), (2, 7), (8, 8), (4, 2), (6, 13)]:
        args = make(batch, length)
        graph, signature = found.graph_for([tuple(tensor.shape) for tensor in args])
        fresh = capture(model, args)
        graph.check()
        assert not difference(graph, lowered(fresh, options))
        assert signature.outputs == fresh.signature.outputs
    for batch, length in [(3, 9), (5, 6), (7, 12), (9, 4)]:
        assert found.graph_for([tuple(tensor.shape) for tensor in make(batch, length)])
    assert counting.calls <= 5  # of nine: templates, for sizes that are equal by chance too, and what they were compared with
    assert found.graph_for([tuple(tensor.shape) for tensor in make(1, 6)]) is None


def test_sizes_that_are_decided_upon_have_templates_of_their_own() -> None:
    class Decides(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flip(1) + 1  # by a table of places, for each size

    model = Decides().eval()
    found, counting = symbolic(model, (torch.randn(3, 5),), [{0, 1}], Options(tuning="estimate"))
    for length in range(2, 2 * MAX_TEMPLATES):
        graph, _ = found.graph_for([(3, length)])
        assert not difference(graph, lowered(capture(model, (torch.randn(3, length),)), Options(tuning="estimate")))
    before = counting.calls
    for batch in range(4, 9):  # the same table
        graph, _ = found.graph_for([(batch, 2)])
        assert graph.outputs[0].shape == (batch, 2)
    assert counting.calls <= before + 1  # to compare with


def test_a_difference_is_found() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    graph, same, other = (lowered(capture(model, (torch.randn(n, 4),)), Options()) for n in (3, 3, 5))
    assert not difference(graph, same)
    assert "[3, 4]" in difference(graph, other)
    same.nodes[0].epilogue.clear()
    assert "linear" in difference(graph, same)
    graph.nodes.pop()
    assert difference(graph, same)

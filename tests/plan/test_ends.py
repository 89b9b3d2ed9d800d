"""Programs that take and leave their tensors in another format than plain."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from agreement import Reference, assert_close
from drystone import native
from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.graph.graph import Graph, Value
from drystone.passes import simplify
from drystone.plan.assembled import Ends
from drystone.plan.autotune import Planner
from drystone.plan.implementations.base import WeightStore
from drystone.plan.tuning_cache import TuningCache
from drystone.runtime.program import Program

pytestmark = [
    pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen"),
    pytest.mark.usefixtures("no_tuning_cache"),
]

BLOCKED, BLOCK = native.blocked().name, native.blocked().block


def program(graph: Graph, ends: Ends, format: str | None = None) -> Program:
    planner = Planner(graph, WeightStore(), TuningCache.in_memory(), format, ends=ends)
    return Program(planner.assemble(planner.best()), 2)


def laid(x: torch.Tensor, format: str) -> torch.Tensor:
    """The memory of ``x`` in ``format``, as one axis where that is not plain."""
    if format == "plain":
        return x.contiguous()
    if format == "channels_last":
        return x.permute(0, 2, 3, 1).reshape(-1)
    padded = functional.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % BLOCK))
    return padded.unflatten(1, (-1, BLOCK)).permute(0, 1, 3, 4, 2).reshape(-1)


@pytest.mark.parametrize("target", ["plain", "channels_last", BLOCKED])
@pytest.mark.parametrize("source", ["plain", "channels_last", BLOCKED])
@pytest.mark.parametrize("shape", [(2, 32, 3, 5), (2, 21, 3, 5), (2, 32, 1, 1), (1, 1, 4, 4)])
def test_a_program_without_nodes_reorders(shape: tuple[int, ...], source: str, target: str) -> None:
    value = Value(shape, torch.float32, "x")
    reorder = program(Graph([value], [value]), Ends((source,), (target,)))
    x = torch.randn(shape)
    got = reorder.single([laid(x, source)])
    assert got.shape == laid(x, target).shape
    assert torch.equal(got, laid(x, target))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.norm(self.conv(x)) + residual
        return functional.relu(y), y.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("channels", [32, 20])
@pytest.mark.parametrize("format", ["plain", "channels_last", BLOCKED])
def test_both_ends_in_one_format(format: str, channels: int) -> None:
    model, inputs = Block(channels).eval(), (torch.randn(2, channels, 6, 7), torch.randn(2, channels, 6, 7))
    made = program(simplify(build(capture(model, inputs))), Ends((format, format), (format, format)), format)
    if channels % BLOCK == 0 and format != "plain":  # oneDNN convolves others elsewhere
        assert made.reorders == 0
    results = made([laid(x, format) for x in inputs])
    reference = Reference(model, inputs)
    wanted = [laid(y, format) for y in reference.float32]
    assert [y.shape for y in results] == [y.shape for y in wanted]
    for got, want in zip(results, wanted, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize(
    "ends", [Ends((BLOCKED, "plain"), ("plain", BLOCKED)), Ends(("plain", BLOCKED), ("channels_last", "plain"))]
)
def test_ends_in_different_formats(ends: Ends) -> None:
    model, inputs = Block(32).eval(), (torch.randn(2, 32, 6, 7), torch.randn(2, 32, 6, 7))
    made = program(simplify(build(capture(model, inputs))), ends)
    results = made([laid(x, format) for x, format in zip(inputs, ends.inputs, strict=True)])
    for got, want, format in zip(results, Reference(model, inputs).float32, ends.outputs, strict=True):
        assert_close(got, laid(want, format))

"""Which kernels a depthwise or grouped convolution may go by: the own one over any axes, oneDNN's depthwise ones for images alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from agreement import Reference
from drystone import native
from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.graph.graph import Node, Value, constant, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Conv
from drystone.passes import simplify
from drystone.plan.assemble import assemble
from drystone.plan.formats import CHANNELS_LAST, PLAIN
from drystone.plan.implementations.base import WeightStore
from drystone.plan.implementations.convolution import OneDnnConvolution
from drystone.plan.implementations.depthwise import Depthwise
from drystone.runtime.program import Program

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")


def conv_node(axes: int = 1, channels: int = 32, groups: int = 32, outputs: int = 32, dtype: torch.dtype = torch.float32) -> Node:
    x, weight = (
        Value((1, channels, *(9,) * axes), dtype),
        constant(torch.zeros(outputs, channels // groups, *(3,) * axes, dtype=dtype)),
    )
    ones, sides = (1,) * axes, (1,) * axes
    return make_node(Conv(ones, sides, sides, ones, groups=groups, has_bias=False), [x, weight])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_every_format_is_offered(axes: int) -> None:
    for changed in ({}, {"outputs": 64}, {"dtype": torch.bfloat16}):
        node = conv_node(axes, **changed)
        assert Depthwise().refuses(node) is None
        assert [layout.output for layout in Depthwise().layouts(node)] == [CHANNELS_LAST, native.blocked().name, PLAIN]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"groups": 1}, "one group"), ({"groups": 2, "channels": 64}, "a group has more"), ({"dtype": torch.float64}, "float64")],
)
def test_refusals(changed: dict[str, Any], reason: str) -> None:
    refusal = Depthwise().refuses(conv_node(**changed))
    assert refusal is not None and reason in refusal


def test_small_groups_go_across_channels() -> None:
    node = conv_node(groups=8)
    assert Depthwise().refuses(node) is None
    assert [layout.output for layout in Depthwise().layouts(node)] == [CHANNELS_LAST, native.blocked().name]


def test_long_epilogue_is_refused() -> None:
    node = conv_node()
    node.epilogue = [PointwiseOp("relu", (("in", 0),))] * 9
    refusal = Depthwise().refuses(node)
    assert refusal is not None and "8 instructions" in refusal


def test_onednn_is_left_out_where_it_has_no_depthwise_kernel() -> None:
    onednn = OneDnnConvolution(Conv)
    assert "volumes" in (onednn.refuses(conv_node(axes=3)) or "")
    assert onednn.refuses(conv_node(axes=3, groups=2)) is None
    for axes in (1, 2):
        assert PLAIN not in [layout.output for layout in onednn.layouts(conv_node(axes))]
        assert PLAIN in [layout.output for layout in onednn.layouts(conv_node(axes, groups=2))]


class Residual(nn.Module):
    """One axis, with a bias, a stride, a residual and an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(32, 32, 5, stride=2, padding=4, dilation=2, groups=32)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (self.conv(x) * torch.arange(32.0).view(1, 32, 1) + y).relu()


@pytest.mark.parametrize("format", [CHANNELS_LAST, native.blocked().name])
def test_onednn_convolves_one_axis_as_an_image(format: str) -> None:
    expected = Reference(Residual().eval().requires_grad_(False), (torch.randn(2, 32, 19), torch.randn(2, 32, 10)))
    graph = simplify(build(capture(expected.model, expected.inputs, {})))
    onednn = OneDnnConvolution(Conv)
    convs = [node for node in graph if isinstance(node.op, Conv)]
    assert len(convs) == 1
    choice = {convs[0]: (onednn, next(layout for layout in onednn.layouts(convs[0]) if layout.output == format))}
    plan = assemble(graph, choice, WeightStore(), lambda node, option, reason: pytest.fail(reason))
    (made,) = [record.implementation for record in plan.records if record.node is convs[0] and record.kind == "node"]
    assert "gemm" not in made and "ref" not in made
    expected.check_float32(Program(plan, torch.get_num_threads())(list(expected.inputs)))

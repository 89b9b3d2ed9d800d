"""Which convolutions the own direct kernel is offered for."""

from __future__ import annotations

from dataclasses import replace
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
from drystone.plan.formats import CHANNELS_LAST
from drystone.plan.implementations import IMPLEMENTATIONS
from drystone.plan.implementations.base import WeightStore
from drystone.plan.implementations.direct import Direct
from drystone.runtime.program import Program

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

LANES = native.blocked().block
(DIRECT,) = (each for each in IMPLEMENTATIONS if isinstance(each, Direct))


def conv_node(
    groups: int = 2, inputs: int = LANES, outputs: int = LANES, axes: int = 2, kernel: int = 3, stride: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Node:  # fmt: skip
    x, weight = (
        Value((1, groups * inputs, *(19,) * axes), dtype),
        constant(torch.zeros(groups * outputs, inputs, *(kernel,) * axes, dtype=dtype)),
    )
    strides, sides = (stride,) * axes, (kernel // 2,) * axes
    return make_node(Conv(strides, sides, sides, (1,) * axes, groups=groups, has_bias=False), [x, weight])


def test_formats() -> None:
    for changed in ({}, {"outputs": 3 * LANES}, {"axes": 1}, {"groups": 1, "stride": 2}, {"kernel": 1}):
        node = conv_node(**changed)
        assert DIRECT.refuses(node) is None
        assert [layout.output for layout in DIRECT.layouts(node)] == [CHANNELS_LAST, native.blocked().name]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"groups": 1, "inputs": 2 * LANES, "outputs": 2 * LANES}, "fewer multiplications"),
        ({"groups": 1, "kernel": 1}, "one tap"),
        ({"inputs": LANES // 2}, "whole vectors"),
        ({"outputs": LANES + 4}, "whole vectors"),
        ({"axes": 3}, "spatial axes"),
        ({"dtype": torch.bfloat16}, "float32"),
    ],
)
def test_refusals(changed: dict[str, Any], reason: str) -> None:
    refused = DIRECT.refuses(conv_node(**changed))
    assert refused is not None and reason in refused


def test_what_may_follow() -> None:
    node = conv_node()
    for kind, alpha, beta, takes in (
        ("relu", 0.0, 0.0, True),
        ("clamp", -1.0, 6.0, True),
        ("clamp", 1.0, 0.0, False),
        ("silu", 0.0, 0.0, False),
    ):
        node.epilogue = [PointwiseOp(kind, (("in", 0),), alpha, beta)]
        assert (DIRECT.refuses(node) is None) is takes


@pytest.mark.parametrize("format", [CHANNELS_LAST, native.blocked().name])
@pytest.mark.parametrize("groups", [1, 4])
def test_in_a_program(groups: int, format: str) -> None:
    torch.manual_seed(0)
    width = 16 * groups
    model = nn.Sequential(
        nn.Conv2d(width, width, 3, stride=2, padding=1, groups=groups),
        nn.ReLU6(),
        nn.Conv2d(width, 2 * width, 5, padding=2, groups=groups, bias=False),
    )
    expected = Reference(model.eval().requires_grad_(False), (torch.randn(2, width, 21, 30),))
    graph = simplify(build(capture(expected.model, expected.inputs, {})))
    layout = next(layout for layout in DIRECT.layouts(conv_node()) if layout.output == format)
    convs = [node for node in graph if isinstance(node.op, Conv)]
    choice = {node: (DIRECT, replace(layout, inputs=(format, *[None] * (len(node.inputs) - 1)))) for node in convs}
    plan = assemble(graph, choice, WeightStore(), lambda node, option, reason: pytest.fail(reason))
    made = [record.implementation for record in plan.records if record.node in convs and record.kind == "node"]
    assert len(made) == 2 and all("direct" in name for name in made)
    expected.check_float32(Program(plan, torch.get_num_threads())(list(expected.inputs)))

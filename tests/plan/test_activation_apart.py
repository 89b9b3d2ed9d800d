"""Activations of convolutions in a step of their own, where they lie."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agreement import Reference
from drystone import native
from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.graph.graph import Node
from drystone.graph.instructions import INSTRUCTIONS
from drystone.graph.ops import Conv
from drystone.passes import simplify
from drystone.plan.autotune import Planner
from drystone.plan.formats import CHANNELS_LAST
from drystone.plan.implementations.base import WeightStore
from drystone.plan.implementations.convolution import MANY_RESULTS, ActivationApart
from drystone.plan.tuning_cache import TuningCache
from drystone.runtime.program import Program

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

FORMATS = [CHANNELS_LAST, native.blocked().name]  # in plain memory oneDNN adds by its reference alone
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "elu": lambda x: F.elu(x, 0.7),
    "exp": torch.exp,
    "gelu_erf": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Model(nn.Module):
    """``act`` of a convolution, times that of another to which ``y`` is added; side by side in one tensor if ``joined``."""

    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor], joined: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.act, self.joined = act, joined

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        parts = self.act(self.first(x)), self.act(self.second(x) + y)
        return torch.cat(parts, 1) if self.joined else parts[0] * parts[1]


def check(model: nn.Module, format: str, size: int = 32) -> list[Node]:
    """Gives the nodes that have a second step."""
    apart = ActivationApart(Conv)
    x = torch.randn(1, 16, size, size)
    expected = Reference(model.eval().requires_grad_(False), (x, torch.randn_like(x)))
    planner = Planner(simplify(build(capture(expected.model, expected.inputs, {}))), WeightStore(), TuningCache({}))
    choice = planner.best()
    for node in [node for node in choice if isinstance(node.op, Conv) and apart.refuses(node) is None]:
        choice[node] = apart, next(layout for layout in apart.layouts(node) if layout.output == format)
    plan = planner.assemble(choice)
    expected.check_float32(Program(plan, torch.get_num_threads())(list(expected.inputs)))
    return [record.node for record in plan.records if record.kind == "finish" and record.node]


def test_every_exponential_is_tried() -> None:
    assert set(ACTIVATIONS) == {kind for kind, instruction in INSTRUCTIONS.items() if instruction.exponential}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_results(name: str, format: str) -> None:
    found = check(Model(ACTIVATIONS[name]), format)
    assert {tuple([op.kind for op in node.epilogue]) for node in found} == {("add", name), (name, "mul")}


@pytest.mark.parametrize("format", FORMATS)
def test_parts_of_a_cat(format: str) -> None:
    assert len(check(Model(F.silu, joined=True), format)) == 2


def test_few_results_and_other_instructions_are_refused() -> None:
    few = int((MANY_RESULTS / 16) ** 0.5) - 1
    assert not check(Model(F.silu), CHANNELS_LAST, few)
    assert not check(Model(F.relu), CHANNELS_LAST)

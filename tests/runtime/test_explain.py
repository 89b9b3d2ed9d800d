"""``explain()``: sums over steps, modules of the user's model, text on three levels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import drystone
from drystone import native
from drystone.runtime.explain import ExplainedStep, Explanation


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


@pytest.mark.skipif(native.isa() == "none", reason="torch computes, and nothing is fused")
def test_steps_tell_their_module_and_what_they_hold() -> None:
    explained = drystone.optimize(Model().eval(), (torch.randn(1, 3, 8, 8),), tuning="estimate").explain()
    first, second = (step for step in explained.steps if step.op == "conv")
    assert (first.module, second.module) == ("body.0", "body.2")
    assert first.fused == ["relu"] and second.fused == []
    assert first.operations == 2 * 8 * 8 * 8 * 3 * 9
    assert first.gflops == pytest.approx(first.operations / first.microseconds / 1e3)
    (linear,) = (step for step in explained.steps if step.op == "linear")
    assert (linear.module, linear.operations) == ("head", 2 * 8 * 4)
    assert explained.to_dict()["steps"][0]["module"] == explained.steps[0].module


def step(module: str, microseconds: float, kind: str = "node") -> ExplainedStep:
    return ExplainedStep(f"step of {module}", "linear", [1, 2], "float32", "own", "plain", microseconds, kind, module=module)


def explanation() -> Explanation:
    steps = [step("a.0", 10.0), step("a.1", 20.0, "reorder"), step("b", 30.0, "aten"), step("", 40.0)]
    return Explanation(steps, "drystone", 1 << 20, 1 << 21, 0.125, 0.25, 2, "avx2", "3.2")


def test_sums() -> None:
    explained = explanation()
    assert explained.modules == {"a.0": 10.0, "a.1": 20.0, "a": 30.0, "b": 30.0, "": 100.0}
    assert explained.between_microseconds == pytest.approx(25.0)
    assert math.isclose(explained.reorder_share, 0.2)


def test_levels_of_text() -> None:
    explained = explanation()
    summary = explained.text("summary")
    assert "drystone 0.125 ms, eager 0.250 ms: 2.00 times as fast" in summary
    assert "1 on ATen take 0.030 ms (30.0 %), 1 reorders and copies 0.020 ms (20.0 %); between the steps 0.025 ms" in summary
    assert summary.splitlines()[2:5] == ["  (the model): 0.040 ms (40.0 %)", "  b: 0.030 ms (30.0 %)", "  a.1: 0.020 ms (20.0 %)"]
    assert len(summary.splitlines()) <= 10
    tree = explained.text("modules").removeprefix(summary).strip().splitlines()
    assert tree == [
        "(the model): 0.100 ms (100.0 %)",
        "  a: 0.030 ms (30.0 %)",
        "    0: 0.010 ms (10.0 %)",
        "    1: 0.020 ms (20.0 %)",
        "  b: 0.030 ms (30.0 %)",
    ]
    assert str(explained) == explained.text("steps") and "step of a.1" in str(explained)
    assert "step of b" in explained._repr_html_()

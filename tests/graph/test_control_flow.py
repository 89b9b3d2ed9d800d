"""``torch.cond``, ``while_loop``, ``map`` and ``scan`` run inside the program, as segments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

import drystone
from agreement import Reference, needs_newer_export, prepared_of
from drystone.capture.export import capture
from drystone.errors import UnsupportedError
from drystone.graph.build import build
from drystone.graph.interpreter import run
from drystone.runtime.module import OptimizedModule

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.* operators run on ATen"),
]


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.register_buffer("offset", torch.randn(8))


class Branches(Layers):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, z = torch.cond(
            x.sum() > 0, lambda x: (self.first(x).relu(), x + self.offset), lambda x: (self.second(x), x.clone()), (x.tanh(),)
        )
        return self.last(y), z * 2


class Nested(Layers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def outer(x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 100, lambda x: self.first(x), lambda x: self.second(x) * 2, (x,))

        return self.last(torch.cond(x.sum() > 0, outer, lambda x: x - 1, (x,)))


class Loop(Layers):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count = torch.zeros((), dtype=torch.int64)
        count, y = while_loop(
            lambda count, x: (x.abs().sum() < 1000) & (count < 20), lambda count, x: (count + 1, self.first(x) + 2 * x), (count, x)
        )
        return count, self.last(y)


class Mapped(Layers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch_map(lambda row: self.first(row) + row, x))


class Scanned(Layers):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        carried, rows = scan(lambda c, row: ((c + row).tanh(), self.first(c * row)), self.offset.clone(), x)
        return carried, self.last(rows)


MODELS = {"cond": Branches, "nested": Nested, "while_loop": Loop, "map": Mapped, "scan": Scanned}
each_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_newer_export if name in ("while_loop", "map", "scan") else ()) for name in MODELS]
)


def prepared(model: nn.Module, x: torch.Tensor, **options: Any) -> OptimizedModule:
    fast = drystone.optimize(model, x, **{"tuning": "estimate", "capture": "whole", **options})
    assert isinstance(fast, OptimizedModule)
    return fast


def check(fast: OptimizedModule, model: nn.Module, x: torch.Tensor) -> None:
    Reference(model, (x,)).check_float32(fast(x))


@each_model
def test_results_are_eagers_on_every_path(name: str) -> None:
    model, x = MODELS[name]().eval(), torch.randn(4, 8)
    fast = prepared(model, x)
    for scale in (1, -1, 300):
        check(fast, model, x.abs() * scale)
    assert not prepared_of(fast).eager


@each_model
def test_another_batch(name: str) -> None:
    model, x = MODELS[name]().eval(), torch.randn(4, 8)
    fast = prepared(model, x)
    for batch in (7, 1, 4):
        for sign in (1, -1):
            check(fast, model, sign * torch.rand(batch, 8))


@each_model
def test_nan_decides_as_in_eager(name: str) -> None:
    model, x = MODELS[name]().eval(), torch.randn(4, 8)
    fast = prepared(model, x)
    x[1, 2] = torch.nan
    want, got = (result if isinstance(result, tuple) else (result,) for result in (model(x), fast(x)))
    for given, expected in zip(got, want, strict=True):
        assert torch.equal(given.isnan(), expected.isnan())
        assert torch.allclose(given, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@each_model
def test_the_reference_runs_them(name: str) -> None:
    model, x = MODELS[name]().eval(), torch.randn(4, 8)
    graph = build(capture(model, (x,)))
    for sign in (1, -1):
        results = run(graph, [sign * x.abs()])
        Reference(model, (sign * x.abs(),)).check_float32(tuple(results))


def test_bfloat16_around_them() -> None:
    model, x = Branches().eval(), torch.rand(4, 8)
    fast = prepared(model, x, dtype=torch.bfloat16)
    for sign in (1, -1):
        Reference(model, (sign * x,)).check_bfloat16(fast(sign * x))


def test_a_call_under_autocast_is_in_full_precision() -> None:
    model, x = Branches().eval(), torch.rand(4, 8)
    fast = prepared(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = fast(x)
    Reference(model, (x,)).check_float32(result)


def test_changed_weights_of_a_branch_are_noticed() -> None:
    model, x = Branches().eval().requires_grad_(False), -torch.rand(4, 8)
    fast = prepared(model, x)
    model.first.weight.mul_(2)  # of the branch that the example did not take
    with pytest.raises(drystone.WeightsChangedError):
        fast(x)
    fast.refresh()
    check(fast, model, -x)


def test_they_are_explained() -> None:
    fast = prepared(Nested().eval(), torch.randn(4, 8))
    segment = fast.explain().segments[-1]
    assert segment.op == "cond" and segment.reason == "control flow runs on ATen"
    assert "ATen runs cond" in str(fast.explain())


def test_strict_refuses_them() -> None:
    with pytest.raises(UnsupportedError, match="cond: control flow"):
        prepared(Nested().eval(), torch.randn(4, 8), strict=True)


def test_results_of_no_fixed_shape_are_refused() -> None:
    class Cut(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: x[:2] * 2, lambda x: x[:3] * 3, (x,)) + 1

    with pytest.raises((UnsupportedError, drystone.CaptureError)):
        prepared(Cut().eval(), torch.randn(4, 8))

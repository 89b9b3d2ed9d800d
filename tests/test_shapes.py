"""One optimised module, many shapes: the batch varies unasked, declared dimensions too; programs are made at once and bounded."""

from __future__ import annotations

import gc
import inspect
import os
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import drystone
from agreement import Reference, needs_unconditional_sizes
from drystone import ShapeError
from drystone.capture import shapes
from drystone.preparer import programs_of
from drystone.runtime.programs import MAX_PROGRAMS


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.norm.running_var.uniform_(0.5, 2)
        self.last = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        return self.last(y.mean((2, 3)))


class SaysItsBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return x.flatten(1) * 2, x.shape[0]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)


@pytest.mark.parametrize("first", [1, 4])
def test_the_batch_varies_unasked(model: nn.Module, first: int) -> None:
    fast = drystone.optimize(model, torch.randn(first, 3, 10, 12), tuning="estimate")
    for batch in (3, 1, 7, 2, 3, 0):
        x = torch.randn(batch, 3, 10, 12)
        result = fast(x)
        assert result.shape == (batch, 5)
        if batch:
            Reference(model, (x,)).check_float32(result)


def test_later_batches_are_not_captured_again(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = drystone.optimize(model, torch.randn(2, 3, 10, 12), tuning="estimate")
    fast(torch.randn(3, 3, 10, 12))  # from here on there is a symbolic capture

    def never(*_: Any) -> Any:
        raise AssertionError("captured again")

    monkeypatch.setattr("drystone.whole.capture_module", never)
    x = torch.randn(6, 3, 10, 12)
    Reference(model, (x,)).check_float32(fast(x))


def test_weights_are_packed_once_for_all_shapes() -> None:
    big = nn.Sequential(nn.Conv2d(64, 128, 1), nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 64, 1)).eval().requires_grad_(False)
    fast = drystone.optimize(big, torch.randn(2, 64, 9, 9), tuning="estimate")
    weights = fast.explain().weights_bytes
    assert weights >= 2 * 4 * 64 * 128
    prepared = [fast.prepare(torch.randn(batch, 64, 9, 9)) for batch in (2, 3, 4, 5)]
    # A shape may want another packing; but not each its own.
    assert prepared[-1].weights_bytes <= 3 * weights


def test_a_number_that_depends_on_the_batch_is_given_back_as_it_is() -> None:
    model = SaysItsBatch().eval()
    fast = drystone.optimize(model, torch.randn(2, 3, 4), tuning="estimate")
    for batch in (2, 3, 5, 1):
        x = torch.randn(batch, 3, 4)
        tensor, said = fast(x)
        assert said == batch and torch.equal(tensor, x.flatten(1) * 2)


def test_inputs_of_one_batch_vary_together() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
            return x + y + shift

    fast = drystone.optimize(Two().eval(), (torch.randn(2, 3), torch.randn(2, 3), torch.randn(3)), tuning="estimate")
    x = torch.randn(4, 3)
    assert torch.equal(fast(x, x, torch.zeros(3)), x + x)
    with pytest.raises(ShapeError, match=r"does not take \[4, 3\], \[2, 3\]"):
        fast(x, torch.randn(2, 3), torch.zeros(3))
    with pytest.raises(ShapeError, match="'shift'"):
        fast(x, x, torch.zeros(4))


class Products(nn.Module):
    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) @ w.t()


@pytest.mark.parametrize("first, second", [(7, 4), (4, 7), (7, 6), (1, 4), (7, 7)])
def test_inputs_that_share_a_size_by_chance_may_part(first: int, second: int) -> None:
    fast = drystone.optimize(Products().eval(), (torch.randn(4, 8), torch.randn(4, 8)), tuning="estimate")
    x, w = torch.randn(first, 8), torch.randn(second, 8)
    torch.testing.assert_close(fast(x, w), torch.relu(x) @ w.t())
    torch.testing.assert_close(fast(w, x), torch.relu(w) @ x.t())


def test_a_batch_that_the_model_does_not_take() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(2, 6) + 1

    fast = drystone.optimize(Fixed().eval(), torch.randn(2, 6), tuning="estimate")
    with pytest.raises(ShapeError, match="other shapes"):
        fast(torch.randn(3, 6))
    assert fast(torch.zeros(2, 6)).sum() == 12  # and nothing is lost


def test_a_decision_on_the_batch_is_made_for_each() -> None:
    class Decides(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.shape[0] > 4 else x + 1

    fast = drystone.optimize(Decides().eval(), torch.zeros(3, 2), tuning="estimate")
    for batch in (2, 4, 5, 9, 1, 3):
        x = torch.randn(batch, 2)
        assert torch.equal(fast(x), x * 2 if batch > 4 else x + 1), batch


@needs_unconditional_sizes
def test_two_hundred_shapes_keep_memory_bounded(model: nn.Module) -> None:
    dims = ({2: torch.export.Dim("height", min=4, max=400), 3: torch.export.Dim("width", min=4, max=400)},)
    fast = drystone.optimize(model, (torch.randn(2, 3, 10, 12),), tuning="estimate", dynamic_shapes=dims)
    process = psutil.Process(os.getpid())
    used = []
    for i in range(200):
        x = torch.randn(2, 3, 4 + i % 37, 4 + i)
        result = fast(x)
        if i % 20 == 0:
            Reference(model, (x,)).check_float32(result)
        if i % 50 == 49:
            gc.collect()
            used.append(process.memory_info().rss)
    assert len(programs_of(fast)) <= MAX_PROGRAMS
    assert used[-1] - used[0] < 64 << 20


def test_sizes_below_two_are_never_taken_from_a_symbolic_capture(model: nn.Module) -> None:
    from drystone.capture.export import capture

    captured = capture(
        model,
        (torch.randn(3, 3, 8, 8),),
        None,
        shapes.batch_shapes(inspect.signature(model.forward), (torch.randn(3, 3, 8, 8),), {}),
    )
    assert shapes.dynamic_dims(captured) == [{0}]
    assert shapes.resize(captured, [(5, 3, 8, 8)]) is not None
    for shape in ((1, 3, 8, 8), (0, 3, 8, 8), (5, 3, 8, 9)):
        assert shapes.resize(captured, [shape]) is None

"""Weights that change after ``optimize``: noticed, refused, taken over by ``refresh``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import Reference, assert_close
from drystone import WeightsChangedError
from drystone.preparer import programs_of


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 5)
    return nn.Sequential(*layers).eval().requires_grad_(False)


def load_another(model: nn.Sequential) -> None:
    model.load_state_dict({name: value + 1 if value.is_floating_point() else value for name, value in model.state_dict().items()})


CHANGES: dict[str, Callable[[nn.Sequential], Any]] = {
    "in place": lambda model: model[0].weight.mul_(2),
    "a bias": lambda model: model[4].bias.add_(1),
    "a buffer": lambda model: model[1].running_mean.add_(0.5),
    "load_state_dict": load_another,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_a_change_is_refused_until_refresh(change: str, dtype: torch.dtype | None) -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    fast = drystone.optimize(model, x, tuning="estimate", dtype=dtype)
    fast(x)
    CHANGES[change](model)
    with pytest.raises(WeightsChangedError, match="refresh"):
        fast(x)
    fast.refresh()
    for batch in (2, 3, 2):
        x = torch.randn(batch, 3, 8, 8)
        expected = Reference(model, (x,))
        expected.check_float32(fast(x)) if dtype is None else expected.check_bfloat16(fast(x))


def test_the_message_names_what_changed() -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    fast = drystone.optimize(model, x, tuning="estimate")
    model[4].bias.zero_()
    with pytest.raises(WeightsChangedError, match=r"4\.bias"):
        fast(x)


def test_what_no_result_depends_on_may_change() -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    fast = drystone.optimize(model, x, tuning="estimate")
    expected = fast(x)
    model[1].num_batches_tracked.add_(1)
    assert torch.equal(fast(x), expected)


def test_changes_of_a_copy_are_nothing_to_it() -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    fast = drystone.optimize(model, x, tuning="estimate")
    expected = fast(x)
    copy.deepcopy(model)[0].weight.zero_()
    assert torch.equal(fast(x), expected)


def test_models_made_under_inference_mode() -> None:
    with torch.inference_mode():
        model, x = net(), torch.randn(2, 3, 8, 8)
        fast = drystone.optimize(model, x, tuning="estimate")
        Reference(model, (x,)).check_float32(fast(x))


def test_parts_of_a_model_take_over_changes_too() -> None:
    class Divided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = net()[:3], nn.Conv2d(16, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            return self.second(y) if y.sum() > 0 else y

    model, x = Divided().eval().requires_grad_(False), torch.randn(2, 3, 8, 8)
    with pytest.warns(drystone.DrystoneWarning, match="captured whole"):
        fast = drystone.optimize(model, x, tuning="estimate")
    fast(x)
    model.first[0].weight.mul_(2)
    with pytest.raises(WeightsChangedError):
        fast(x)
    fast.refresh()
    assert_close(fast(x), model(x))


@pytest.mark.parametrize(("stride", "groups"), [(2, 1), (2, 2), (1, 1)])
def test_refreshed_transposed_convolutions(stride: int, groups: int) -> None:
    """Their weights are turned, and at stride 1 flipped, anew."""
    module = torch.nn.ConvTranspose2d(16, 16, 3, stride, 1, groups=groups).eval()
    x = torch.randn(1, 16, 6, 6)
    fast = drystone.optimize(module, x, tuning="estimate")
    with torch.no_grad():
        module.weight.mul_(torch.rand_like(module.weight))
        fast.refresh()
        assert_close(fast(x), module(x))


STATISTICS: dict[str, Callable[[], nn.Module]] = {
    "momentum": lambda: nn.BatchNorm2d(8),
    "cumulative": lambda: nn.BatchNorm2d(8, momentum=None),
    "plain": lambda: nn.BatchNorm2d(8, affine=False),
    "instance": lambda: nn.InstanceNorm2d(8, track_running_stats=True),
}


@pytest.mark.parametrize("kind", STATISTICS)
@pytest.mark.parametrize("capture", ["whole", "eager"])
def test_running_statistics_that_moved_are_seen(kind: str, capture: Any) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), STATISTICS[kind](), nn.ReLU()).eval(), torch.randn(2, 3, 9, 9)
    versions = [buffer._version for buffer in model.buffers()]
    model(x)
    if versions != [buffer._version for buffer in model.buffers()]:
        pytest.skip("this torch counts a call in eval mode as a change of the statistics")
    fast = drystone.optimize(model, x, tuning="estimate", capture=capture)
    fast(x)
    with torch.no_grad():
        model.train()(3 * x + 1)
    model.eval()
    with pytest.raises(WeightsChangedError, match="running_mean"):
        fast(x)
    fast.refresh()
    Reference(model, (x,)).check_float32(fast(x))


@pytest.mark.parametrize("kind", STATISTICS)
def test_running_statistics_that_moved_are_packed_again_by_the_backend(kind: str) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), STATISTICS[kind](), nn.ReLU()).eval(), torch.randn(2, 3, 9, 9)
    fast = torch.compile(model, backend="drystone", options={"tuning": "estimate"})
    with torch.no_grad():
        fast(x)
        model.train()(3 * x + 1)
        model.eval()
        Reference(model, (x,)).check_float32(fast(x))


def test_a_statistic_without_memory_is_a_change_and_not_read() -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    fast = drystone.optimize(model, x, tuning="estimate")
    model[1].running_mean.untyped_storage().resize_(0)
    with pytest.raises(WeightsChangedError, match="running_mean"):
        fast(x)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.shift, self.scale, self.table = nn.Linear(4, 4), torch.ones(4), 1.0, {"a": torch.ones(4)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * self.scale + self.shift * self.table["a"]


def test_plain_tensors_among_the_attributes_are_watched_and_all_attributes_refreshed() -> None:
    model, x = Scaled().eval(), torch.randn(2, 4)
    fast = drystone.optimize(model, x, tuning="estimate")
    for change in (lambda: model.shift.add_(1), lambda: model.table["a"].mul_(3)):
        change()
        with pytest.raises(WeightsChangedError):
            fast(x)
        fast.refresh()
        Reference(model, (x,)).check_float32(fast(x))
    model.scale = 3.0
    fast.refresh()
    Reference(model, (x,)).check_float32(fast(x))


def test_a_refresh_that_fails_leaves_the_programs() -> None:
    model, x = nn.Linear(4, 3).eval().requires_grad_(False), torch.randn(2, 4)
    fast = drystone.optimize(model, x, tuning="estimate")
    want, program = fast(x), programs_of(fast).current
    model.train()
    with pytest.raises(drystone.CaptureError, match="training"):
        fast.refresh()
    model.eval()
    assert programs_of(fast).current is program
    assert torch.equal(fast(x), want)

"""``release_originals=True``: the plain weights go, what is prepared runs on."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import drystone
from agreement import Reference
from drystone import ShapeError, WeightsReleasedError


def net(width: int = 64) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(16, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 16, 1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16 * 64, 10)).eval().requires_grad_(False)


def released(model: nn.Module, x: torch.Tensor, **options: object) -> nn.Module:
    return drystone.optimize(model, x, tuning="estimate", release_originals=True, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_calls_are_right_after_the_release(dtype: torch.dtype | None) -> None:
    model, x = net(), torch.randn(2, 16, 8, 8)
    expected = Reference(copy.deepcopy(model), (x,))
    kept = drystone.optimize(model, x, tuning="estimate", dtype=dtype)(x)
    fast = released(model, x, dtype=dtype)
    assert torch.equal(fast(x), kept)
    expected.check_float32(fast(x)) if dtype is None else expected.check_bfloat16(fast(x))


def test_the_plain_weights_are_gone() -> None:
    model, x = net(), torch.randn(2, 16, 8, 8)
    storages = [weakref.ref(parameter.untyped_storage()) for parameter in (model[0].weight, model[3].weight, model[5].weight)]
    fast = released(model, x)
    gc.collect()
    assert all(parameter.numel() == 0 for parameter in model.parameters())
    assert not any(storage() for storage in storages)
    assert fast(x).shape == (2, 10)


def test_other_threads_and_infinite_inputs_make_do_with_the_packed_ones() -> None:
    model, x = net(), torch.randn(2, 16, 8, 8)
    spoilt = x.clone()
    spoilt[0, 3, 4, 4] = float("nan")
    expected, eager = Reference(copy.deepcopy(model), (x,)), model(spoilt)
    torch.set_num_threads(2)
    fast = released(model, x)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        expected.check_float32(fast(x))
        assert torch.equal(fast(spoilt).isnan(), eager.isnan())


def test_what_needs_the_plain_weights_says_so() -> None:
    model, x = net(), torch.randn(2, 16, 8, 8)
    fast = released(model, x)
    with pytest.raises(ShapeError):
        fast(torch.randn(3, 16, 8, 8))
    with pytest.raises(WeightsReleasedError, match="release_originals"):
        fast.refresh()
    assert fast(x).shape == (2, 10)
    with pytest.raises(RuntimeError):
        model(x)


def test_what_can_not_be_released_is_refused_before_anything_is_done() -> None:
    model, x = net(), torch.randn(2, 16, 8, 8)
    with pytest.raises(drystone.InputError, match="dynamic_shapes"):
        released(model, x, dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=8)},))
    with pytest.raises(drystone.InputError, match="TorchScript"):
        released(torch.jit.trace(model, x), x)
    assert model(x).shape == (2, 10)

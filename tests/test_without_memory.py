"""Tensors without memory raise an error, at whatever door they come in; they never reach native code."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import drystone
from agreement import assert_close
from drystone import native

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="below AVX2 nothing native runs")

X = (8, 64)


def freed(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


class Decides(nn.Module):
    """Runs in parts: the layers are programs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return y if y.numel() and bool(y.detach().sum() < 1e9) else -y


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval().requires_grad_(False)


def optimized(folder: Path) -> nn.Module:
    return drystone.optimize(layers(), torch.randn(X), tuning="estimate")


def packed(folder: Path) -> nn.Module:
    return drystone.optimize(layers(), torch.randn(X), tuning="estimate", capture="eager")


def in_parts(folder: Path) -> nn.Module:
    return drystone.optimize(Decides().eval().requires_grad_(False), torch.randn(X), tuning="estimate")


def compiled(folder: Path) -> nn.Module:
    return torch.compile(layers(), backend="drystone", options={"tuning": "estimate"})


def loaded(folder: Path) -> nn.Module:
    drystone.save(optimized(folder), folder / "model")
    return drystone.load(folder / "model")


MADE = [optimized, packed, in_parts, compiled, loaded]


@pytest.mark.parametrize("make", MADE)
@pytest.mark.parametrize("kind", [freed, lambda x: torch._efficientzerotensor(X)], ids=["freed", "zero"])
def test_an_input(make: Callable[[Path], nn.Module], kind: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    fast, x = make(tmp_path), torch.randn(X)
    with torch.no_grad():
        expected = fast(x)
        try:
            y = fast(kind(x))
        except Exception as error:
            assert not isinstance(error, AssertionError)
        else:  # torch makes numbers of its zeros where it runs the model itself
            torch.testing.assert_close(y, fast(torch.zeros(X)))
        assert torch.equal(fast(x), expected)


@pytest.mark.parametrize("make", [optimized, loaded])
def test_the_error_is_ours_and_says_what_to_do(make: Callable[[Path], nn.Module], tmp_path: Path) -> None:
    with (
        torch.no_grad(),
        pytest.raises(drystone.InputError, match=r"input .* has no memory for its elements: .* give a tensor with its data"),
    ):
        make(tmp_path)(freed(torch.randn(X)))


@pytest.mark.parametrize("make", [optimized, loaded])
def test_fake_tensors_and_their_mode(make: Callable[[Path], nn.Module], tmp_path: Path) -> None:
    fast, x = make(tmp_path), torch.randn(X)
    expected = fast(x)
    for allowed in (False, True):
        with suppress(Exception), FakeTensorMode(allow_non_fake_inputs=allowed) as mode:  # we or torch say so
            fast(mode.from_tensor(x) if not allowed else x)
    assert torch.equal(fast(x), expected)


def test_recurrent_layers(tmp_path: Path) -> None:
    model, x, state = nn.LSTM(16, 16).eval().requires_grad_(False), torch.randn(5, 2, 16), torch.zeros(1, 2, 16)
    fast = drystone.optimize(model, x, tuning="estimate", capture="eager")
    for inputs in ((freed(x),), (x, (freed(state), state)), (x, (state, freed(state)))):
        with pytest.raises((drystone.InputError, RuntimeError)):
            fast(*inputs)
    assert_close(fast(x)[0], model(x)[0])


def test_a_weight() -> None:
    model, x = layers(), torch.randn(X)
    fast = drystone.optimize(model, x, tuning="estimate")
    model[0].weight.untyped_storage().resize_(0)
    with pytest.raises((drystone.DrystoneError, RuntimeError)):
        drystone.optimize(model, x, tuning="estimate")
    with pytest.raises((drystone.DrystoneError, RuntimeError)):
        fast.refresh()
        fast(x)


def test_what_has_no_elements_needs_no_memory() -> None:
    class Rest(nn.Module):
        def forward(self, x: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
            return torch.cat([x + 1, rest])

    x, rest = torch.randn(3, 4), torch.empty(0, 4)
    fast = drystone.optimize(Rest().eval(), (x, rest), tuning="estimate")
    assert torch.equal(fast(x, rest), torch.cat([x + 1, rest]))

"""Complex numbers, which only torch computes with, go between its segments, and in and out of a program."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import drystone
from agreement import leaves
from drystone import UnsupportedError
from small_models import Calls

pytestmark = [
    pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning"),
    pytest.mark.usefixtures("no_tuning_cache"),
]


class Rotation(nn.Module):
    """Pairs of numbers turned by angles that the model holds, as rotary embeddings have it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.polar(torch.ones(5, 4), torch.arange(20.0).view(5, 4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned = torch.view_as_complex(x.view(2, 5, 4, 2)) * self.turn
        return torch.view_as_real(turned).flatten(2) + 1


REAL = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
COMPLEX = torch.complex(REAL, REAL.flip(1))


@pytest.mark.parametrize(
    "module, x",
    [
        (Rotation(), REAL),
        (Calls(lambda x: torch.fft.fft2(x).real * 2), REAL),
        (Calls(lambda x: (y := torch.fft.rfft(x), y.conj(), x + 1)), REAL),
        (Calls(lambda x: (x.abs() + 1, x)), COMPLEX),
        (Calls(lambda x: (x.imag * 2, x * 2)), COMPLEX.conj()),
    ],
    ids=["constant", "between", "output", "input", "conjugated input"],
)
def test_complex_values(module: nn.Module, x: torch.Tensor) -> None:
    fast = drystone.optimize(module.eval(), x, tuning="estimate")
    for got, want in zip(leaves(fast(x)), leaves(module(x)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_values_too_wide_to_move_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="complex128"):
        drystone.optimize(Calls(lambda x: torch.fft.fft(x).real).eval(), REAL.double(), tuning="estimate")

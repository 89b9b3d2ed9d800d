"""Complex numbers, which only torch computes with, go between its segments, and in and out of a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import leaves, program_of
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


WAVE = torch.randn(2, 1600, generator=torch.Generator().manual_seed(1))
WINDOW, MEL = torch.hann_window(400), torch.rand(201, 40, generator=torch.Generator().manual_seed(2))


def spectrum(x: torch.Tensor) -> torch.Tensor:
    return torch.stft(x, 400, 160, window=WINDOW, return_complex=True)


def wave(spectrum: torch.Tensor) -> torch.Tensor:
    return torch.istft(spectrum, 400, 160, window=WINDOW)


def log_mel(x: torch.Tensor) -> torch.Tensor:
    """As Whisper has it."""
    return torch.log10((MEL.T @ (spectrum(x).abs() ** 2)).clamp(min=1e-10))


AUDIO: dict[str, Callable[[torch.Tensor], Any]] = {
    "log mel": log_mel,
    "power": lambda x: (s := spectrum(x), s.real**2 + s.imag**2)[1],
    "magnitude and phase": lambda x: (s := spectrum(x), s.abs() + 1, s.angle() * 2)[1:],
    "masked": lambda x: (s := spectrum(x), wave(s * torch.sigmoid(s.abs())) * 2)[1],
    "real and back": lambda x: wave(torch.view_as_complex(torch.view_as_real(spectrum(x)) * 0.5)),
    "polar": lambda x: (s := spectrum(x), wave(torch.polar(s.abs(), s.angle())))[1],
    "convolved": lambda x: (s := torch.fft.rfft(x), torch.fft.irfft(s * s.conj(), n=1600) + 1)[1],
    "conjugated parts": lambda x: (s := spectrum(x).conj(), s.imag * 2, s.imag, s.real, s.abs() - s.conj().imag)[1:],
}


@pytest.mark.parametrize("name", AUDIO)
def test_audio_is_captured_whole(name: str) -> None:
    """Strictly whole but for what torch computes, and the same when a frame is used again, on other numbers."""
    fast = drystone.optimize(Calls(AUDIO[name]), WAVE, tuning="estimate", capture="whole")
    program = program_of(fast)
    for x in (WAVE, WAVE.flip(1) * 3, WAVE):
        for got, want in zip(program([x]), leaves(AUDIO[name](x)), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    held = [place for record in program.assembled.records for place in record.call_outputs if place and place.buffer.kind == "held"]
    assert held, "no value goes from torch to torch as it is"


def test_a_view_of_memory_that_is_used_again_is_copied() -> None:
    """``z`` is a view of ``y``, which only torch reads: it would show what lies there after ``y``."""

    def model(x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x * 3 - 1)
        z = torch.view_as_complex(y)
        chain = x
        for _ in range(6):
            chain = chain.softmax(1).sum(0, keepdim=True) + x
        return chain + torch.view_as_real(z * (z + chain.sum()))

    x = torch.randn(7, 33, 2, generator=torch.Generator().manual_seed(3))
    (got,) = program_of(drystone.optimize(Calls(model), x, tuning="estimate"))([x])
    torch.testing.assert_close(got, model(x), rtol=1e-5, atol=1e-5)

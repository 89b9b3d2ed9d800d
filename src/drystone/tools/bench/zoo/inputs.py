"""What the networks of the zoo are given: a batch of so many, of a size, drawn from a generator."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

Inputs = Callable[[int, tuple[int, ...], torch.Generator], tuple[torch.Tensor, ...]]

# The least vocabulary of the models, and the first ids that are no special tokens in any of them.
FIRST_TOKEN, TOKENS = 2000, 30000


def images(batch: int, size: tuple[int, ...], generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Pictures, float32 (batch, 3, height, width): large smooth patches and a little grain.

    White noise would look the same to a network whichever it is, once pooled; these differ as photographs do.
    """
    patches = nn.functional.interpolate(torch.randn(batch, 3, 8, 8, generator=generator), size, mode="bilinear")
    return (patches + 0.3 * torch.randn(batch, 3, *size, generator=generator),)


def clips(batch: int, size: tuple[int, ...], generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Moving pictures, float32 (batch, 3, frames, height, width), as ``images`` are."""
    return (_volumes(batch, 3, size, generator),)


def scans(batch: int, size: tuple[int, ...], generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Volumes of one channel, float32 (batch, 1, depth, height, width)."""
    return (_volumes(batch, 1, size, generator),)


def _volumes(batch: int, channels: int, size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    patches = nn.functional.interpolate(torch.randn(batch, channels, 4, 8, 8, generator=generator), size, mode="trilinear")
    return patches + 0.3 * torch.randn(batch, channels, *size, generator=generator)


def text(batch: int, size: tuple[int, ...], generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Token ids and a mask that hides none of them, int64 (batch, tokens) both."""
    ids = torch.randint(FIRST_TOKEN, TOKENS, (batch, *size), generator=generator)
    return ids, torch.ones_like(ids)


def features(batch: int, size: tuple[int, ...], generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """A spectrogram, float32 (batch, bands, frames)."""
    return (torch.randn(batch, *size, generator=generator),)


def sequences(batch: int, size: tuple[int, ...], generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Steps of features, float32 (batch, steps, features)."""
    return (torch.randn(batch, *size, generator=generator),)


def sound(batch: int, size: tuple[int, ...], generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Samples of a few tones in noise, float32 (batch, samples)."""
    time = torch.arange(size[0]) / 16000
    tones = torch.rand(batch, 4, 1, generator=generator) * 2000 + 100
    voice = torch.sin(2 * math.pi * tones * time).mean(1)
    return (voice + 0.1 * torch.randn(batch, *size, generator=generator),)

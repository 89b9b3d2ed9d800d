"""Quantised tensors for tests of native steps: codes with a scale and a zero point, and what they stand for in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from drystone import native
from drystone.native import Format, TensorDesc

U8, S8 = torch.uint8, torch.int8
LOWEST = {U8: 0, S8: -128}


@dataclass(frozen=True)
class Affine:
    """``(code - zero_point) * scale``; the scale is one of float32."""

    dtype: torch.dtype
    scale: float
    zero_point: int

    def desc(self, shape: tuple[int, ...] | torch.Size, format: Format | str = "plain") -> TensorDesc:
        named = native.FORMATS[format] if isinstance(format, str) else format
        return TensorDesc.dense(native.DTYPES[self.dtype], named, list(shape), scale=self.scale, zero_point=self.zero_point)

    def strided(self, shape: tuple[int, ...], strides: tuple[int, ...], format: Format | str = "plain") -> TensorDesc:
        named = native.FORMATS[format] if isinstance(format, str) else format
        return TensorDesc(
            native.DTYPES[self.dtype], named, list(shape), list(strides), scale=self.scale, zero_point=self.zero_point
        )

    def reals(self, codes: torch.Tensor) -> torch.Tensor:
        return (codes.double() - self.zero_point) * self.scale

    def codes(self, reals: torch.Tensor) -> torch.Tensor:
        """Of float64 numbers, as torch's quantized_decomposed makes them of float32."""
        return self.places(reals).round().nan_to_num(0).clamp(LOWEST[self.dtype], LOWEST[self.dtype] + 255).to(self.dtype)

    def places(self, reals: torch.Tensor) -> torch.Tensor:
        """Where they lie between codes, before they are rounded."""
        return reals / self.scale + self.zero_point

    def assert_codes(self, got: torch.Tensor, reals: torch.Tensor) -> None:
        """Each is the nearest code, but where a number lies so near to the middle of two that rounding before decides."""
        assert got.dtype == self.dtype
        want, places = self.codes(reals), self.places(reals)
        off = (got.double() - want.double()).abs()
        assert off.max().item() <= 1, f"off by {off.max().item()} codes"
        middle = (places - places.floor() - 0.5).abs() <= 1e-5 * (1 + places.abs())
        assert not (off.bool() & ~middle).any(), f"{int((off.bool() & ~middle).sum())} codes are not the nearest"


def float32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


# Zero points at the ends, scales tiny and large.
AFFINES = [
    Affine(U8, 1.0, 0),
    Affine(U8, float32(0.037), 114),
    Affine(U8, float32(1e-6), 255),
    Affine(S8, float32(0.02), 0),
    Affine(S8, float32(3.7e4), -128),
    Affine(S8, float32(0.5), 127),
]


def codes(*shape: int, dtype: torch.dtype, seed: int = 0, ends: bool = True) -> torch.Tensor:
    """Random codes, some of which are the lowest and the highest."""
    generator = torch.Generator().manual_seed(seed)
    lowest = LOWEST[dtype]
    drawn = torch.randint(lowest, lowest + 256, shape, generator=generator)
    if ends:
        at = torch.rand(shape, generator=generator)
        drawn[at < 0.1] = lowest
        drawn[at > 0.9] = lowest + 255
    return drawn.to(dtype)

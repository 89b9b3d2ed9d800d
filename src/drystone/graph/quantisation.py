"""Affine quantisation: what the codes of a tensor of int8 or uint8 stand for, and the way there and back by torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# The dtypes of codes.
CODES = (torch.uint8, torch.int8)


@dataclass(frozen=True)
class Quantisation:
    """A code stands for ``(code - zero_point) * scale``. ``scales``: one, or of a weight one an output channel (axis 0)."""

    scales: tuple[float, ...]
    zero_point: int = 0

    @property
    def scale(self) -> float:
        """Of a tensor that has one."""
        (scale,) = self.scales
        return scale

    def problem(self, dtype: torch.dtype, shape: tuple[int, ...]) -> str | None:
        """Why codes of this dtype and shape can't have it, or None."""
        if dtype not in CODES:
            return f"codes of {dtype}, not of int8 or uint8"
        limits, normal = torch.iinfo(dtype), torch.finfo(torch.float32)
        if not limits.min <= self.zero_point <= limits.max:
            return f"the zero point {self.zero_point} is none of {limits.min} to {limits.max}"
        if not all(normal.tiny <= scale <= 1 / normal.tiny for scale in self.scales):
            wrong = next(scale for scale in self.scales if not normal.tiny <= scale <= 1 / normal.tiny)
            return f"the scale {wrong} is no positive number that float32 can divide by"
        if len(self.scales) != 1 and (not shape or len(self.scales) != shape[0]):
            return f"{len(self.scales)} scales for a shape of {list(shape)}"
        return None

    def range(self, dtype: torch.dtype) -> tuple[float, float]:
        """The least and the greatest number that codes stand for."""
        limits = torch.iinfo(dtype)
        scale = max(self.scales)
        return (limits.min - self.zero_point) * scale, (limits.max - self.zero_point) * scale

    def real(self, codes: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """What ``codes`` stand for."""
        return (codes.to(dtype) - self.zero_point) * self._factor(self.scales, codes.dim(), dtype)

    def codes(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """``x`` rounded to the nearest code, ties to even, within ``dtype``. As torch does it."""
        limits = torch.iinfo(dtype)
        inverse = self._factor(tuple(1.0 / scale for scale in self.scales), x.dim(), x.dtype)
        return (x * inverse).round_().add_(self.zero_point).clamp_(limits.min, limits.max).to(dtype)

    @staticmethod
    def _factor(scales: tuple[float, ...], rank: int, dtype: torch.dtype) -> torch.Tensor | float:
        return scales[0] if len(scales) == 1 else torch.tensor(scales, dtype=dtype).view(-1, *(1,) * (rank - 1))


@dataclass(frozen=True)
class Dynamic:
    """A quantisation that each tensor finds from its own range, as torch's ``choose_qparams``: to codes from ``low`` to ``high``,
    by a scale of ``eps`` at least. ``symmetric``: around 0, by the largest magnitude. ``rows``: one a row of the last axis."""

    low: int
    high: int
    eps: float
    symmetric: bool
    rows: bool = False

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """What the codes of ``x`` stand for."""
        low, high = (end.float() for end in (torch.aminmax(x, dim=-1, keepdim=True) if self.rows else torch.aminmax(x)))
        low, high = low.clamp(max=0), high.clamp(min=0)
        if self.symmetric:
            scale = (torch.maximum(-low, high) / (float(self.high - self.low) / 2)).clamp(min=self.eps)
            zero_point = torch.zeros_like(scale)
        else:
            scale = ((high - low) / float(self.high - self.low)).clamp(min=self.eps)
            zero_point = (self.low - torch.round(low / scale)).clamp(self.low, self.high)
        exact = scale if self.rows else float(scale)
        codes = torch.clamp(torch.round(x * (1.0 / exact)) + zero_point, self.low, self.high)
        return (codes - zero_point) * exact

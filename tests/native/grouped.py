"""Weights as codes of 4 and 8 bits in groups, as the GEMM's tests make them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from layout import run, strided

from drystone import native
from drystone.native import Gemm, GroupedStrips, PostOp


class Weight(NamedTuple):
    """Codes (N, K), one an entry; scales, and minima or None, (N, groups)."""

    bits: int
    group: int
    codes: torch.Tensor
    scales: torch.Tensor
    minima: torch.Tensor | None

    def floats(self) -> torch.Tensor:
        scales = self.scales.double().repeat_interleave(self.group, 1)
        if self.minima is None:
            return scales * (self.codes.double() - 2 ** (self.bits - 1))
        return scales * self.codes.double() + self.minima.double().repeat_interleave(self.group, 1)

    def stored(self) -> torch.Tensor:
        return self.codes if self.bits == 8 else self.codes[:, ::2] | self.codes[:, 1::2] << 4

    def strips(self) -> GroupedStrips:
        return GroupedStrips(*self.codes.shape, self.bits, self.group, native.DTYPES[self.scales.dtype], self.minima is not None)

    def packed(self) -> torch.Tensor:
        strips, stored = self.strips(), self.stored()
        memory = torch.full((strips.packed_bytes + 64,), 0xFF, dtype=torch.uint8)
        strips.pack(
            stored.data_ptr(), self.scales.data_ptr(), 0 if self.minima is None else self.minima.data_ptr(), memory.data_ptr()
        )
        assert (memory[-64:] == 0xFF).all(), "pack wrote beyond its memory"
        return memory[:-64]


def weight(
    n: int, k: int, bits: int, group: int, dtype: torch.dtype = torch.float16, minima: bool = False, exact: bool = True
) -> Weight:
    """``exact``: scales are small powers of two, so that sums of products with small integers are."""
    some = torch.Generator().manual_seed(n + 7 * k)
    codes = torch.randint(0, 2**bits, (n, k), dtype=torch.uint8, generator=some)
    shape = n, k // group
    scales = 2.0 ** torch.randint(-2, 2, shape, generator=some) if exact else torch.rand(shape, generator=some) + 0.01
    least = torch.randint(-9, 3, shape, generator=some) if exact else torch.randn(shape, generator=some)
    return Weight(bits, group, codes, scales.to(dtype), least.to(dtype) if minima else None)


def product(
    x: torch.Tensor,
    w: Weight,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
    ops: list[PostOp] | None = None,
    operands: list[torch.Tensor] | None = None,
    threads: int = 2,
    **options: Any,
) -> torch.Tensor:
    """x (M, K) times ``w``. ``out`` is the memory of the result; float32 of its own if None. ``options``: of the ``Gemm``."""
    n = len(w.codes)
    if out is None:
        out = torch.full((len(x), n), float("nan"))
    native.set_threads(threads)
    rows = [strided(tuple(t.shape), (t.stride(0), 1), "plain", t.dtype) for t in (x, out)]
    step = Gemm(rows[0], n, bias is not None, rows[1], ops or [], groups=w.strips(), **options)
    native.set_threads(2)
    run(step, x, w.packed(), *([] if bias is None else [bias]), out, *(operands or []), threads=threads)
    return out

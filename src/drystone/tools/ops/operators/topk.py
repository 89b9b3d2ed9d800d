"""The largest elements of rows: N rows of C elements, as logits or scores lie, the k best of each in order.

What a model ranks differs from call to call, while a benchmark that repeats one short row teaches the branch predictor its order:
each call takes the next of several inputs, which together stay in the caches unless one is larger. A contender whose values are
not torch's bit for bit, or whose indices do not name them, is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from ...bench.workload import DTYPES
from ..case import Call, Case, Contest
from ..probe import AtSize, Probe, Probed

COLUMNS = (1000, 10_000, 50_257, 1_000_000)
ROWS = (1, 5, 32, 128)
FEW = (1, 10, 50, 100)
LONG_CASE = 100_000_000  # elements, of which torch sorts some for ten seconds
INPUTS, INPUTS_BYTES = 16, 8 << 20  # so many, if they are no larger together
INDEX_BYTES = 8


def cases(dtype: str) -> Iterator[Case]:
    """Every number of columns, of rows and of wanted elements. All but the longest have the tag ``quick``."""
    for c, n in itertools.product(COLUMNS, ROWS):
        for k in dict.fromkeys((*FEW, c // 10, c // 2, c - 5)):
            yield case(dtype, c, n, k)


def case(dtype: str, c: int, n: int, k: int) -> Case:
    size = DTYPES[dtype].itemsize
    copies = max(1, min(INPUTS, INPUTS_BYTES // (n * c * size)))
    return Case(
        operator="topk",
        tag="quick" if n * c < LONG_CASE else "long",
        dtype=dtype,
        sizes={"C": c, "N": n, "k": k},
        axis="C",
        group="k <= 100" if k <= max(FEW) else "k > 100",
        flops=n * c,
        bytes=n * c * size + n * k * (size + INDEX_BYTES),
        copies=copies,
        make=lambda: topk(c, n, k, DTYPES[dtype], copies),
    )


def topk(c: int, n: int, k: int, dtype: torch.dtype, copies: int) -> Contest:
    """The contenders on ``copies`` inputs; what they give is the values."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(n, c, generator=generator).to(dtype) for _ in range(copies)]
    expected = torch.ops.aten.topk.default(inputs[0], k)[0]

    def make() -> Call:
        check(inputs[0], expected, *torch.topk(inputs[0], k))
        return lambda i: torch.topk(inputs[i], k)[0]

    return Contest.enabled_or_not(make, expected.double)


def check(x: torch.Tensor, expected: torch.Tensor, values: torch.Tensor, indices: torch.Tensor) -> None:
    """Raises ``ValueError`` where ``values`` are not ``expected`` bit for bit, or ``indices`` do not name them, each once."""
    integers = {2: torch.int16, 4: torch.int32}[x.itemsize]
    if not torch.equal(values.view(integers), expected.view(integers)):
        raise ValueError("values that are not torch's")
    if not torch.equal(x.gather(-1, indices).view(integers), values.view(integers)):
        raise ValueError("indices of other values")
    if (indices.sort(-1).values.diff(dim=-1) == 0).any():
        raise ValueError("an index that occurs twice")


def _ranked(k: int) -> AtSize:
    def make(size: int) -> Probed:
        x = torch.randn(16, size)
        return lambda: torch.topk(x, min(k, size))

    return make


OPERATORS = {"topk": cases}
PROBES = (Probe("topk_count", ("topk",), {f"k = {k}": _ranked(k) for k in (1, 5)}, 2),)

"""A few rows times plain matrices, as layers without a bias multiply in a model that is not prepared.

The matrices of a case take turns, so that each is read from memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial

import torch

from ...bench.workload import DTYPES
from ..case import Case, Contest, copies_to_be_cold, last_level_cache_bytes
from ..probe import AtSize, Probe, Probed

ROWS = (1, 2, 4, 8, 16, 32, 64)
MATRICES = ((768, 768), (768, 3072), (3072, 768), (768, 50257), (4096, 4096), (1000, 1000))


def cases(dtype: str) -> Iterator[Case]:
    """Each matrix as it is, and as the transpose of one, as layers have it."""
    cache = last_level_cache_bytes()
    for (k, m), n, transposed in itertools.product(MATRICES, ROWS, (True, False)):
        matrix = k * m * DTYPES[dtype].itemsize
        copies = copies_to_be_cold(matrix, cache)
        yield Case(
            operator="mm",
            tag="transposed" if transposed else "plain",
            dtype=dtype,
            sizes={"N": n, "K": k, "M": m, "as": "transposed" if transposed else "plain"},
            axis="N",
            group="transposed" if transposed else "plain",
            flops=2 * n * k * m,
            bytes=matrix + n * (k + m) * DTYPES[dtype].itemsize,
            copies=copies,
            make=partial(_product, n, k, m, transposed, DTYPES[dtype], copies),
        )


def _product(n: int, k: int, m: int, transposed: bool, dtype: torch.dtype, copies: int) -> Contest:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, k, generator=generator).to(dtype)
    matrices = [torch.randn((m, k) if transposed else (k, m), generator=generator).to(dtype) for _ in range(copies)]
    if transposed:
        matrices = [matrix.t() for matrix in matrices]
    return Contest.enabled_or_not(lambda: lambda i: torch.mm(x, matrices[i]), lambda: x.double() @ matrices[0].double())


def _product_at(rows: int, transposed: bool) -> AtSize:
    def make(size: int) -> Probed:
        depth = max(128, math.isqrt(size)) if transposed else math.isqrt(size)
        x, matrix = torch.randn(rows, depth), torch.randn(depth, math.ceil(size / depth))
        if transposed:
            matrix = matrix.t().contiguous().t()
        return lambda: torch.mm(x, matrix)

    return make


def _product_of_depth(depth: int) -> Probed:
    x, matrix = torch.randn(8, depth), torch.randn(4096, depth).t()
    return lambda: torch.mm(x, matrix)


OPERATORS = {"mm": cases}
PROBES = (
    Probe("mm_elements", ("mm",), {"plain": _product_at(8, False), "transposed": _product_at(8, True)}, 128),
    Probe("mm_elements_of_one_row", ("mm",), {"plain": _product_at(1, False), "transposed": _product_at(1, True)}, 128),
    Probe("mm_transposed_depth", ("mm",), {"8 rows": _product_of_depth}, 8),
)

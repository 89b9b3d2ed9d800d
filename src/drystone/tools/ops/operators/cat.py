"""Tensors joined along an axis: the sizes of PyTorch's operator_benchmark, and larger ones.

The result is new each time: with ``drystone.enable()`` in pages that earlier ones left, without it in those that the C library
gives. A contender whose result is not torch's bit for bit is left out. Large cases are cold in any case, small ones hot, as what
has just been written is joined.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import torch

from ...bench.workload import DTYPES
from ..case import Call, Case, Contest
from ..probe import AtSize, Probe, Probed

Shapes = list[tuple[int, ...]]


def configurations() -> Iterator[tuple[str, str, Shapes, int]]:
    """The tag, a name, the shapes and the axis. Sizes that are drawn there are drawn here, too."""
    draw = random.Random(42)

    def between(low: int, high: int) -> int:
        return draw.randint(low, high)

    same: list[tuple[str, tuple[int, ...], int, int]] = [
        ("short", (1, 1, 1), 2, 0),
        ("short", (512, 512, 2), 2, 1),
        ("short", (128, 1024, 2), 2, 1),
        ("long", (1024, 1024, 2), 2, 0),
        ("long", (1025, 1023, 2), 2, 1),
        ("long", (1024, 1024, 2), 2, 2),
        ("multidim", (64, 32, 4, 16, 32), 2, 2),
        ("multidim", (16, 32, 4, 16, 32), 8, 2),
        ("multidim", (9, 31, 5, 15, 33), 17, 4),
        ("large", (128, 10_000), 16, 0),
        ("large", (4, 256, 62), 3000, 0),
        ("list", (8,), 30_000, 0),
        ("list", (2, 8), 30_000, 1),
    ]
    for tag, shape, count, dim in same:
        yield tag, f"{count}x{'x'.join(map(str, shape))}", [shape] * count, dim
    for dim in range(3):
        several = ((64, 128), (128 - 17, 65)), ((64, 128), (96, 64)), ((64, 128), (128, 64))
        (low, high), fixed = several[dim]
        yield "long", "5", [_with(fixed, dim, between(low, high)) for _ in range(5)], dim
    for dim, fixed in enumerate(((32, 64), (32, 64), (33, 65))):
        yield "long", "50", [_with(fixed, dim, between(32, 64)) for _ in range(50)], dim
    for count, most in ((100, 10_000), (1000, 1000), (2000, 500), (3000, 300)):
        yield "manyinputs", f"{count}", [(between(1, most),) for _ in range(count)], 0
    for rows in (1, 20):
        for inner, sizes in (((), (160, 14)), ((40,), (20, 4, 5)), ((), (580, 174))):
            yield "static_runtime", f"{rows} rows", [(rows, size, *inner) for size in sizes], 1


def _with(fixed: tuple[int, ...], dim: int, size: int) -> tuple[int, ...]:
    return (*fixed[:dim], size, *fixed[dim:])


def cases(dtype: str) -> Iterator[Case]:
    for tag, name, shapes, dim in configurations():
        yield case(dtype, tag, name, shapes, dim)


def case(dtype: str, tag: str, name: str, shapes: Shapes, dim: int) -> Case:
    size = DTYPES[dtype].itemsize * sum(map(math.prod, shapes))
    return Case(
        operator="cat",
        tag=tag,
        dtype=dtype,
        sizes={"tensors": len(shapes), "dim": dim, "KB": size // 1000, "of": name},
        axis="tensors",
        group=tag,
        flops=0,
        bytes=2 * size,
        copies=1,
        make=lambda: joined(shapes, dim, DTYPES[dtype]),
    )


def joined(shapes: Shapes, dim: int, dtype: torch.dtype) -> Contest:
    """The contenders."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(*shape, generator=generator).to(dtype) for shape in shapes]
    expected = torch.cat(tensors, dim)

    def make() -> Call:
        if not torch.equal(torch.cat(tensors, dim), expected):
            raise ValueError("a result that is not torch's")
        return lambda _: torch.cat(tensors, dim)

    return Contest.enabled_or_not(make, expected.double)


def _joined(count: int, size: int) -> Probed:
    tensors = [torch.randn(size) for _ in range(count)]
    return lambda: torch.cat(tensors)


def _joined_bytes(count: int) -> AtSize:
    return lambda size: _joined(count, size // 4 // count)


def _joined_columns(count: int) -> Probed:
    tensors = [torch.randn(64, 32).t() for _ in range(count)]
    return lambda: torch.cat(tensors)


OPERATORS = {"cat": cases}
PROBES = (
    Probe("cat_bytes", ("cat",), {"2 tensors": _joined_bytes(2), "8 tensors": _joined_bytes(8)}, 64),
    Probe("cat_strided_tensors", ("cat",), {"columns": _joined_columns}, 2),
)

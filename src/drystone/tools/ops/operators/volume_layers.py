"""Pooling, normalisation and changes of memory format over three axes, as in 3-D U-Nets and R3D-18, plain and in channels_last_3d.

Operands are hot: in a model, the layer before has just written x. A contender whose maxima or their places are not torch's bit for
bit is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ...bench.workload import DTYPES
from ..case import Call, Case, Contest
from ..probe import AtSize, Probe, Probed, of_random

FORMATS = {"plain": torch.contiguous_format, "channels_last": torch.channels_last_3d}
SHAPES = (
    (1, 64, 16, 56, 56),
    (1, 32, 64, 64, 64),
    (1, 128, 32, 32, 32),
    (1, 256, 16, 16, 16),
    (8, 64, 8, 28, 28),
)
WINDOWS = ((2, 2, 0), (3, 2, 1))  # size, stride, padding
INDEX_BYTES = 8
Make = Callable[[torch.Tensor], Contest]


def max_pool_cases(dtype: str) -> Iterator[Case]:
    for shape in SHAPES:
        for window, stride, padding in WINDOWS:
            outputs = _outputs(shape, window, stride, padding)
            moved = math.prod(shape) * DTYPES[dtype].itemsize + outputs * (DTYPES[dtype].itemsize + INDEX_BYTES)
            name = f"k{window} s{stride} p{padding}"
            yield from _cases("max_pool3d", name, dtype, shape, moved, partial(maxima, window, stride, padding))


def avg_pool_cases(dtype: str) -> Iterator[Case]:
    if dtype == "float32":  # torch has no other
        for shape in SHAPES:
            moved = (math.prod(shape) + _outputs(shape, 2, 2, 0)) * DTYPES[dtype].itemsize
            yield from _cases("avg_pool3d", "k2 s2 p0", dtype, shape, moved, means)


def batch_norm_cases(dtype: str) -> Iterator[Case]:
    for shape in SHAPES:
        moved = 2 * math.prod(shape) * DTYPES[dtype].itemsize
        yield from _cases("batch_norm3d", "training", dtype, shape, moved, batch_norm)


def instance_norm_cases(dtype: str) -> Iterator[Case]:
    for shape in SHAPES:
        moved = 2 * math.prod(shape) * DTYPES[dtype].itemsize
        yield from _cases("instance_norm", "affine", dtype, shape, moved, instance_norm)


def clone_cases(dtype: str) -> Iterator[Case]:
    """Into the memory format that the tag does not name."""
    for shape in SHAPES:
        moved = 2 * math.prod(shape) * DTYPES[dtype].itemsize
        yield from _cases("clone", "into the other", dtype, shape, moved, reordered)


def _outputs(shape: tuple[int, ...], window: int, stride: int, padding: int) -> int:
    return math.prod(shape[:2]) * math.prod((size + 2 * padding - window) // stride + 1 for size in shape[2:])


def _cases(operator: str, name: str, dtype: str, shape: tuple[int, ...], moved: int, make: Make) -> Iterator[Case]:
    for tag, memory_format in FORMATS.items():
        yield Case(
            operator=operator,
            tag=tag,
            dtype=dtype,
            sizes={"N": shape[0], "C": shape[1], "size": "x".join(map(str, shape[2:])), "as": f"{name}, {tag}"},
            axis="C",
            group=tag,
            flops=math.prod(shape),
            bytes=moved,
            copies=1,
            make=partial(_contest, shape, DTYPES[dtype], memory_format, make),
        )


def _contest(shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format, make: Make) -> Contest:
    generator = torch.Generator().manual_seed(0)
    return make(torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=memory_format))


def maxima(window: int, stride: int, padding: int, x: torch.Tensor) -> Contest:
    arguments = x, window, stride, padding
    values, places = F.max_pool3d(*arguments, return_indices=True)

    def make() -> Call:
        if not all(map(torch.equal, F.max_pool3d(*arguments, return_indices=True), (values, places))):
            raise ValueError("maxima or places that are not torch's")
        return lambda _: F.max_pool3d(*arguments)

    return Contest.enabled_or_not(make, values.double)


def means(x: torch.Tensor) -> Contest:
    return Contest.enabled_or_not(lambda: lambda _: F.avg_pool3d(x, 2), lambda: F.avg_pool3d(x.double(), 2))


def batch_norm(x: torch.Tensor) -> Contest:
    weight, bias = torch.randn(2, x.shape[1], generator=torch.Generator().manual_seed(1))
    running = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    return Contest.enabled_or_not(
        lambda: lambda _: F.batch_norm(x, *running, weight, bias, training=True),
        lambda: F.batch_norm(x.double(), None, None, weight.double(), bias.double(), training=True),
    )


def instance_norm(x: torch.Tensor) -> Contest:
    weight, bias = torch.randn(2, x.shape[1], generator=torch.Generator().manual_seed(1)).to(x.dtype)
    return Contest.enabled_or_not(
        lambda: lambda _: F.instance_norm(x, weight=weight, bias=bias),
        lambda: F.instance_norm(x.double(), weight=weight.double(), bias=bias.double()),
    )


def reordered(x: torch.Tensor) -> Contest:
    other = FORMATS["channels_last" if x.is_contiguous() else "plain"]
    return Contest.enabled_or_not(lambda: lambda _: x.contiguous(memory_format=other), x.double)


def _reordered(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


def _batch_norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True)


def _batch_norm_of_pixels(size: int) -> Probed:
    x = torch.randn(64, 64, size)
    return lambda: _batch_norm(x)


def _reordered_channels(size: int) -> Probed:
    x = torch.randn(1, size, 8, 16, 32)
    return lambda: _reordered(x)


def _maxima(x: Tensor) -> Tensor:
    return F.max_pool3d(x, 2)


def _means(x: Tensor) -> Tensor:
    return F.avg_pool3d(x, 2)


def _pooled(function: Callable[[Tensor], Tensor]) -> dict[str, AtSize]:
    def channels_last(size: int) -> Probed:
        x = _reordered(torch.randn(1, 16, 2, 4, size // 128))
        return lambda: function(x)

    return {"plain": of_random(function, 1, 2, 2, 4, -1), "channels_last": channels_last}


def _pooled_columns(function: Callable[[Tensor], Tensor]) -> AtSize:
    def make(size: int) -> Probed:
        x = torch.randn(1, 16, 8, 16, 2 * size)
        return lambda: function(x)

    return make


OPERATORS = {
    "max_pool3d": max_pool_cases,
    "avg_pool3d": avg_pool_cases,
    "batch_norm3d": batch_norm_cases,
    "instance_norm": instance_norm_cases,
    "clone": clone_cases,
}
PROBES = (
    Probe(
        "batch_norm_elements",
        ("batch_norm",),
        {"one image": of_random(_batch_norm, 1, 4, -1), "four": of_random(_batch_norm, 4, 4, -1)},
        least=256,
    ),
    Probe("batch_norm_pixels", ("batch_norm",), {"training": _batch_norm_of_pixels}),
    Probe("clone_elements", ("clone",), {"into channels_last_3d": of_random(_reordered, 1, 16, 2, 2, -1)}, 128),
    Probe("clone_channels", ("clone",), {"into channels_last_3d": _reordered_channels}, 2),
    Probe("pool_elements", ("max_pool3d",), _pooled(_maxima), 256),
    Probe("pool_columns", ("max_pool3d", "avg_pool3d"), {"max": _pooled_columns(_maxima), "mean": _pooled_columns(_means)}),
)

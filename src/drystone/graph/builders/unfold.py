"""Overlapping windows: taken apart, and added up."""

from __future__ import annotations

import math
from collections.abc import Sequence

from drystone.graph.builders.registry import Built, Declined, Emitter, as_list, axis, builds
from drystone.graph.graph import Value
from drystone.graph.ops import OverlapAdd, Pad, Unfold


@builds("unfold", any_dtype=True)
def unfold(b: Emitter, x: Value, dimension: int, size: int, step: int) -> Built:
    """The windows along one axis, whose entries lie along a new last one."""
    if not x.shape:
        raise Declined("windows of a single number")
    dim = axis(dimension, len(x.shape))
    ways = [(i, count, step if i == dim else 1) for i, count in enumerate(b.shape[:-1])]
    return b.emit(Unfold((*ways, (dim, size, 1))), [x])


@builds("im2col", any_dtype=True)
def im2col(
    b: Emitter, x: Value, kernel_size: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> Built:
    kernel, dilations, pads, strides = (as_list(item, 2) for item in (kernel_size, dilation, padding, stride))
    x = b.reshape(x, (1,) * (4 - len(x.shape)) + x.shape)
    if any(pads):
        x = b.emit(Pad((0, 0, *pads), (0, 0, *pads), "constant"), [x])
    n, c, *sizes = x.shape
    spatial = list(zip(sizes, kernel, dilations, strides, strict=True))
    entries = [(2 + i, k, dilation) for i, (_, k, dilation, _) in enumerate(spatial)]
    windows = [(2 + i, (size - dilation * (k - 1) - 1) // step + 1, step) for i, (size, k, dilation, step) in enumerate(spatial)]
    return b.reshape(b.emit(Unfold(((0, n, 1), (1, c, 1), *entries, *windows)), [x]), b.shape)


@builds("col2im")
def col2im(
    b: Emitter,
    x: Value,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Built:
    sizes, kernel, dilations, pads, strides = (
        (pair[0], pair[1]) for pair in (as_list(item, 2) for item in (output_size, kernel_size, dilation, padding, stride))
    )
    x = b.reshape(x, (math.prod(x.shape[:-2]), *x.shape[-2:]))
    return b.reshape(b.emit(OverlapAdd(sizes, kernel, strides, dilations, pads), [x]), b.shape)

"""Pools, resizes and samples, which read a neighbourhood of spatial axes for each of their results, and the sum of windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F

from drystone.graph.graph import Value
from drystone.graph.ops.operator import (
    IMAGE,
    MAX_TABLE,
    Axis,
    Finite,
    Indices,
    OneOf,
    Operator,
    Sample,
    Shape,
    Size,
    Step,
    Tensor,
    Whole,
    per_axis,
    rank_of,
    require,
    takes,
)
from drystone.graph.tape import computed, decided

__all__ = ["GridSample", "OverlapAdd", "Pool", "Resize"]

Window = tuple[Axis, Axis, Axis]
Divisor = Annotated[int, Whole(1, MAX_TABLE)]


def _everywhere(*index: int | slice) -> tuple[Any, ...]:
    """An index into the last axes."""
    return (..., *index)


def _are_inside(windows: Sequence[Window], size: int) -> bool:
    return all(start < stop <= size and step >= 1 for start, stop, step in windows)


@dataclass(frozen=True)
class Pool(Operator):
    """The maximum or mean over windows.

    ``windows``: along each spatial axis, for each result the (start, stop, step) of what it reads, inside the input. A mean is the
    sum over the product of ``divisors``, along each axis one a result, or over ``divisor_override``.
    """

    name: ClassVar[str] = "pool"
    keeps_dtype: ClassVar[bool] = True
    quantises: ClassVar[bool] = True
    sample: ClassVar[Sample] = (("avg", (tuple((i, i + 2, 1) for i in range(5)),) * 2, ((2,) * 5,) * 2), [IMAGE], [])

    kind: Annotated[str, OneOf(("max", "avg"))]
    windows: tuple[tuple[Window, ...], ...]
    divisors: tuple[tuple[Divisor, ...], ...] | None = None  # of a mean: along each axis, whose product a sum is divided by
    divisor_override: Axis | None = None

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        x, rank = inputs[0], rank_of(self, inputs, 3, 5)
        per_axis(self, rank - 2, "windows")
        for size, axis in zip(x.shape[2:], self.windows, strict=True):
            require(decided(_are_inside, axis, size), f"a window is empty or reaches beyond the {size} entries of its axis")
        if self.kind == "avg":
            require(self.divisors is not None, "it has no divisors")
            per_axis(self, rank - 2, "divisors")
            assert self.divisors is not None
            alike = [computed(len, axis) for axis in self.divisors] == [computed(len, axis) for axis in self.windows]
            require(alike, "a divisor a window")
        else:
            require(self.divisors is None and self.divisor_override is None, "a maximum has no divisors")
        return (*x.shape[:2], *(computed(len, axis) for axis in self.windows))

    def run(self, inputs: list[Tensor]) -> Tensor:
        (x,) = inputs
        out = x.new_empty((*x.shape[:2], *(len(axis) for axis in self.windows)))
        dims = tuple(range(2, x.ndim))
        for index in itertools.product(*(range(len(axis)) for axis in self.windows)):
            window = x[_everywhere(*(slice(*axis[i]) for axis, i in zip(self.windows, index, strict=True)))]
            if self.kind == "max":
                out[_everywhere(*index)] = window.amax(dims)
            else:
                assert self.divisors is not None
                each = math.prod(axis[i] for axis, i in zip(self.divisors, index, strict=True))
                out[_everywhere(*index)] = window.sum(dims) / (self.divisor_override or each)
        return out


_OF_IMAGES: dict[str, Callable[..., Tensor]] = {
    "cubic": torch.ops.aten.upsample_bicubic2d.default,
    "linear_antialias": torch.ops.aten._upsample_bilinear2d_aa.default,
    "cubic_antialias": torch.ops.aten._upsample_bicubic2d_aa.default,
}


@dataclass(frozen=True)
class Resize(Operator):
    """To ``sizes`` of the spatial axes. ``scales``: by what torch's kernels multiply output coordinates, one an axis.

    Images alone are resized by cubic weights, and with those that avoid aliasing.
    """

    name: ClassVar[str] = "resize"
    keeps_dtype: ClassVar[bool] = True
    quantises: ClassVar[bool] = True
    tabled: ClassVar[bool] = True
    sample: ClassVar[Sample] = (("nearest", False, (0.5, 0.5), (12, 12)), [IMAGE], [])

    mode: Annotated[str, OneOf(("nearest", "nearest_exact", "linear", *_OF_IMAGES))]
    align_corners: bool
    scales: tuple[Finite, ...]
    sizes: Indices

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        rank = rank_of(self, inputs, 3, 5)
        per_axis(self, rank - 2, "scales", "sizes")
        require(all(0 <= scale <= MAX_TABLE for scale in self.scales), f"a scale is negative or beyond {MAX_TABLE}")
        require(not self.mode.startswith("nearest") or not self.align_corners, "nearest has no corners to align")
        require(self.mode not in _OF_IMAGES or rank == 4, f"a {self.mode} resize of {rank} axes")
        if self.mode.endswith("antialias"):  # for each index of the result there is a weight for each input that it reads
            axes = zip(inputs[0].shape[2:], self.scales, self.sizes, strict=True)
            require(all(scale * count <= 2 * size for size, scale, count in axes), "a scale beyond what there is to read")
        return (*inputs[0].shape[:2], *self.sizes)

    def run(self, inputs: list[Tensor]) -> Tensor:
        """Axis by axis: nearest and linear are separable."""
        x = inputs[0]
        if self.mode in _OF_IMAGES:
            axes = zip(x.shape[2:], self.scales, self.sizes, strict=True)
            factors = [None if self.align_corners or scale == size / count else 1 / scale for size, scale, count in axes]
            return _OF_IMAGES[self.mode](x, self.sizes, self.align_corners, *factors)
        for axis, (scale, count) in enumerate(zip(self.scales, self.sizes, strict=True), start=2):
            size = x.shape[axis]
            out = torch.arange(count, dtype=torch.float64)
            if self.mode.startswith("nearest"):
                at = out * scale if self.mode == "nearest" else (out + 0.5) * scale
                x = x.index_select(axis, at.floor().long().clamp(max=size - 1))
                continue
            at = out * scale if self.align_corners else ((out + 0.5) * scale - 0.5).clamp(min=0)
            low = at.floor().long().clamp(max=size - 1)
            high = (low + 1).clamp(max=size - 1)
            share = (at - low).to(x.dtype).view([-1] + [1] * (x.ndim - 1 - axis))
            x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
        return x


@dataclass(frozen=True)
class GridSample(Operator):
    """x (N, C, H, W) at the places that a grid (N, H', W', 2) has for each result, as ``torch.nn.functional.grid_sample``."""

    name: ClassVar[str] = "grid_sample"
    sample: ClassVar[Sample] = (("bilinear", "zeros", False), [IMAGE, (1, 5, 5, 2)], [])
    keeps_dtype: ClassVar[bool] = True

    mode: Annotated[str, OneOf(("bilinear", "nearest"))]
    padding: Annotated[str, OneOf(("zeros", "border", "reflection"))]
    align_corners: bool

    @property
    def operands(self) -> int:
        return 2

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 2)
        rank_of(self, inputs, 4, 4)
        x, grid = inputs
        fits = len(grid.shape) == 4 and grid.shape[0] == x.shape[0] and grid.shape[3] == 2
        require(fits, f"{grid} has no places in {x}")
        return (*x.shape[:2], *grid.shape[1:3])

    def run(self, inputs: list[Tensor]) -> Tensor:
        return F.grid_sample(inputs[0], inputs[1], self.mode, self.padding, self.align_corners)


Pair = tuple[Step, Step]


@dataclass(frozen=True)
class OverlapAdd(Operator):
    """The sum of windows x (N, C * kernel, windows), as ``torch.nn.functional.fold`` adds them up in an image of ``sizes``."""

    name: ClassVar[str] = "overlap_add"
    keeps_dtype: ClassVar[bool] = True
    sample: ClassVar[Sample] = (((4, 4), (2, 2), (1, 1), (1, 1), (0, 0)), [(1, 8, 9)], [])

    sizes: Pair
    kernel: Pair
    strides: Pair
    dilations: Pair
    padding: tuple[Size, Size]

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        rank_of(self, inputs, 3, 3)
        n, rows, windows = inputs[0].shape
        counts = []
        for size, k, stride, dilation, padding in zip(
            self.sizes, self.kernel, self.strides, self.dilations, self.padding, strict=True
        ):
            room = size + 2 * padding - dilation * (k - 1) - 1
            require(room >= 0, f"no window fits into {size} entries")
            counts.append(room // stride + 1)
        require(windows == math.prod(counts), f"{windows} windows where {math.prod(counts)} fit")
        require(rows % math.prod(self.kernel) == 0, f"{rows} rows for windows of {math.prod(self.kernel)}")
        return (n, rows // math.prod(self.kernel), *self.sizes)

    def run(self, inputs: list[Tensor]) -> Tensor:
        return F.fold(inputs[0], self.sizes, self.kernel, self.dilations, self.padding, self.strides)

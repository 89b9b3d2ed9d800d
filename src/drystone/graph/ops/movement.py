"""Operators that move numbers and compute none: parts, orders, shapes, padding; and conversions between dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from drystone.graph.dtypes import ELEMENTS
from drystone.graph.graph import Value
from drystone.graph.ops.operator import (
    IMAGE,
    MAX_TABLE,
    ROWS,
    Axis,
    Dims,
    Indices,
    OneOf,
    Operator,
    Sample,
    Shape,
    Sizes,
    Tensor,
    Whole,
    axis_of,
    broadcasts,
    in_order,
    per_axis,
    rank_of,
    require,
    rising,
    takes,
)

__all__ = ["Cat", "Convert", "Expand", "Pad", "Permute", "Reshape", "Slice", "Take", "Unfold"]


class _Movement(Operator):
    dtypes: ClassVar[tuple[torch.dtype, ...]] = ELEMENTS
    keeps_dtype: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    quantises: ClassVar[bool] = True


@dataclass(frozen=True)
class Cat(_Movement):
    """The operands behind each other along ``dim``."""

    name: ClassVar[str] = "cat"
    sample: ClassVar[Sample] = ((1,), [IMAGE, IMAGE], [])

    dim: Axis

    def shape(self, inputs: Sequence[Value]) -> Shape:
        shapes = [value.shape for value in inputs]
        dim = axis_of(self.dim, rank_of(self, inputs, 1))
        first, *others = [(len(shape), shape[:dim], shape[dim + 1 :]) for shape in shapes]
        require(all(rest == first for rest in others), f"the parts differ beyond axis {dim}")
        return (*shapes[0][:dim], sum(shape[dim] for shape in shapes), *shapes[0][dim + 1 :])

    def run(self, inputs: list[Tensor]) -> Tensor:
        return torch.cat(inputs, self.dim)


@dataclass(frozen=True)
class Slice(_Movement):
    """``length`` entries along ``dim`` from ``start`` on, each ``step``-th."""

    name: ClassVar[str] = "slice"
    views: ClassVar[bool] = True
    tabled: ClassVar[bool] = True
    sample: ClassVar[Sample] = ((1, 0, 8, 2), [IMAGE], [])

    dim: Axis
    start: Axis
    length: Axis
    step: Annotated[int, Whole(1, MAX_TABLE)] = 1

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        shape = inputs[0].shape
        dim, last = axis_of(self.dim, rank_of(self, inputs, 1)), self.start + (self.length - 1) * self.step
        require(last < shape[dim], f"entry {last} of {shape[dim]}")
        return (*shape[:dim], self.length, *shape[dim + 1 :])

    def run(self, inputs: list[Tensor]) -> Tensor:
        stop = self.start + (self.length - 1) * self.step + 1
        return inputs[0][(slice(None),) * self.dim + (slice(self.start, stop, self.step),)]


@dataclass(frozen=True)
class Take(_Movement):
    """The entries at ``indices``, known beforehand: along each of ``dims`` a list."""

    name: ClassVar[str] = "take"
    tabled: ClassVar[bool] = True
    sample: ClassVar[Sample] = (((1,), (tuple(range(8)),)), [IMAGE], [])

    dims: Sizes
    indices: tuple[Indices, ...]

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        rising(self.dims, rank_of(self, inputs, 1))
        per_axis(self, len(self.dims), "indices")
        shape = list(inputs[0].shape)
        for dim, indices in zip(self.dims, self.indices, strict=True):
            require(max(indices, default=0) < shape[dim], f"an index beyond {shape[dim]}")
            shape[dim] = len(indices)
        return tuple(shape)

    def run(self, inputs: list[Tensor]) -> Tensor:
        x = inputs[0]
        for dim, indices in zip(self.dims, self.indices, strict=True):
            x = x.index_select(dim, torch.tensor(indices, dtype=torch.int64))
        return x


@dataclass(frozen=True)
class Permute(_Movement):
    """Axis i of the result is axis ``dims[i]`` of x."""

    name: ClassVar[str] = "permute"
    views: ClassVar[bool] = True
    sample: ClassVar[Sample] = (((1, 0, 2),), [ROWS], [])

    dims: Sizes

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        return in_order(inputs[0], self.dims)

    def run(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0].permute(self.dims)


@dataclass(frozen=True)
class Reshape(_Movement):
    """x, read in logical row-major order, in other ``sizes``."""

    name: ClassVar[str] = "reshape"
    views: ClassVar[bool] = True
    sample: ClassVar[Sample] = (((8, 16),), [ROWS], [])

    sizes: Dims

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        count = 1
        for size in self.sizes:
            count *= size
        require(inputs[0].numel == count, f"{inputs[0]} has {inputs[0].numel} elements, and {list(self.sizes)} {count}")
        return self.sizes

    def run(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0].reshape(self.sizes)


@dataclass(frozen=True)
class Expand(_Movement):
    """x broadcast to ``sizes``."""

    name: ClassVar[str] = "expand"
    tabled: ClassVar[bool] = True
    sample: ClassVar[Sample] = ((ROWS,), [(1, 4, 16)], [])

    sizes: Dims

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        require(broadcasts(inputs[0].shape, self.sizes), f"{inputs[0]} does not expand to {list(self.sizes)}")
        return self.sizes

    def run(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0].expand(self.sizes)


Way = tuple[Axis, Annotated[int, Whole(1, MAX_TABLE)], Annotated[int, Whole(1, MAX_TABLE)]]


@dataclass(frozen=True)
class Unfold(_Movement):
    """Overlapping windows. ``ways``: of each axis of the result, (the axis of x that it goes along, its size, the step).

    Several may go along one axis of x, where their steps add up.
    """

    name: ClassVar[str] = "unfold"
    views: ClassVar[bool] = True
    tabled: ClassVar[bool] = True
    sample: ClassVar[Sample] = ((((0, 2, 1), (1, 3, 1), (2, 16, 1), (1, 2, 1)),), [ROWS], [])

    ways: tuple[Way, ...]

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        shape = inputs[0].shape
        last = [0] * rank_of(self, inputs, 1)
        for axis, size, step in self.ways:
            last[axis_of(axis, len(shape))] += (size - 1) * step
        require(all(at < size for at, size in zip(last, shape, strict=True)), f"entries {last} of {list(shape)}")
        return tuple(size for _, size, _ in self.ways)

    def run(self, inputs: list[Tensor]) -> Tensor:
        x = inputs[0].contiguous()
        return x.as_strided([size for _, size, _ in self.ways], [x.stride(axis) * step for axis, _, step in self.ways]).clone()


Signed = tuple[Annotated[int, Whole(-MAX_TABLE, MAX_TABLE)], ...]


@dataclass(frozen=True)
class Pad(_Movement):
    """``before`` and ``after`` along each axis; a negative count cuts off."""

    name: ClassVar[str] = "pad"
    tabled: ClassVar[bool] = True
    sample: ClassVar[Sample] = (((0, 0, 1, 1), (0, 0, 1, 1), "constant"), [IMAGE], [])

    before: Signed
    after: Signed
    mode: Annotated[str, OneOf(("constant", "reflect", "replicate"))]
    value: float = 0.0

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        shape = inputs[0].shape
        per_axis(self, len(shape), "before", "after")
        sizes = list(zip(shape, self.before, self.after, strict=True))
        if self.mode != "constant":
            require(all(before >= 0 and after >= 0 for _, before, after in sizes), f"{self.mode} padding does not crop")
        if self.mode == "reflect":
            require(all(max(before, after) < size for size, before, after in sizes), "more is reflected than there is")
        require(all(size + before + after > 0 for size, before, after in sizes), "it leaves nothing")
        return tuple(size + before + after for size, before, after in sizes)

    def run(self, inputs: list[Tensor]) -> Tensor:
        """By index along each axis, for any rank."""
        x = inputs[0]
        for axis, (before, after) in enumerate(zip(self.before, self.after, strict=True)):
            size = x.shape[axis]
            index = torch.arange(-before, size + after)
            inside = index.clamp(0, size - 1)
            if self.mode == "reflect":
                inside = (size - 1 - (size - 1 - index.abs()).abs()).clamp(0, size - 1)
            outside = (index < 0) | (index >= size)
            x = x.index_select(axis, inside)
            if self.mode == "constant":
                x = x.masked_fill(outside.view([-1] + [1] * (x.ndim - 1 - axis)), self.value)
        return x


@dataclass(frozen=True)
class Convert(Operator):
    """To the dtype of the result."""

    name: ClassVar[str] = "convert"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = ELEMENTS
    sample: ClassVar[Sample] = ((), [ROWS], [])

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        return inputs[0].shape

    def run(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0]

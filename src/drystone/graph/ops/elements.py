"""Operators on integers and truth values, and what joins them with floats: comparisons, choice, aggregates, indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from drystone.graph.dtypes import ELEMENTS, FLOATS, INDICES
from drystone.graph.graph import Value
from drystone.graph.ops.operator import (
    MAX_SIZE,
    ROWS,
    Axis,
    OneOf,
    Operator,
    Sample,
    Shape,
    Sizes,
    Tensor,
    Whole,
    axis_of,
    rank_of,
    require,
    rising,
    takes,
    together,
    without_axes,
)

__all__ = ["Aggregate", "Elementwise", "Index", "IndexCopy", "Topk"]

COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_ARITHMETIC: dict[str, Callable[..., Tensor]] = {
    **{kind: getattr(torch, kind) for kind in ("add", "sub", "mul", "maximum", "minimum")},
    "floor_div": torch.floor_divide,
    "remainder": torch.remainder,
}
_BITS: dict[str, Callable[..., Tensor]] = {
    "bit_and": torch.bitwise_and,
    "bit_or": torch.bitwise_or,
    "bit_xor": torch.bitwise_xor,
    "invert": torch.bitwise_not,
}
ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    **{kind: getattr(torch, kind) for kind in COMPARISONS},
    **_ARITHMETIC,
    **_BITS,
    "where": torch.where,
}
RUNNING = ("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin")
AGGREGATES = (*RUNNING, "sum", "any", "all", "amax", "amin", "argmax", "argmin")
# The dtypes of operands, where not any.
_AGGREGATED = {
    "any": (torch.bool,),
    "all": (torch.bool,),
    "sum": (torch.int64,),
    "cumsum": (torch.int64, torch.float32, torch.bfloat16),
    "cumprod": (torch.int64, torch.float32, torch.bfloat16),
    "logcumsumexp": FLOATS,
}
CALLERS = ("embedding", "index", "index_select", "gather")


@dataclass(frozen=True)
class Elementwise(Operator):
    """One operation on operands of one dtype, broadcast.

    Comparisons (any dtype, to bool); where (a bool condition before two values of any dtype); on integers arithmetic, in which sums
    wrap around, and bits (of bools too).
    """

    name: ClassVar[str] = "elementwise"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = ELEMENTS
    sample: ClassVar[Sample] = (("maximum",), [ROWS, ROWS], [])

    kind: Annotated[str, OneOf(ELEMENTWISE)]

    @property
    def operands(self) -> int:
        return {"invert": 1, "where": 3}.get(self.kind, 2)

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, self.operands)
        return together([value.shape for value in inputs])

    def check_dtypes(self, inputs: Sequence[Value], output: Value) -> None:
        kind, dtypes = self.kind, [value.dtype for value in inputs]
        require(kind != "where" or dtypes.pop(0) is torch.bool, "the condition is not bool")
        result = torch.bool if kind in COMPARISONS else dtypes[0]
        require(set(dtypes) == {dtypes[0]} and output.dtype is result, f"{kind} does not mix these dtypes")
        floats, chooses = dtypes[0].is_floating_point, kind == "where" or kind in COMPARISONS
        require(not floats or chooses, f"{kind} takes no floats")
        require(dtypes[0] is not torch.bool or chooses or kind in _BITS, f"{kind} takes no bools")

    def run(self, inputs: list[Tensor]) -> Tensor:
        return ELEMENTWISE[self.kind](*inputs)


@dataclass(frozen=True)
class Aggregate(Operator):
    """One result for all entries along ``dims``, which are neighbours; running ones, along one axis, give one an entry.

    cumsum and cumprod (float or int64), logcumsumexp (float), cummax and cummin (with places, int64; the last of equals),
    sum (int64), any, all (bool), amax, amin, argmax and argmin (int64; the first of equals). NaN counts before all.
    """

    name: ClassVar[str] = "aggregate"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = ELEMENTS
    sample: ClassVar[Sample] = (("cumsum", (1,), True), [ROWS], [])

    kind: Annotated[str, OneOf(AGGREGATES)]
    dims: Sizes
    keepdim: bool

    @property
    def places(self) -> bool:
        return self.kind in ("cummax", "cummin")

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        shape, dims = inputs[0].shape, self.dims
        rising(dims, len(shape))
        require(len(dims) == 1 or self.kind not in RUNNING, f"a {self.kind} along {len(dims)} axes")
        require(list(dims) == list(range(dims[0], dims[-1] + 1)), f"{list(dims)} are no neighbours")
        return shape if self.kind in RUNNING else without_axes(shape, dims, self.keepdim)

    def check_dtypes(self, inputs: Sequence[Value], output: Value) -> None:
        (x,), kind = inputs, self.kind
        result = torch.int64 if kind.startswith("arg") else x.dtype
        require(x.dtype in _AGGREGATED.get(kind, (x.dtype,)) and output.dtype is result, f"no {kind} of {x}")
        require(x.dtype is not torch.bool or kind in ("any", "all"), f"no {kind} of {x}")

    def run(self, inputs: list[Tensor]) -> Tensor | list[Tensor]:
        (x,), dims = inputs, list(self.dims)
        if self.kind in RUNNING:
            found = getattr(torch, self.kind)(x, dims[0])
            return list(found) if self.places else found
        shape = without_axes(tuple(x.shape), dims, self.keepdim)
        if self.kind in ("argmax", "argmin"):
            return getattr(torch, self.kind)(x.flatten(dims[0], dims[-1]), dims[0]).reshape(shape)
        return getattr(torch, self.kind)(x, dim=dims).reshape(shape)


@dataclass(frozen=True)
class Index(Operator):
    """The entries at computed indices along as many axes from ``dim`` on.

    The indices, int64 or int32, are broadcast to a grid, which takes the place of the axes. ``wraps``: negative indices count from
    the end. ``caller`` is torch's operator, whose error a wrong index raises; gather indexes along ``dim`` alone, and else reads at
    the entry's own place.
    """

    name: ClassVar[str] = "index"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = ELEMENTS
    sample: ClassVar[Sample] = ((0, False, "embedding"), [(11, 16), (torch.int64, 2, 3)], [])

    dim: Axis
    wraps: bool
    caller: Annotated[str, OneOf(CALLERS)]

    def shape(self, inputs: Sequence[Value]) -> Shape:
        require(len(inputs) >= 2, "an index needs indices")
        x, *indices = inputs
        dim, rank, count = axis_of(self.dim, rank_of(self, inputs, 1)), len(x.shape), len(indices)
        if self.caller == "gather":
            by = indices[0].shape
            fits = count == 1 and len(by) == rank
            fits = fits and all(a <= b for i, (a, b) in enumerate(zip(by, x.shape, strict=True)) if i != dim)
            require(fits and not self.wraps, f"{indices[0]} does not index {x}")
            return by
        require(dim + count <= rank, f"{count} indices from axis {dim} of {rank}")
        return (*x.shape[:dim], *together([value.shape for value in indices]), *x.shape[dim + count :])

    def check_dtypes(self, inputs: Sequence[Value], output: Value) -> None:
        require(all(value.dtype in INDICES for value in inputs[1:]), "indices are int64 or int32")
        require(output.dtype is inputs[0].dtype, "it changes its dtype")

    def run(self, inputs: list[Tensor]) -> Tensor:
        x, *indices = inputs
        if self.caller == "gather":
            return x.gather(self.dim, indices[0].long())
        if not self.wraps and any(bool((index < 0).any()) for index in indices):
            raise IndexError("index out of range in self")
        return x[(slice(None),) * self.dim + tuple(index.long() for index in indices)]


@dataclass(frozen=True)
class IndexCopy(Operator):
    """x with the entries of a source at computed indices (int64 or int32, one axis) along ``dim``; of equal ones the last counts.

    ``wraps``: negative indices count from the end.
    """

    name: ClassVar[str] = "index_copy"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = ELEMENTS
    sample: ClassVar[Sample] = ((0, False), [(11, 16), (torch.int64, 2), (2, 16)], [])

    dim: Axis
    wraps: bool

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 3)
        x, indices, source = inputs
        dim = axis_of(self.dim, len(x.shape))
        require(len(indices.shape) == 1, f"{indices} has other axes than one")
        expected = (*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :])
        require(source.shape == expected, f"{source} is not of shape {list(expected)}")
        return x.shape

    def check_dtypes(self, inputs: Sequence[Value], output: Value) -> None:
        require(inputs[1].dtype in INDICES, "indices are int64 or int32")
        require(inputs[0].dtype is inputs[2].dtype is output.dtype, "it changes its dtype")

    def run(self, inputs: list[Tensor]) -> Tensor:
        x, indices, source = inputs
        if not self.wraps and bool((indices < 0).any()):
            raise IndexError("index out of range in self")
        result = x.clone()
        result[(slice(None),) * self.dim + (indices.long(),)] = source
        return result


@dataclass(frozen=True)
class Topk(Operator):
    """The ``k`` largest entries along ``dim`` (or the smallest), and their places, in int64.

    They come in order if ``sorted``. NaN is above all numbers; of equals the first come first.
    """

    name: ClassVar[str] = "topk"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = ELEMENTS
    keeps_dtype: ClassVar[bool] = True
    sample: ClassVar[Sample] = ((2, 4, True, True), [ROWS], [])

    dim: Axis
    k: Annotated[int, Whole(1, MAX_SIZE)]
    largest: bool
    sorted: bool

    @property
    def places(self) -> bool:
        return True

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 1)
        shape, dim = inputs[0].shape, axis_of(self.dim, rank_of(self, inputs, 1))
        require(self.k <= shape[dim], f"{self.k} of {shape[dim]} entries")
        return (*shape[:dim], self.k, *shape[dim + 1 :])

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        ordered = inputs[0].sort(dim=self.dim, descending=self.largest, stable=True)
        return [result.narrow(self.dim, 0, self.k) for result in ordered]

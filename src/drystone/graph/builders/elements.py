"""Integers, truth values and what joins them with floats: comparisons, logic, integer arithmetic, choice, aggregates, indices.

Each computes in the dtype that torch promotes its operands to; numbers become constants of that dtype, so ids keep all 64 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from drystone.graph.builders import pointwise
from drystone.graph.builders.movement import part
from drystone.graph.builders.registry import Built, Declined, Emitter, Function, axis, builds_elements, scalar, table
from drystone.graph.dtypes import FLOATS, INDICES
from drystone.graph.graph import Value
from drystone.graph.ops import Aggregate, Convert, Elementwise, Index, IndexCopy, Operator, Reduce, Topk

Operand = Value | bool | int | float


def promoted(*operands: Operand) -> torch.dtype:
    """The dtype in which torch combines these: tensors of no dimensions and numbers count for less than others."""
    examples = [torch.empty((1,) * min(len(x.shape), 1), dtype=x.dtype) if isinstance(x, Value) else x for x in operands]
    dtype = torch.result_type(examples[0], examples[1])
    if not all(isinstance(x, Value) for x in operands):
        return dtype
    if len({x.dtype for x in operands if isinstance(x, Value) and x.dtype in FLOATS}) > 1:
        raise Declined("operands of different dtypes")
    return dtype


def number_as(item: Any, dtype: torch.dtype) -> torch.Tensor | None:
    """A Python number, or a constant of no dimensions, as a tensor of ``dtype``; None for anything else."""
    if isinstance(item, Value):
        return item.constant.to(dtype) if item.is_constant and item.shape == () else None
    if dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        limits = torch.iinfo(dtype)
        if item != int(item) or not limits.min <= item <= limits.max:
            raise Declined(f"{item} as {str(dtype).removeprefix('torch.')}")
    return torch.tensor(item, dtype=dtype)


def as_dtype(b: Emitter, item: Operand, dtype: torch.dtype) -> Value:
    """The operand in ``dtype``; numbers become constants."""
    number = number_as(item, dtype)
    if number is not None:
        return b.constant(number)
    assert isinstance(item, Value)
    return item if item.dtype == dtype else b.emit(Convert(), [item], dtype)


def elementwise(b: Emitter, kind: str, operands: Sequence[Value], dtype: torch.dtype) -> Value:
    return b.emit(Elementwise(kind), list(operands), dtype)


# -- comparisons and logic


def _comparison(kind: str, *names: str) -> None:
    @builds_elements(kind, *names)
    def compare(b: Emitter, x: Value, other: Operand) -> Built:
        dtype = promoted(x, other)
        return elementwise(b, kind, [as_dtype(b, item, dtype) for item in (x, other)], torch.bool)


_comparison("eq")
_comparison("ne", "not_equal")
_comparison("lt", "less")
_comparison("le", "less_equal")
_comparison("gt", "greater")
_comparison("ge", "greater_equal")


@builds_elements("isnan")
def isnan(b: Emitter, x: Value) -> Built:
    return elementwise(b, "ne", [x, x], torch.bool)


@builds_elements("isfinite")
def isfinite(b: Emitter, x: Value) -> Built:
    if x.dtype not in FLOATS:
        return elementwise(b, "eq", [x, x], torch.bool)
    magnitude = b.pointwise([x], [pointwise.op("abs", pointwise.IN0)])
    return elementwise(b, "lt", [magnitude, as_dtype(b, math.inf, x.dtype)], torch.bool)


def _bits(kind: str, logical: str, *names: str) -> None:
    @builds_elements(kind, *names)
    def bitwise(b: Emitter, x: Operand, other: Operand) -> Built:
        return elementwise(b, kind, [as_dtype(b, item, b.dtype) for item in (x, other)], b.dtype)

    @builds_elements(logical)
    def of_truth(b: Emitter, x: Value, other: Value) -> Built:
        return elementwise(b, kind, [as_dtype(b, item, torch.bool) for item in (x, other)], torch.bool)


_bits("bit_and", "logical_and", "bitwise_and", "__and__")
_bits("bit_or", "logical_or", "bitwise_or", "__or__")
_bits("bit_xor", "logical_xor", "bitwise_xor", "__xor__")


@builds_elements("bitwise_not")
def bitwise_not(b: Emitter, x: Value) -> Built:
    return elementwise(b, "invert", [x], x.dtype)


@builds_elements("logical_not")
def logical_not(b: Emitter, x: Value) -> Built:
    return elementwise(b, "invert", [as_dtype(b, x, torch.bool)], torch.bool)


# -- choice


@builds_elements("where")
def where(b: Emitter, condition: Value, x: Operand, other: Operand) -> Built:
    if condition.dtype != torch.bool:
        raise Declined("a condition that is not bool")
    return elementwise(b, "where", [condition, as_dtype(b, x, b.dtype), as_dtype(b, other, b.dtype)], b.dtype)


@builds_elements("masked_fill")
def masked_fill(b: Emitter, x: Value, mask: Value, value: Operand) -> Built:
    return where(b, mask, value, x)


# -- arithmetic: on integers here, on floats by the pointwise builders once all operands are such


def _arithmetic(name: str, kind: str) -> None:
    of_floats = table[name]

    @builds_elements(name)
    def arithmetic(b: Emitter, x: Operand, other: Operand, alpha: float = 1) -> Built:
        if b.dtype in FLOATS:
            return _on_floats(b, of_floats, x, other, *([] if alpha == 1 else [alpha]))
        if name == "rsub":
            x, other = other, x
        left, right = (as_dtype(b, item, b.dtype) for item in (x, other))
        if alpha != 1:
            right = elementwise(b, "mul", [right, as_dtype(b, alpha, b.dtype)], b.dtype)
        if b.dtype == torch.bool:
            if name not in _ON_TRUTH:
                raise Declined(f"{name} of bools")
            return elementwise(b, _ON_TRUTH[name], [left, right], b.dtype)
        return elementwise(b, kind, [left, right], b.dtype)


_ON_TRUTH = {"add": "bit_or", "mul": "bit_and", "maximum": "bit_or", "minimum": "bit_and"}


def _on_floats(b: Emitter, function: Function, x: Operand, other: Operand, *more: Any) -> Built:
    """``function`` of operands of which some are no floats yet; numbers stay numbers."""
    promoted(x, other)
    return function(b, *(item if scalar(item) is not None else as_dtype(b, item, b.dtype) for item in (x, other)), *more)


for _name, _kind in (
    ("add", "add"),
    ("sub", "sub"),
    ("rsub", "sub"),
    ("mul", "mul"),
    ("maximum", "maximum"),
    ("minimum", "minimum"),
):
    _arithmetic(_name, _kind)


@builds_elements("div")
def div(b: Emitter, x: Operand, other: Operand, rounding_mode: str | None = None) -> Built:
    number = scalar(other)
    if b.dtype not in FLOATS:
        if rounding_mode != "floor":
            raise Declined("a division of integers that does not round down")
        return _rounded_down(b, "floor_div", x, other)
    if rounding_mode is not None:
        raise Declined("a rounding division")
    if number is not None and scalar(x) is None:
        return pointwise.div(b, as_dtype(b, x, b.dtype), number)
    return _on_floats(b, pointwise.div, x, other)


def _rounded_down(b: Emitter, kind: str, x: Operand, other: Operand) -> Value:
    if b.dtype in FLOATS:
        raise Declined("a rounding division")
    if not scalar(other):
        raise Declined("a division of integers by what may be zero")
    return elementwise(b, kind, [as_dtype(b, item, b.dtype) for item in (x, other)], b.dtype)


@builds_elements("floor_divide")
def floor_divide(b: Emitter, x: Operand, other: Operand) -> Built:
    return _rounded_down(b, "floor_div", x, other)


@builds_elements("remainder")
def remainder(b: Emitter, x: Operand, other: Operand) -> Built:
    return _rounded_down(b, "remainder", x, other)


@builds_elements("neg")
def neg(b: Emitter, x: Value) -> Built:
    return elementwise(b, "sub", [as_dtype(b, 0, x.dtype), x], x.dtype)


@builds_elements("clamp", "clip")
def clamp(b: Emitter, x: Value, min: Operand | None = None, max: Operand | None = None) -> Built:
    if b.dtype in FLOATS:
        bounds = [as_dtype(b, bound, b.dtype) if isinstance(bound, Value) else bound for bound in (min, max)]
        return pointwise.clamp(b, as_dtype(b, x, b.dtype), *bounds)
    for bound, kind in ((min, "maximum"), (max, "minimum")):
        if bound is not None:
            x = elementwise(b, kind, [as_dtype(b, x, b.dtype), as_dtype(b, bound, b.dtype)], b.dtype)
    return x


# -- conversions


@builds_elements("to", "_to_copy", "type_as")
def convert(b: Emitter, x: Value, *arguments: Any, **named: Any) -> Built:
    return as_dtype(b, x, b.dtype)


# -- aggregates


def aggregate(b: Emitter, kind: str, x: Value, dims: tuple[int, ...], dtype: torch.dtype) -> Value:
    if not x.shape:
        raise Declined(f"{kind} of a single number")
    return b.emit(Aggregate(kind, dims, keepdim=len(b.shape) == len(x.shape)), [x], dtype)


@builds_elements("cumsum", "cumprod")
def accumulate(b: Emitter, x: Value, dim: int, dtype: torch.dtype | None = None) -> Built:
    wide = b.dtype if b.dtype in FLOATS else torch.int64  # of which narrower integers keep the lower bits
    return as_dtype(b, aggregate(b, b.name, as_dtype(b, x, wide), (axis(dim, len(x.shape)),), wide), b.dtype)


@builds_elements("logcumsumexp")
def accumulate_exponentials(b: Emitter, x: Value, dim: int) -> Built:
    return aggregate(b, b.name, x, (axis(dim, len(x.shape)),), x.dtype)


@builds_elements("cummax", "cummin")
def running_extreme(b: Emitter, x: Value, dim: int) -> Built:
    return _with_places(b, Aggregate(b.name, (axis(dim, len(x.shape)),), keepdim=True), x)


def _all_axes(x: Value, dim: int | Sequence[int] | None) -> tuple[int, ...]:
    listed = [dim] if isinstance(dim, int) else list(dim or range(len(x.shape)))
    return tuple(sorted(axis(d, len(x.shape)) for d in listed))


@builds_elements("argmax", "argmin")
def arg_extreme(b: Emitter, x: Value, dim: int | None = None, keepdim: bool = False) -> Built:
    return aggregate(b, b.name, x, _all_axes(x, dim), torch.int64)


@builds_elements("amax", "amin")
def extreme(b: Emitter, x: Value, dim: Sequence[int] = (), keepdim: bool = False) -> Built:
    return aggregate(b, b.name, x, _all_axes(x, dim), x.dtype)


@builds_elements("max.default", "min.default")
def whole_extreme(b: Emitter, x: Value) -> Built:
    return aggregate(b, f"a{b.name}", x, _all_axes(x, None), x.dtype)


# Entries along an axis, up to which two aggregates are faster than the kernel that finds an extreme and its place at once.
_SHORT = 16


@builds_elements("max.dim", "min.dim")
def extreme_and_place(b: Emitter, x: Value, dim: int, keepdim: bool = False) -> Built:
    dims = _all_axes(x, dim)
    if x.shape and x.shape[dims[0]] > _SHORT:
        found = _with_places(b, Topk(dims[0], 1, largest=b.name == "max", sorted=True), x)
        return [b.reshape(value, b.shape) for value in found if value is not None]
    return [
        aggregate(b, kind, x, dims, dtype) if b.reads(index) else None
        for index, (kind, dtype) in enumerate(((f"a{b.name}", x.dtype), (f"arg{b.name}", torch.int64)))
    ]


@builds_elements("any", "all")
def of_truth(b: Emitter, x: Value, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Built:
    return aggregate(b, b.name, as_dtype(b, x, torch.bool), _all_axes(x, dim), torch.bool)


@builds_elements("sum")
def sum(b: Emitter, x: Value, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Built:
    if b.dtype == torch.float32:  # of integers, into floats
        return b.emit(Reduce("sum", _all_axes(x, dim), keepdim), [as_dtype(b, x, b.dtype)])
    return aggregate(b, "sum", as_dtype(b, x, b.dtype), _all_axes(x, dim), b.dtype)


@builds_elements("nansum", "nanmean")
def of_numbers(b: Emitter, x: Value, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Built:
    """The sum or the mean of those that are not NaN, in float32."""
    if x.dtype not in FLOATS or dtype not in (None, x.dtype) or not x.shape:
        raise Declined(f"{b.name} of {x}")
    over = Reduce("sum", _all_axes(x, dim), keepdim)
    total = b.emit(over, [b.pointwise([x], [pointwise.op("replace_nan", pointwise.IN0)])], torch.float32)
    if b.name == "nanmean":
        known = elementwise(b, "eq", [x, x], torch.bool)
        total = pointwise.binary(b, "div", total, b.emit(over, [as_dtype(b, known, torch.float32)]))
    return as_dtype(b, total, b.dtype)


# -- entries by index


def _check_indices(*indices: Value) -> None:
    if any(value.dtype not in INDICES for value in indices):
        raise Declined("an index that is no int64 or int32")


def by_index(b: Emitter, x: Value, indices: list[Value], dim: int, wraps: bool, name: str) -> Value:
    """The entries of ``x`` at ``indices`` along the axes from ``dim`` on."""
    _check_indices(*indices)
    return b.emit(Index(dim, wraps, name), [x, *indices])


@builds_elements("embedding")
def embedding(b: Emitter, weight: Value, indices: Value, *ignored: Any, **named: Any) -> Built:
    return by_index(b, weight, [indices], 0, False, "embedding")


@builds_elements("index_select")
def index_select(b: Emitter, x: Value, dim: int, index: Value) -> Built:
    return by_index(b, x, [b.reshape(index, (math.prod(index.shape),))], axis(dim, len(x.shape)), False, "index_select")


@builds_elements("index")
def index(b: Emitter, x: Value, indices: Sequence[Value | None]) -> Built:
    places = [place for place, value in enumerate(indices) if value is not None]
    if places != list(range(places[0], places[-1] + 1)):
        raise Declined("indices along axes that are no neighbours")
    return by_index(b, x, [value for value in indices if value is not None], places[0], True, "index")


@builds_elements("gather")
def gather(b: Emitter, x: Value, dim: int, index: Value, sparse_grad: bool = False) -> Built:
    """Along ``dim`` by ``index``, in the other axes where the entry itself is."""
    if not x.shape or len(index.shape) != len(x.shape):
        raise Declined("a gather of a single number")
    _check_indices(index)
    return b.emit(Index(axis(dim, len(x.shape)), False, "gather"), [x, index])


def _copied_by_index(b: Emitter, x: Value, indices: Value, source: Value, dim: int, wraps: bool) -> Value:
    """``x`` with ``source``, which is broadcast, at ``indices`` along ``dim``."""
    _check_indices(indices)
    if len(indices.shape) != 1:
        raise Declined("a write by indices of other axes than one")
    shape = (*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :])
    if source.dtype != x.dtype or source.shape != shape:
        raise Declined(f"a write of {source} where {list(shape)} lie")
    return b.emit(IndexCopy(dim, wraps), [x, indices, source], x.dtype)


@builds_elements("index_copy")
def index_copy(b: Emitter, x: Value, dim: int, index: Value, source: Value) -> Built:
    if not x.shape:
        raise Declined("an index_copy of a single number")
    return _copied_by_index(b, x, b.reshape(index, (math.prod(index.shape),)), source, axis(dim, len(x.shape)), False)


@builds_elements("index_put", "_unsafe_index_put")
def index_put(b: Emitter, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False) -> Built:
    places = [place for place, value in enumerate(indices) if value is not None]
    if len(places) != 1 or accumulate:
        raise Declined("an index_put that adds, or along several axes")
    index = indices[places[0]]
    assert index is not None
    return _copied_by_index(b, x, index, values, places[0], True)


# -- order


def _with_places(b: Emitter, op: Operator, x: Value) -> list[Value | None]:
    made = b.emit(op, [x])
    assert made.producer is not None
    return [*made.producer.outputs]


def _ordered(b: Emitter, x: Value, k: int | None, dim: int, largest: bool, in_order: bool = True) -> list[Value | None]:
    dim = axis(dim, len(x.shape))
    if not x.shape:
        raise Declined(f"{b.name} of a single number")
    return _with_places(b, Topk(dim, x.shape[dim] if k is None else k, largest, in_order), x)


@builds_elements("topk")
def topk(b: Emitter, x: Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Built:
    return _ordered(b, x, k, dim, largest, sorted)


# Entries along an axis, below which torch's kernel finds the k-th faster.
_FEW = 32


def _kth(b: Emitter, x: Value, k: int, dim: int) -> list[Value]:
    """The ``k``-th least along ``dim``, from 1, and its place. NaN is above all numbers."""
    if not x.shape or x.shape[dim] < _FEW:
        raise Declined(f"{b.name} of few entries, which torch's kernel is faster for")
    from_end = x.shape[dim] - k + 1
    count = min(k, from_end)
    found = _ordered(b, x, count, dim, largest=from_end < k)
    return [b.reshape(part(b, value, dim, count - 1, 1), b.shape) for value in found if value is not None]


@builds_elements("kthvalue")
def kthvalue(b: Emitter, x: Value, k: int, dim: int = -1, keepdim: bool = False) -> Built:
    return [*_kth(b, x, k, axis(dim, len(x.shape)))]


@builds_elements("median")
def median(b: Emitter, x: Value, dim: int | None = None, keepdim: bool = False) -> Built:
    """The lower one of two. Where there is a NaN, the first one."""
    if dim is None:
        x, dim = b.reshape(x, (x.numel,)), 0
        only = True
    else:
        only = False
    dim = axis(dim, len(x.shape))
    found = _kth(b, x, (x.shape[dim] + 1) // 2, dim)
    if x.dtype in FLOATS:
        above, at = (aggregate(b, kind, x, (dim,), dtype) for kind, dtype in (("amax", x.dtype), ("argmax", torch.int64)))
        spoiled = elementwise(b, "ne", [above, above], torch.bool)
        found = [elementwise(b, "where", [spoiled, *pair], pair[0].dtype) for pair in zip((above, at), found, strict=True)]
    return found[0] if only else [*found]


@builds_elements("sort")
def sort(b: Emitter, x: Value, dim: int = -1, descending: bool = False, stable: bool | None = False) -> Built:
    return _ordered(b, x, None, dim, descending)


@builds_elements("argsort")
def argsort(b: Emitter, x: Value, dim: int = -1, descending: bool = False, stable: bool = False) -> Built:
    return _ordered(b, x, None, dim, descending)[1]  # type: ignore[return-value]


@builds_elements("msort")
def msort(b: Emitter, x: Value) -> Built:
    return _ordered(b, x, None, 0, False)[0]  # type: ignore[return-value]

"""Reductions and softmax."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from drystone.graph.builders.registry import Built, Declined, Emitter, axis, builds
from drystone.graph.graph import Value
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Reduce, Softmax


def _reduce(b: Emitter, kind: str, x: Value, dim: int | Iterable[int] | None, keepdim: bool, dtype: torch.dtype | None) -> Value:
    if dtype is not None and dtype != x.dtype:
        raise Declined("a reduction into another dtype")
    rank = len(x.shape)
    listed = [dim] if isinstance(dim, int) else list(dim or [])
    dims = tuple(sorted(axis(d, rank) for d in listed)) or tuple(range(rank))
    if not rank:
        return x
    return b.emit(Reduce(kind, dims, keepdim), [x])


def _reduction(kind: str) -> None:
    @builds(f"{kind}.dim", f"{kind}.dim_IntList")
    def along(b: Emitter, x: Value, dim: Iterable[int] | None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Built:
        return _reduce(b, kind, x, dim, keepdim, dtype)

    @builds(f"{kind}.default")
    def whole(b: Emitter, x: Value, dtype: torch.dtype | None = None) -> Built:
        return _reduce(b, kind, x, None, False, dtype)


_reduction("mean")
_reduction("sum")


@builds("linalg_vector_norm")
def vector_norm(
    b: Emitter,
    x: Value,
    ord: float = 2,
    dim: int | Iterable[int] | None = None,
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> Built:
    """Of order 2 or 1: the root of the sum of squares, or the sum of magnitudes."""
    if ord not in (1, 2) or not x.shape:
        raise Declined(f"a norm of order {ord}")
    parts = b.pointwise([x], [PointwiseOp("square" if ord == 2 else "abs", (("in", 0),))])
    total = _reduce(b, "sum", parts, dim, keepdim, dtype)
    return b.pointwise([total], [PointwiseOp("sqrt", (("in", 0),))]) if ord == 2 else total


@builds("softmax.int")
def softmax(b: Emitter, x: Value, dim: int, dtype: torch.dtype | None = None) -> Built:
    if dtype is not None and dtype != x.dtype:
        raise Declined("a softmax into another dtype")
    if not x.shape:
        raise Declined("a softmax of a single number")
    return b.emit(Softmax(axis(dim, len(x.shape))), [x])


@builds("_softmax")
def raw_softmax(b: Emitter, x: Value, dim: int, half_to_float: bool) -> Built:
    return softmax(b, x, dim, torch.float32 if half_to_float else None)

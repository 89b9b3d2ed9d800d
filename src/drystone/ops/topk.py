"""The largest or smallest elements along an axis."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from drystone.ops.define import operator


class TopK(NamedTuple):
    """What ``topk`` gives, under torch's names."""

    values: Tensor
    indices: Tensor


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    self, _, dim, _, _ = inputs
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.dim, ctx.sizes = dim, self.shape


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
    (indices,) = ctx.saved_tensors
    return torch.ops.aten.value_selecting_reduction_backward(gradient, ctx.dim, indices, ctx.sizes, True), None, None, None, None


_topk = operator("topk", _setup_context, _backward)


def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> TopK:
    """``torch.topk``: the ``k`` largest or smallest elements along ``dim``, best first.

    NaN is the largest value, and 0.0 equals -0.0. Of equal elements those with the lowest index are chosen, and come first; where
    torch's own kernel runs (on complex, bool and empty tensors, say) they are torch's choice.

    The ``k``-th least of the minima of blocks is a bound that at least ``k`` elements are not above; candidates below it are
    sorted (Alabi, Blanchard, Gordon and Steinbach, "Fast k-selection algorithms for graphics processing units", JEA 2012, compare
    ways of bounding). Larger ``k`` are bounded by a sample (Floyd and Rivest, "Expected time bounds for selection", CACM 1975).

    Args:
        input: of any shape and strides; float64, float32, float16, bfloat16, int64, int32, int16, int8 or uint8.
        k: at most the size along ``dim``.
        dim: negative ones count from the end.
        largest: or the smallest.
        sorted: results are in order in any case.

    Returns:
        ``values``, of the shape of ``input`` with ``k`` along ``dim`` and its dtype, and their ``indices`` along ``dim``, int64.

    Raises:
        RuntimeError: ``k`` is out of range.
        IndexError: ``dim`` is out of range.
    """
    return TopK(*_topk(input, k, dim, largest, sorted))

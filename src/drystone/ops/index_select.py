"""Entries along an axis, gathered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drystone.ops.define import operator


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensor, dim, index = inputs
    ctx.save_for_backward(index)
    ctx.shape, ctx.dim = tensor.shape, dim


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    (index,) = ctx.saved_tensors
    return torch.ops.aten.index_select_backward(gradient, ctx.shape, ctx.dim, index), None, None


_index_select = operator("index_select", _setup_context, _backward)


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """``torch.index_select``.

    Args:
        input: of any shape, strides and dtype.
        dim: negative ones count from the end.
        index: (n,), int64 or int32: places along ``dim``.

    Returns:
        ``input`` with n entries along ``dim``, dense.

    Raises:
        IndexError: an index is not within the axis, or there is no axis ``dim``.
        RuntimeError: as torch raises it for an index along another axis than the first.
    """
    return _index_select(input, dim, index)

"""Tensors joined along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drystone.ops.define import operator


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors, dim = inputs
    # An empty tensor of one axis may stand among tensors of more.
    skipped = [tensor.shape == (0,) for tensor in tensors]
    ctx.dim = dim
    ctx.skipped = skipped
    ctx.sizes = [0 if skip else tensor.shape[dim] for tensor, skip in zip(tensors, skipped, strict=True)]


def _backward(ctx: Any, gradient: Tensor) -> tuple[list[Tensor], None]:
    parts = torch.split(gradient, ctx.sizes, ctx.dim)
    return [part.new_zeros(0) if skip else part for part, skip in zip(parts, ctx.skipped, strict=True)], None


_cat = operator("cat", _setup_context, _backward)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``torch.cat``: the tensors one after the other along an axis that they have.

    Args:
        tensors: of one shape but for ``dim``, of any strides; one at least. Their dtypes are promoted.
        dim: negative ones count from the end.

    Returns:
        A tensor whose size along ``dim`` is the sum of theirs; channels last where all of them are.

    Raises:
        RuntimeError: the list is empty, or the shapes do not match.
        IndexError: there is no axis ``dim``.
    """
    return _cat(list(tensors), dim)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``torch.stack``: the tensors one after the other along a new axis.

    Args:
        tensors: of one shape, of any strides; one at least. Their dtypes are promoted.
        dim: the new axis of the result; negative ones count from its end.

    Returns:
        A tensor with an axis more, of size ``len(tensors)``.

    Raises:
        RuntimeError: the list is empty, or the shapes differ.
        IndexError: the result has no axis ``dim``.
    """
    if any(tensor.shape != tensors[0].shape for tensor in tensors):
        raise RuntimeError(f"stack needs tensors of one shape, not {', '.join(str(tuple(tensor.shape)) for tensor in tensors)}")
    return cat([tensor.unsqueeze(dim) for tensor in tensors], dim)

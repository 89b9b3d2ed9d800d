"""Rows of a table, gathered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drystone.ops.define import operator


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, indices, padding_idx, scale_grad_by_freq, sparse = inputs
    ctx.save_for_backward(indices)
    ctx.arguments = weight.shape[0], padding_idx, scale_grad_by_freq, sparse


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
    (indices,) = ctx.saved_tensors
    return torch.ops.aten.embedding_backward(gradient, indices, *ctx.arguments), None, None, None, None


_embedding = operator("embedding", _setup_context, _backward)


def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Tensor:
    """``torch.nn.functional.embedding`` without ``max_norm``.

    Args:
        input: indices of rows, int64 or int32, of any shape.
        weight: (rows, width), of any dtype.
        padding_idx: the row that takes no gradient; negative ones count from the end.
        scale_grad_by_freq: gradients are divided by how often their row occurs.
        sparse: the gradient of ``weight`` is a sparse tensor.

    Returns:
        ``(*input.shape, width)``, of the dtype of ``weight``.

    Raises:
        IndexError: an index is not within the table.
    """
    if padding_idx is None:
        padding_idx = -1
    elif padding_idx < 0:
        padding_idx += weight.shape[0]
    return _embedding(weight, input, padding_idx, scale_grad_by_freq, sparse)

"""Sums, means and maxima of rows of a table."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from drystone.ops.define import operator

MODES = {"sum": 0, "mean": 1, "max": 2}


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    weight, indices, offsets, by_frequency, mode, sparse, per_sample_weights, _, padding_idx = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(weight, indices, offsets, per_sample_weights, *output[1:])
    ctx.arguments = by_frequency, mode, sparse, padding_idx


def _backward(ctx: Any, gradient: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    weight, indices, offsets, per_sample_weights, bag_of, sizes, places = ctx.saved_tensors
    by_frequency, mode, sparse, padding_idx = ctx.arguments
    own = torch.ops.aten._embedding_bag_backward(
        gradient,
        indices,
        offsets,
        bag_of,
        sizes,
        places,
        weight.shape[0],
        by_frequency,
        mode,
        sparse,
        per_sample_weights,
        padding_idx,
    )
    of_samples = None
    if per_sample_weights is not None and ctx.needs_input_grad[6]:
        of_samples = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            gradient, weight, indices, offsets, bag_of, mode, padding_idx
        )
    return own, None, None, None, None, None, of_samples, None, None


_embedding_bag = operator("_embedding_bag", _setup_context, _backward)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    scale_grad_by_freq: bool = False,
    mode: Literal["sum", "mean", "max"] = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """``torch.nn.functional.embedding_bag`` without ``max_norm``.

    Args:
        input: (n,), or (bags, n) for bags of one length; int64 or int32.
        weight: (rows, width), of float32, bfloat16, float16 or float64.
        offsets: (bags,), where each bag begins in ``input``; None with an ``input`` of two dimensions.
        scale_grad_by_freq: as torch has it.
        mode: what becomes of a bag's rows.
        sparse: the gradient of ``weight`` is a sparse tensor.
        per_sample_weights: of the shape of ``input`` and the dtype of ``weight``; for sums.
        include_last_offset: ``offsets`` has one element more, the end of the last bag.
        padding_idx: an index that counts as none; negative ones count from the end.

    Returns:
        (bags, width), of the dtype of ``weight``; zeros for a bag without indices.

    Raises:
        ValueError: ``input`` and ``offsets`` do not go together.
        RuntimeError: an index is not within the table, or the offsets are not within ``input``.
    """
    if (input.ndim == 2) != (offsets is None):
        raise ValueError("offsets go with an input of one dimension, and bags of one length are an input of two")
    if offsets is None:
        offsets = torch.arange(0, input.numel(), input.shape[1], dtype=input.dtype, device=input.device)
    if per_sample_weights is not None:
        per_sample_weights = per_sample_weights.reshape(-1)
    if padding_idx is None:
        padding_idx = -1
    elif padding_idx < 0:
        padding_idx += weight.shape[0]
    arguments = (scale_grad_by_freq, MODES[mode], sparse, per_sample_weights, include_last_offset, padding_idx)
    return _embedding_bag(weight, input.reshape(-1), offsets.contiguous(), *arguments)[0]

"""Normalisation of channels: over a batch, and of each image by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drystone.ops.define import operator


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, _, running_mean, running_var, ctx.training, _, ctx.eps = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, weight, running_mean, running_var, *output[1:])


def _backward(ctx: Any, gradient: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    needed = [ctx.needs_input_grad[i] for i in range(3)]
    gradients = torch.ops.aten.native_batch_norm_backward(gradient, *ctx.saved_tensors, ctx.training, ctx.eps, needed)
    return (*gradients, *(None,) * 5)


_batch_norm = operator("native_batch_norm", _setup_context, _backward)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm``: ours in training, of contiguous float32 tensors; torch's otherwise.

    Statistics of pieces that stay in the first level cache, about their own means, are put together in float64.

    Args:
        input: (N, C, ...).
        running_mean, running_var: (C), which training brings up to date; what is used otherwise.
        weight, bias: (C), or None.
        training: mean and variance are those of ``input``.
        momentum: of the new mean and variance in the running ones.
        eps: added to the variance.

    Raises:
        RuntimeError: the shapes do not fit.
    """
    return _batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)[0]


def instance_norm(input: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """``torch.nn.functional.instance_norm`` without running statistics: each channel of each image by itself, as ``batch_norm``.

    Args:
        input: (N, C, ...).
        weight, bias: (C), or None.
        eps: added to the variance.

    Returns:
        A contiguous tensor.

    Raises:
        RuntimeError: the shapes do not fit.
    """
    images, channels = input.shape[:2]
    weight, bias = (None if parameter is None else parameter.repeat(images) for parameter in (weight, bias))
    one_image = input.reshape(1, images * channels, *input.shape[2:])
    return batch_norm(one_image, None, None, weight, bias, training=True, eps=eps).view(input.shape)

"""softmax and layer norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drystone.ops.define import operator


def _keep_softmax(ctx: Any, inputs: tuple[Tensor, int, bool], output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.dim, ctx.dtype = inputs[1], inputs[0].dtype


def _softmax_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return torch.ops.aten._softmax_backward_data(gradient, *ctx.saved_tensors, ctx.dim, ctx.dtype), None, None


def _keep_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, ctx.shape, weight, bias, _ = inputs
    ctx.save_for_backward(x, *output[1:], weight, bias)


def _norm_backward(ctx: Any, gradient: Tensor, *of_statistics: Tensor) -> tuple[Tensor | None, ...]:
    x, means, deviations, weight, bias = ctx.saved_tensors
    needed = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
    of_x, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
        gradient, x, ctx.shape, means, deviations, weight, bias, needed
    )
    return of_x, None, of_weight, of_bias, None


_softmax = operator("_softmax", _keep_softmax, _softmax_backward)
_layer_norm = operator("native_layer_norm", _keep_norm, _norm_backward)


def softmax(input: Tensor, dim: int) -> Tensor:
    """``torch.softmax`` without a dtype of its own.

    Ours where ``dim`` is not the last axis of a contiguous float32 tensor of up to five axes; torch's otherwise.

    Raises:
        IndexError: ``input`` has no axis ``dim``.
    """
    return _softmax(input, dim, False)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.layer_norm``: float32 with double totals and corrected sums of squares; other dtypes are torch's.

    Args:
        input: ``(..., *normalized_shape)``.
        normalized_shape: the last axes, over which mean and variance are taken.
        weight, bias: of that shape, or None.
        eps: added to the variance.

    Raises:
        RuntimeError: the shapes do not fit.
    """
    return _layer_norm(input, list(normalized_shape), weight, bias, eps)[0]

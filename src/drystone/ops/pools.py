"""Maxima and means over windows of three axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drystone.ops.define import operator

Sizes = int | Sequence[int]


def _each(sizes: Sizes) -> list[int]:
    return [sizes] if isinstance(sizes, int) else list(sizes)


def _keep_max(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, *ctx.geometry = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, output[1])


def _max_backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor | None, ...]:
    x, indices = ctx.saved_tensors
    own = torch.ops.aten.max_pool3d_with_indices_backward(gradient, x, *ctx.geometry, indices)
    return own, *(None,) * len(ctx.geometry)


def _keep_average(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.geometry = inputs
    ctx.save_for_backward(x)


def _average_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    own = torch.ops.aten.avg_pool3d_backward(gradient, *ctx.saved_tensors, *ctx.geometry)
    return own, *(None,) * len(ctx.geometry)


_max_pool3d = operator("max_pool3d_with_indices", _keep_max, _max_backward)
_avg_pool3d = operator("avg_pool3d", _keep_average, _average_backward)


def max_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``torch.nn.functional.max_pool3d``.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W). Dense ones, plain or channels_last_3d, are ours in float32 and bfloat16.
        kernel_size, stride, padding, dilation: of each axis, or one for all; a stride is as long as its window where left out.
        ceil_mode: windows that reach past the end count.
        return_indices: where the maxima lie as well, int64, counted within the volume of a channel; of equal ones the first.

    Returns:
        The maxima, in the memory format of ``input``; a NaN in a window is its maximum.

    Raises:
        RuntimeError: the sizes do not go together.
    """
    given = [] if stride is None else _each(stride)
    values, indices = _max_pool3d(input, _each(kernel_size), given, _each(padding), _each(dilation), ceil_mode)
    return (values, indices) if return_indices else values


def avg_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """``torch.nn.functional.avg_pool3d``.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W). Dense ones, plain or channels_last_3d, are ours in float32.
        kernel_size, stride, padding: of each axis, or one for all; a stride is as long as its window where left out.
        ceil_mode: windows that reach past the end count.
        count_include_pad: padding counts among the elements of a window.
        divisor_override: what a sum is divided by in place of its number of elements.

    Returns:
        The means, contiguous.

    Raises:
        RuntimeError: the sizes do not go together, or torch has no such dtype.
    """
    given = [] if stride is None else _each(stride)
    return _avg_pool3d(input, _each(kernel_size), given, _each(padding), ceil_mode, count_include_pad, divisor_override)

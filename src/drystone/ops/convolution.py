"""Convolutions over three axes, and transposed ones over one to three."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drystone.ops.define import operator


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, bias, *geometry = inputs
    ctx.save_for_backward(input, weight)
    ctx.bias_sizes = None if bias is None else list(bias.shape)
    ctx.geometry = geometry


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    input, weight = ctx.saved_tensors
    wanted = [bool(need) for need in ctx.needs_input_grad[:3]]
    gradients = torch.ops.aten.convolution_backward(gradient, input, weight, ctx.bias_sizes, *ctx.geometry, wanted)
    return (*gradients, *(None,) * len(ctx.geometry))


_convolution = operator("convolution", _setup_context, _backward)

Sizes = int | Sequence[int]


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.functional.conv3d``, in float32 by kernels on channels_last or blocks of channels.

    Kernels of 3x3x3 and 1x3x3 with stride 1 go by Winograd's method (Lavin and Gray, CVPR 2016) where channels are multiples of 16:
    rounding errors are about 4 times those of a direct convolution.

    Args:
        input: (N, C, D, H, W).
        weight: (O, C / groups, kD, kH, kW).
        bias: (O), or None.
        stride, padding, dilation: of each axis, or one for all. ``padding`` is no name.

    Returns:
        (N, O, …), contiguous where the kernels of drystone ran.

    Raises:
        RuntimeError: the shapes do not fit together.
    """
    return _call(3, input, weight, bias, stride, padding, dilation, False, 0, groups)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """``torch.nn.functional.conv_transpose1d``: input (N, C, L), weight (C, O / groups, k). As ``conv_transpose3d``."""
    return _call(1, input, weight, bias, stride, padding, dilation, True, output_padding, groups)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """``torch.nn.functional.conv_transpose2d``: input (N, C, H, W), weight (C, O / groups, kH, kW). As ``conv_transpose3d``."""
    return _call(2, input, weight, bias, stride, padding, dilation, True, output_padding, groups)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """``torch.nn.functional.conv_transpose3d``, in float32 by kernels on channels_last.

    If the stride is the kernel's size, as one product on plain memory.

    Args:
        input: (N, C, D, H, W).
        weight: (C, O / groups, kD, kH, kW).
        bias: (O), or None.
        stride, padding, output_padding, dilation: of each axis, or one for all.

    Returns:
        (N, O, …), contiguous where the kernels of drystone ran.

    Raises:
        RuntimeError: the shapes do not fit together.
    """
    return _call(3, input, weight, bias, stride, padding, dilation, True, output_padding, groups)


def _call(
    axes: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
) -> Tensor:
    def each(sizes: Sizes) -> list[int]:
        return [sizes] * axes if isinstance(sizes, int) else list(sizes)

    return _convolution(input, weight, bias, each(stride), each(padding), each(dilation), transposed, each(output_padding), groups)

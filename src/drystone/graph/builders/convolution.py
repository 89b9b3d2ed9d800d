"""Convolutions, transposed ones among them, and products with a constant matrix."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from drystone.graph.builders.registry import Built, Declined, Emitter, as_list, builds, scalar
from drystone.graph.graph import Value
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Conv, ConvTranspose, Linear
from drystone.graph.transposed import finishes


@builds("conv1d", "conv2d", "conv3d", "_convolution_mode")
def conv(
    b: Emitter,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: int | Iterable[int] = 1,
    padding: str | int | Iterable[int] = 0,
    dilation: int | Iterable[int] = 1,
    groups: int = 1,
) -> Built:
    spatial = len(weight.shape) - 2
    if len(x.shape) != spatial + 2:
        raise Declined("a convolution of an input without a batch dimension")
    if not weight.is_constant or (bias is not None and not bias.is_constant):
        raise Declined("a convolution whose weight is computed")
    dilation = as_list(dilation, spatial)
    if padding == "same":
        # torch puts the odd one at the end.
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        padding_l = tuple(t // 2 for t in total)
        padding_r = tuple(t - t // 2 for t in total)
    else:
        assert not isinstance(padding, str) or padding == "valid", padding
        padding_l = padding_r = as_list(0 if isinstance(padding, str) else padding, spatial)
    op = Conv(as_list(stride, spatial), padding_l, padding_r, dilation, groups, has_bias=bias is not None)
    return b.emit(op, [x, weight] if bias is None else [x, weight, bias])


@builds("convolution", "_convolution")
def convolution(
    b: Emitter,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Iterable[int],
    padding: Iterable[int],
    dilation: Iterable[int],
    transposed: bool,
    output_padding: Iterable[int],
    groups: int,
    *flags: bool,
) -> Built:
    if transposed:
        return conv_transpose(b, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(b, x, weight, bias, stride, padding, dilation, groups)


@builds("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    b: Emitter,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: int | Iterable[int] = 1,
    padding: int | Iterable[int] = 0,
    output_padding: int | Iterable[int] = 0,
    groups: int = 1,
    dilation: int | Iterable[int] = 1,
) -> Built:
    spatial = len(weight.shape) - 2
    if len(x.shape) != spatial + 2:
        raise Declined("a transposed convolution of an input without a batch dimension")
    if not weight.is_constant or (bias is not None and not bias.is_constant):
        raise Declined("a transposed convolution whose weight is computed")
    stride, padding = as_list(stride, spatial), as_list(padding, spatial)
    more = as_list(output_padding, spatial)
    if any(m >= s for m, s in zip(more, stride, strict=True)):
        raise Declined("a transposed convolution that ends in outputs of no input")
    kernel, dilation = weight.shape[2:], as_list(dilation, spatial)
    weight = _outputs_first(weight, groups)
    reach = tuple(d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True))
    if all(s == 1 for s in stride) and min(reach) >= 0:
        return conv(b, x, _flipped(weight), bias, stride, reach, dilation, groups)
    fused = bias is not None and finishes(groups, weight.shape, stride, b.shape[2:])
    padding_r = tuple(p - m for p, m in zip(padding, more, strict=True))
    op = ConvTranspose(stride, padding, padding_r, dilation, groups, has_bias=fused)
    result = b.emit(op, [x, weight, bias] if bias is not None and fused else [x, weight])
    if bias is None or fused:
        return result
    column = b.constant(bias.constant.reshape(-1, *(1,) * spatial), bias.name)
    return b.pointwise([result, column], [PointwiseOp("add", (("in", 0), ("in", 1)))])


def _outputs_first(weight: Value, groups: int) -> Value:
    """(C, O / groups, *k) as (O, C / groups, *k), as a conv has it: without groups the same memory."""

    def turned() -> torch.Tensor:
        return weight.constant.detach().unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)

    inputs, outputs, *kernel = weight.shape
    shape = (outputs * groups, inputs // groups, *kernel)
    data = weight.constant.transpose(0, 1) if groups == 1 else turned
    return Value(shape, weight.dtype, weight.name, data=data, identity=("outputs first", weight.key, groups))


def _flipped(weight: Value) -> Value:
    """Back to front along the spatial axes."""

    def flipped() -> torch.Tensor:
        return weight.constant.detach().flip(tuple(range(2, len(weight.shape))))

    return Value(weight.shape, weight.dtype, weight.name, data=flipped, identity=("flipped", weight.key))


@builds("linear")
def linear(b: Emitter, x: Value, weight: Value, bias: Value | None = None) -> Built:
    if not weight.is_constant or (bias is not None and not bias.is_constant):
        raise Declined("a linear layer whose weight is computed")
    if len(weight.shape) != 2 or len(x.shape) < 2:
        raise Declined("a linear layer on a vector")
    inputs = [x, weight] if bias is None else [x, weight, bias]
    return b.emit(Linear(has_bias=bias is not None), inputs)


def _transposed(b: Emitter, matrix: Value) -> Value:
    """The constant (K, N) as (N, K): the same memory."""
    if not matrix.is_constant or len(matrix.shape) != 2:
        raise Declined("a product of two computed matrices")
    return b.constant(matrix.constant.t(), matrix.name)


@builds("mm", "matmul")
def matmul(b: Emitter, x: Value, other: Value) -> Built:
    return linear(b, x, _transposed(b, other))


@builds("addmm")
def addmm(b: Emitter, bias: Value, x: Value, other: Value, beta: float = 1, alpha: float = 1) -> Built:
    weight = _transposed(b, other)
    if alpha == 1 and beta == 1 and bias.is_constant and bias.shape == weight.shape[:1]:
        return linear(b, x, weight, bias)
    if (alpha != 1 or beta != 1) and b.dtype is torch.bfloat16:
        raise Declined("a scaled product in bfloat16, which torch rounds once at its end")
    product = linear(b, x, weight)
    assert isinstance(product, Value)
    if beta == 0:  # torch does not look at the bias then, NaN or not
        return b.pointwise([product], [PointwiseOp("affine", (("in", 0),), alpha)])
    number = scalar(bias)
    if number is not None:
        return b.pointwise([product], [PointwiseOp("affine", (("in", 0),), alpha, beta * number)])
    ops = [
        PointwiseOp("affine", (("in", 0),), alpha),
        PointwiseOp("affine", (("in", 1),), beta),
        PointwiseOp("add", (("reg", 0), ("reg", 1))),
    ]
    return b.pointwise([product, bias], ops)

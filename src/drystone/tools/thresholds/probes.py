"""Calls of torch's whose size a threshold decides on: one function of the size a threshold and a way to call.

Sizes other than the probed one are such that their own thresholds let a call through.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Call = Callable[[], object]
#: Makes the call at a size, in the threshold's unit, on operands of its own.
Make = Callable[[int], Call]


@dataclass(frozen=True)
class Probe:
    """``operators``: as ``drystone.enable(only=…)`` takes them."""

    threshold: str
    operators: tuple[str, ...]
    calls: dict[str, Make]
    least: int = 1  # the smallest size that can be called


def _activations() -> dict[str, Make]:
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    }
    return {name: _of_random(function) for name, function in functions.items()}


def _of_random(function: Callable[[Tensor], Tensor], *shape: int) -> Make:
    """``function`` of a random tensor; -1 in its shape is what makes up its elements."""

    def make(size: int) -> Call:
        known = math.prod(axis for axis in shape if axis > 0)
        x = torch.randn([size // known if axis < 0 else axis for axis in shape] or [size])
        return lambda: function(x)

    return make


def _reordered(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


def _batch_norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True)


def _batch_norm_of_pixels(size: int) -> Call:
    x = torch.randn(64, 64, size)
    return lambda: _batch_norm(x)


def _joined(count: int, size: int) -> Call:
    tensors = [torch.randn(size) for _ in range(count)]
    return lambda: torch.cat(tensors)


def _joined_bytes(count: int) -> Make:
    return lambda size: _joined(count, size // 4 // count)


def _joined_columns(count: int) -> Call:
    tensors = [torch.randn(64, 32).t() for _ in range(count)]
    return lambda: torch.cat(tensors)


def _reordered_channels(size: int) -> Call:
    x = torch.randn(1, size, 8, 16, 32)
    return lambda: _reordered(x)


def _convolved(size: int) -> Call:
    x, weight = torch.randn(1, 8, 4, 4, max(1, size // (16 * 8 * 8 * 27))), torch.randn(8, 8, 3, 3, 3)
    return lambda: F.conv3d(x, weight, padding=1)


def _convolved_transposed(size: int) -> Call:
    x, weight = torch.randn(1, 16, 8, max(1, size // (8 * 16 * 16 * 4))), torch.randn(16, 16, 2, 2)
    return lambda: F.conv_transpose2d(x, weight, stride=2)


def _convolution_gradient(channels: int) -> Call:
    x, weight, gradient = torch.randn(2, channels, 8, 32, 32), torch.randn(16, channels, 3, 3, 3), torch.randn(2, 16, 8, 32, 32)
    geometry = [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1
    return lambda: torch.ops.aten.convolution_backward(gradient, x, weight, None, *geometry, [True, False, False])


def _rows(count: int, of: int) -> Tensor:
    return torch.randint(0, of, (count,), generator=torch.Generator().manual_seed(0))


def _looked_up(width: int) -> Make:
    def make(size: int) -> Call:
        table, rows = torch.randn(1000, width), _rows(size // (4 * width), 1000)
        return lambda: F.embedding(rows, table)

    return make


def _selected(size: int) -> Call:
    table, rows = torch.randn(1000, 64), _rows(size // 256, 1000)
    return lambda: torch.index_select(table, 0, rows)


def _embedding_gradient(size: int) -> Call:
    count = size // 128
    gradient, rows = torch.randn(count, 16), _rows(count, count)
    return lambda: torch.ops.aten.embedding_dense_backward(gradient, rows, count, -1, False)


def _bags(mode: str) -> Make:
    def make(size: int) -> Call:
        count = size // 256
        table, rows, offsets = torch.randn(1000, 64), _rows(count, 1000), torch.arange(0, count, 8)
        padding = 1 if mode == "sum" else None
        return lambda: F.embedding_bag(rows, table, offsets, mode=mode, padding_idx=padding)

    return make


def _bags_gradient(size: int) -> Call:
    count = size // 128
    table, rows, offsets = torch.randn(count, 16), _rows(count, count), torch.arange(0, count, 8)
    result, *places = torch.ops.aten._embedding_bag(table, rows, offsets, False, 1)
    gradient = torch.randn_like(result)
    return lambda: torch.ops.aten._embedding_bag_dense_backward(gradient, rows, *places, count, False, 1, None)


def _layer_norm(width: int) -> Make:
    return _of_random(lambda x: F.layer_norm(x, (width,)), -1, width)


def _product(rows: int, transposed: bool) -> Make:
    def make(size: int) -> Call:
        depth = max(128, math.isqrt(size)) if transposed else math.isqrt(size)
        x, matrix = torch.randn(rows, depth), torch.randn(depth, math.ceil(size / depth))
        if transposed:
            matrix = matrix.t().contiguous().t()
        return lambda: torch.mm(x, matrix)

    return make


def _product_of_depth(depth: int) -> Call:
    x, matrix = torch.randn(8, depth), torch.randn(4096, depth).t()
    return lambda: torch.mm(x, matrix)


def _maxima(x: Tensor) -> Tensor:
    return F.max_pool3d(x, 2)


def _means(x: Tensor) -> Tensor:
    return F.avg_pool3d(x, 2)


def _pooled(function: Callable[[Tensor], Tensor]) -> dict[str, Make]:
    def channels_last(size: int) -> Call:
        x = _reordered(torch.randn(1, 16, 2, 4, size // 128))
        return lambda: function(x)

    return {"plain": _of_random(function, 1, 2, 2, 4, -1), "channels_last": channels_last}


def _pooled_columns(function: Callable[[Tensor], Tensor]) -> Make:
    def make(size: int) -> Call:
        x = torch.randn(1, 16, 8, 16, 2 * size)
        return lambda: function(x)

    return make


def _ranked(k: int) -> Make:
    def make(size: int) -> Call:
        x = torch.randn(16, size)
        return lambda: torch.topk(x, min(k, size))

    return make


PROBES = {
    probe.threshold: probe
    for probe in (
        Probe("activation_elements", ("tanh", "sigmoid", "silu", "gelu"), _activations()),
        Probe(
            "batch_norm_elements",
            ("batch_norm",),
            {"one image": _of_random(_batch_norm, 1, 4, -1), "four": _of_random(_batch_norm, 4, 4, -1)},
            least=256,
        ),
        Probe("batch_norm_pixels", ("batch_norm",), {"training": _batch_norm_of_pixels}),
        Probe("cat_bytes", ("cat",), {"2 tensors": _joined_bytes(2), "8 tensors": _joined_bytes(8)}, 64),
        Probe("cat_tensors", ("cat",), {"short": lambda size: _joined(size, 2)}, 2),
        Probe("cat_strided_tensors", ("cat",), {"columns": _joined_columns}, 2),
        Probe("clone_elements", ("clone",), {"into channels_last_3d": _of_random(_reordered, 1, 16, 2, 2, -1)}, 128),
        Probe("clone_channels", ("clone",), {"into channels_last_3d": _reordered_channels}, 2),
        Probe("convolution_products", ("convolution",), {"3-D": _convolved, "transposed": _convolved_transposed}, 1 << 18),
        Probe("convolution_gradient_channels", ("convolution",), {"of x": _convolution_gradient}),
        Probe("embedding_bytes", ("embedding",), {f"rows of {width}": _looked_up(width) for width in (64, 256)}, 1024),
        Probe("embedding_gradient_bytes", ("embedding",), {"rows of 16": _embedding_gradient}, 128),
        Probe("embedding_bag_bytes", ("embedding_bag",), {mode: _bags(mode) for mode in ("sum", "mean", "max")}, 256),
        Probe("embedding_bag_gradient_bytes", ("embedding_bag",), {"mean": _bags_gradient}, 128),
        Probe("index_select_bytes", ("index_select",), {"rows of 64": _selected}, 256),
        Probe("layer_norm_elements", ("layer_norm",), {f"rows of {width}": _layer_norm(width) for width in (64, 256)}, 256),
        Probe("mm_elements", ("mm",), {"plain": _product(8, False), "transposed": _product(8, True)}, 128),
        Probe("mm_elements_of_one_row", ("mm",), {"plain": _product(1, False), "transposed": _product(1, True)}, 128),
        Probe("mm_transposed_depth", ("mm",), {"8 rows": _product_of_depth}, 8),
        Probe("pool_elements", ("max_pool3d",), _pooled(_maxima), 256),
        Probe("pool_columns", ("max_pool3d", "avg_pool3d"), {"max": _pooled_columns(_maxima), "mean": _pooled_columns(_means)}),
        Probe("softmax_elements", ("softmax",), {"64 columns": _of_random(lambda x: x.softmax(0), -1, 64)}, 128),
        Probe("topk_count", ("topk",), {f"k = {k}": _ranked(k) for k in (1, 5)}, 2),
        Probe("activation_shared_elements", ("tanh", "gelu"), {"tanh": _of_random(torch.tanh), "gelu": _of_random(F.gelu)}),
        Probe("shared_bytes", ("embedding",), {"rows of 64": _looked_up(64)}, 256),
        Probe("streamed_bytes", ("embedding",), {"rows of 64": _looked_up(64)}, 256),
    )
}

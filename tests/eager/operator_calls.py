"""A call of each operator that ``drystone.enable()`` replaces, large enough for our kernels, and what it gives with and without them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree

import drystone
from agreement import FLOAT32_LIMIT, relative_error

Function = Callable[[torch.Tensor], Any]

_generator = torch.Generator().manual_seed(7)
_which = torch.randint(0, 300, (400,), generator=_generator)
_offsets = torch.arange(0, 400, 10)
_weight, _turned = (torch.randn(*shape, 3, 3, 3, generator=_generator) for shape in ((16, 8), (8, 16)))
_square = torch.randn(300, 300, generator=_generator)
_wide = torch.randn(32, 16, 3, 3, 3, generator=_generator)
_MATRIX, _VOLUMES = (64, 300), (2, 8, 10, 12, 14)

# (a function of one tensor, the shape of that tensor). Of topk the values: of equal ones, ours are the first and torch's are any.
CALLS: dict[str, tuple[Function, tuple[int, ...]]] = {
    "topk": (lambda x: torch.topk(x, 5).values, _MATRIX),
    "topk of columns": (lambda x: torch.topk(x, 5, 0).values, _MATRIX),
    "cat": (lambda x: torch.cat([x, x, x], 0), _MATRIX),
    "cat of columns": (lambda x: torch.cat([x, x, x], 1), _MATRIX),
    "stack": (lambda x: torch.stack([x, x, x], 1), _MATRIX),
    "embedding": (lambda x: F.embedding(_which, x), (300, 64)),
    "embedding_bag, mean": (lambda x: F.embedding_bag(_which, x, _offsets, mode="mean"), (300, 64)),
    "embedding_bag, max": (lambda x: F.embedding_bag(_which, x, _offsets, mode="max"), (300, 64)),
    "embedding_bag, sum": (lambda x: F.embedding_bag(_which, x, _offsets, mode="sum", padding_idx=3), (300, 64)),
    "index_select": (lambda x: torch.index_select(x, 0, _which), (300, 64)),
    "tanh": (torch.tanh, _MATRIX),
    "sigmoid": (torch.sigmoid, _MATRIX),
    "silu": (F.silu, _MATRIX),
    "gelu": (F.gelu, _MATRIX),
    "gelu, tanh": (lambda x: F.gelu(x, approximate="tanh"), _MATRIX),
    "softmax": (lambda x: torch.softmax(x, 0), _MATRIX),
    "mm": (lambda x: x.mm(_square.to(x.dtype)), _MATRIX),
    "mm, transposed": (lambda x: x.mm(_square.to(x.dtype).t()), _MATRIX),
    "layer_norm": (lambda x: F.layer_norm(x, x.shape[-1:]), _MATRIX),
    "max_pool3d": (lambda x: F.max_pool3d(x, 3, 2, 1), _VOLUMES),
    "max_pool3d, places": (lambda x: F.max_pool3d(x, 3, 2, 1, return_indices=True)[1], _VOLUMES),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, 3, 2, 1), _VOLUMES),
    # Where x is one number, a norm by itself is nothing but torch's rounding errors.
    "batch_norm": (lambda x: x + F.batch_norm(x, None, None, training=True), _VOLUMES),
    "instance_norm": (lambda x: x + F.instance_norm(x), _VOLUMES),
    "clone": (lambda x: x.clone(memory_format=torch.channels_last_3d), _VOLUMES),
    "contiguous": (lambda x: x.contiguous(), _VOLUMES),
    "conv3d": (lambda x: F.conv3d(x, _weight.to(x.dtype), padding=1), _VOLUMES),
    "conv3d of many channels": (lambda x: F.conv3d(x, _wide.to(x.dtype), padding=1), (2, 16, 10, 16, 16)),
    "conv_transpose3d": (lambda x: F.conv_transpose3d(x, _turned.to(x.dtype), padding=1), _VOLUMES),
    "conv_transpose2d": (lambda x: F.conv_transpose2d(x, _turned[:, :, 0].to(x.dtype), padding=1), (2, 8, 40, 40)),
    "conv_transpose1d": (lambda x: F.conv_transpose1d(x, _turned[:, :, 0, 0].to(x.dtype), padding=1), (2, 8, 4000)),
}


# As PyTorch's own samples of operators are called, of those that ours compute.
_TENSORS = "cat stack hstack vstack dstack column_stack index_select topk mm matmul tanh sigmoid softmax clone contiguous"
_FUNCTIONS = (
    "embedding embedding_bag silu gelu layer_norm conv1d conv2d conv3d max_pool3d avg_pool3d batch_norm instance_norm linear "
    "conv_transpose1d conv_transpose2d conv_transpose3d"
)
NAMES = {*_TENSORS.split(), *(f"nn.functional.{name}" for name in _FUNCTIONS.split()), "native_layer_norm", "native_batch_norm"}


def operand(name: str) -> torch.Tensor:
    """The same numbers at each call, no two of them equal in a row."""
    return torch.randn(CALLS[name][1], generator=torch.Generator().manual_seed(1))


@dataclass
class Outcome:
    tensors: list[torch.Tensor]
    error: tuple[type, str] | None = None


def outcome(call: Callable[[], Any]) -> Outcome:
    try:
        result = call()
    except Exception:
        return Outcome([], _error_of(call))
    return Outcome([leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)])


def _error_of(call: Callable[[], Any]) -> tuple[type, str] | None:
    """The error of one thread: torch's race for which of several it is. And for which wrong index, where some are torch's own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        call()
    except Exception as error:
        return type(error), re.sub(r"\d+", "N", str(error).split("\n")[0])
    finally:
        torch.set_num_threads(threads)
    return None


def agree(call: Callable[[], Any], exactly: bool = False) -> Outcome:
    """The call's results, and what kind of tensors they are, or its error, are the same with ``drystone.enable()`` and without."""
    stock = outcome(call)
    with drystone.enabled():
        ours = outcome(call)
    assert ours.error == stock.error
    for got, expected in zip(ours.tensors, stock.tensors, strict=True):
        assert _kind(got) == _kind(expected)
        if got.device.type == "cpu":
            _agree_in_numbers(got.detach(), expected.detach(), exactly)
    return stock


def _kind(x: torch.Tensor) -> tuple[Any, ...]:
    strides = x.stride() if x.layout == torch.strided else None
    flags = (x.requires_grad, x.is_inference(), x.is_neg(), x.is_conj(), x.is_quantized)
    return (type(x), x.dtype, x.shape, x.layout, x.device, strides, type(x.grad_fn), *flags)


def _agree_in_numbers(got: torch.Tensor, expected: torch.Tensor, exactly: bool) -> None:
    got, expected = (
        x.dequantize() if x.is_quantized else x.to_dense() if x.layout != torch.strided else x for x in (got, expected)
    )
    if got.is_complex():
        got, expected = torch.view_as_real(got.resolve_conj()), torch.view_as_real(expected.resolve_conj())
    if got.dtype == torch.float8_e4m3fn:  # which is moved, but not computed with
        got, expected = got.view(torch.uint8), expected.view(torch.uint8)
    exact = not got.is_floating_point()
    limit = 0 if exact or exactly else max(FLOAT32_LIMIT, torch.finfo(got.dtype).eps)
    if not exact:
        assert torch.equal(got.isnan(), expected.isnan()) and torch.equal(got.isinf(), expected.isinf())
        got, expected = (x.double().nan_to_num(0, 0, 0) for x in (got, expected))
    assert relative_error(got, expected) <= limit

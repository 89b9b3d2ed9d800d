"""Which formats a value can lie in, and the descriptors of the native side.

A format is named by a string: ``"plain"`` (row-major), ``"channels_last"``, ``"blocked16"``, ``"blocked8"``. ``native.FORMATS`` has
the order of its axes and its block of channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from drystone import native
from drystone.errors import UnsupportedError
from drystone.graph.graph import Value

PLAIN = "plain"
CHANNELS_LAST = "channels_last"

# What only torch computes with, complex numbers among it, is moved as integers of its size.
_INTEGERS = {1: native.DType.u8, 2: native.DType.s16, 4: native.DType.s32, 8: native.DType.s64}


def formats_of(value: Value) -> tuple[str, ...]:
    """The formats in which ``value`` may lie, the ones that are never worth it left out.

    Of blocks, those that fill a vector; smaller ones where they hold the channels that would be left over. Products of codes have
    none.
    """
    if len(value.shape) not in (3, 4, 5):
        return (PLAIN,)
    if value.quantisation is not None:
        return (PLAIN, CHANNELS_LAST)
    if not value.dtype.is_floating_point:
        return (PLAIN,)
    vector = native.blocked().block
    return tuple(
        name for name, format in native.FORMATS.items() if format.block in (1, vector) or value.shape[1] % vector == format.block
    )


def block_of(format: str, dim: int = 1) -> int:
    """How many neighbours along ``dim`` lie together: channels in a block, 1 for other axes and formats."""
    return native.FORMATS[format].block if dim == 1 else 1


@lru_cache(maxsize=65536)
def _dense(dtype: native.DType, format: str, shape: tuple[int, ...], scale: float = 1.0, zero_point: int = 0) -> native.TensorDesc:
    return native.TensorDesc.dense(dtype, native.FORMATS[format], list(shape), scale, zero_point)


def _moved_as(dtype: torch.dtype) -> native.DType:
    kind = native.DTYPES.get(dtype, _INTEGERS.get(dtype.itemsize))
    if kind is None:
        raise UnsupportedError(f"{dtype} is too wide for a graph; compute it outside the model, or in a narrower dtype")
    return kind


def dense(value: Value, format: str) -> native.TensorDesc:
    """``value`` in ``format``, densely. Raises ``UnsupportedError`` for a dtype that can't be moved."""
    dtype, codes = _moved_as(value.dtype), value.quantisation
    if codes is None or len(codes.scales) > 1:  # the scales of a weight are its product's
        return _dense(dtype, format, value.shape)
    return _dense(dtype, format, value.shape, codes.scale, codes.zero_point)


def seen_as(desc: native.TensorDesc, shape: Sequence[int], strides: Sequence[int], format: str = "") -> native.TensorDesc:
    """The same numbers with other axes. ``format``: the desc's own unless said."""
    named = native.FORMATS[format] if format else desc.format
    return native.TensorDesc(desc.dtype, named, list(shape), list(strides), desc.scale, desc.zero_point)


def densely(desc: native.TensorDesc, shape: Sequence[int], format: str = "") -> native.TensorDesc:
    """``seen_as``, without holes."""
    named = native.FORMATS[format] if format else desc.format
    return native.TensorDesc.dense(desc.dtype, named, list(shape), desc.scale, desc.zero_point)


def quantised(desc: native.TensorDesc) -> bool:
    """Whether it describes codes."""
    return desc.dtype in (native.DType.s8, native.DType.u8)


def same_memory(value: Value, a: str, b: str) -> bool:
    """Whether a reorder of ``value`` between the two formats would change no byte."""
    return a == b or dense(value, a).same_memory(dense(value, b))

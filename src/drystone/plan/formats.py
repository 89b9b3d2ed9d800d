"""Which formats a value can lie in, and the descriptors of the native side.

A format is named by a string: ``"plain"`` (row-major), ``"channels_last"``, ``"blocked16"``, ``"blocked8"``.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from drystone import native
from drystone.errors import UnsupportedError
from drystone.graph.graph import Value

PLAIN = "plain"
CHANNELS_LAST = "channels_last"
BLOCK = {"blocked16": 16, "blocked8": 8}

# What only torch computes with, complex numbers among it, is moved as integers of its size.
_INTEGERS = {1: native.DType.u8, 2: native.DType.s16, 4: native.DType.s32, 8: native.DType.s64}


def formats_of(value: Value) -> tuple[str, ...]:
    """The formats in which ``value`` may lie, the ones that are never worth it left out.

    Blocks of 16 floats fill an AVX-512 register, blocks of 8 an AVX2 register. With AVX-512, blocks of 8 are for channels
    that would leave half of a block of 16 empty.
    """
    if len(value.shape) not in (3, 4, 5) or not value.dtype.is_floating_point:
        return (PLAIN,)
    if native.isa() == "avx2":
        return (PLAIN, CHANNELS_LAST, "blocked8")
    eights = ("blocked8",) if value.shape[1] % 16 == 8 else ()
    return (PLAIN, CHANNELS_LAST, "blocked16", *eights)


@lru_cache(maxsize=65536)
def _dense(dtype: native.DType, format: str, shape: tuple[int, ...]) -> native.TensorDesc:
    return native.TensorDesc.dense(dtype, native.FORMATS[format], list(shape))


def _moved_as(dtype: torch.dtype) -> native.DType:
    kind = native.DTYPES.get(dtype, _INTEGERS.get(dtype.itemsize))
    if kind is None:
        raise UnsupportedError(f"{dtype} is too wide for a graph; compute it outside the model, or in a narrower dtype")
    return kind


def dense(value: Value, format: str) -> native.TensorDesc:
    """``value`` in ``format``, densely. Raises ``UnsupportedError`` for a dtype that can't be moved."""
    return _dense(_moved_as(value.dtype), format, value.shape)


def same_memory(value: Value, a: str, b: str) -> bool:
    """Whether a reorder of ``value`` between the two formats would change no byte."""
    return a == b or dense(value, a).same_memory(dense(value, b))

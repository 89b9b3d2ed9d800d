"""The tables of dtypes and formats, against torch."""

from __future__ import annotations

import pytest
import torch

from drystone import native
from drystone.graph.dtypes import FLOATS, INTEGERS
from drystone.native import DType, Format, TensorDesc


@pytest.mark.parametrize("dtype", DType, ids=str)
def test_dtype_is_torchs(dtype: DType) -> None:
    torchs = getattr(torch, dtype.torch_name)
    assert native.DTYPES[torchs] is dtype
    assert dtype.itemsize == torchs.itemsize
    assert (torchs in FLOATS) == dtype.is_float
    assert (torchs in INTEGERS) <= (not torchs.is_floating_point)
    assert TensorDesc.dense(dtype, Format.plain, [3, 5]).bytes == 15 * torchs.itemsize


@pytest.mark.parametrize("shape", [(2, 20, 7), (2, 20, 5, 7), (2, 20, 3, 5, 7), (1, 1, 4, 4), (2, 20, 0, 7)], ids=str)
@pytest.mark.parametrize("format", native.formats(), ids=str)
def test_axes_lie_in_the_order_of_the_format(format: Format, shape: tuple[int, ...]) -> None:
    batch, channels, *spatial = shape
    blocks = -(-channels // format.block)
    sizes = [batch, blocks, *spatial, format.block]
    if format.is_channels_last:
        sizes[1:] = [*spatial, blocks, format.block]
    strides = list(torch.empty(sizes, device="meta").stride())[:-1]
    if format.is_channels_last:
        strides.insert(1, strides.pop())
    desc = TensorDesc.dense(DType.f32, format, list(shape))
    assert desc.strides == strides
    assert desc.has_padding == (channels % format.block != 0)


def test_formats_are_values() -> None:
    assert [getattr(Format, name) for name in native.FORMATS] == native.formats()
    assert len(set(native.formats())) == len(native.formats())
    assert Format.plain == TensorDesc.dense(DType.f32, Format.plain, [1]).format != Format.channels_last
    assert Format.plain != "plain"
    assert native.blocked() in native.formats()


def test_scales_and_zero_points() -> None:
    codes = TensorDesc.dense(DType.u8, Format.plain, [2, 3], scale=0.25, zero_point=255)
    assert (codes.scale, codes.zero_point) == (0.25, 255)
    assert repr(codes) == "u8 plain [2, 3] scale 0.25 zero point 255"
    same = TensorDesc(DType.u8, Format.plain, [2, 3], [3, 1], scale=0.25, zero_point=255)
    assert codes.same_memory(same)
    assert not codes.same_memory(TensorDesc.dense(DType.u8, Format.plain, [2, 3], scale=0.5, zero_point=255))
    assert not codes.same_memory(TensorDesc.dense(DType.u8, Format.plain, [2, 3], scale=0.25))
    plain = TensorDesc.dense(DType.f32, Format.plain, [2, 3])
    assert (plain.scale, plain.zero_point) == (1.0, 0)


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "reason"),
    [
        (DType.f32, 0.5, 0, "s8 and u8"),
        (DType.s32, 1.0, 3, "s8 and u8"),
        (DType.u8, 0.0, 0, "positive"),
        (DType.u8, -1.0, 0, "positive"),
        (DType.u8, float("inf"), 0, "positive"),
        (DType.u8, float("nan"), 0, "positive"),
        (DType.u8, 1.0, -1, "no u8"),
        (DType.u8, 1.0, 256, "no u8"),
        (DType.s8, 1.0, 128, "no s8"),
        (DType.s8, 1.0, -129, "no s8"),
    ],
)
def test_scales_and_zero_points_that_are_none(dtype: DType, scale: float, zero_point: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TensorDesc.dense(dtype, Format.plain, [2], scale=scale, zero_point=zero_point)

"""quantise, dequantise, and chains of pointwise instructions on codes: every dtype, format and run of elements, bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
from codes import AFFINES, S8, U8, Affine, codes, float32
from hypothesis import given
from hypothesis import strategies as st
from layout import FORMATS, lay, normal, outcome, place, run

from drystone import _native, native
from drystone.native import DType, Format, TensorDesc

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

FLOATS = [torch.float32, torch.bfloat16]
affines = pytest.mark.parametrize("affine", AFFINES, ids=str)
CODES = {U8: (0, 255), S8: (-128, 127)}


def reference(x: torch.Tensor, affine: Affine) -> torch.Tensor:
    """torch's, in float32, in its vectorised loop."""
    lowest, highest = CODES[affine.dtype]
    inverse = 1.0 / affine.scale
    return torch.clamp(torch.round(x.float() * inverse) + affine.zero_point, lowest, highest).to(affine.dtype)


def quantised(x: torch.Tensor, affine: Affine, format: Format | str = "plain") -> torch.Tensor:
    source, memory = lay(x, format)
    target = affine.desc(x.shape, format)
    return outcome(_native.quantise(source, target), target, memory)


@affines
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_quantise_is_torchs(dtype: torch.dtype, affine: Affine) -> None:
    """Numbers over and beyond all codes, and the middles between codes, where ties go to even."""
    lowest, highest = CODES[affine.dtype]
    middles = (torch.arange(2 * lowest - 40, 2 * highest + 40) / 2 - affine.zero_point) * affine.scale
    for x in (middles, normal(1500) * 100 * affine.scale, normal(37) * affine.scale):
        given = x.to(dtype)
        assert torch.equal(quantised(given, affine), reference(given, affine))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_is_no_number(dtype: torch.dtype) -> None:
    """Infinities are the ends; NaN is the code 0, as quantized_decomposed has it, wherever it stands."""
    x = torch.tensor([math.nan, math.inf, -math.inf, 3e38, -3e38, 0.0, -0.0], dtype=dtype).repeat(9)
    for affine in (Affine(U8, 1.0, 3), Affine(S8, 1.0, 3), Affine(U8, float32(1e-40), 200), Affine(S8, float32(3e38), -128)):
        assert torch.equal(quantised(x, affine), reference(x, affine))
        assert quantised(x, affine)[0] == 0


@affines
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dequantise(dtype: torch.dtype, affine: Affine) -> None:
    lowest, _ = CODES[affine.dtype]
    every = torch.arange(lowest, lowest + 256).to(affine.dtype)
    target = TensorDesc.dense(native.DTYPES[dtype], Format.plain, [256])
    got = outcome(_native.dequantise(affine.desc((256,)), target), target, every)
    assert torch.equal(got, ((every.float() - affine.zero_point) * affine.scale).to(dtype))


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("channels", [3, 16, 35])
def test_formats(channels: int, format: Format) -> None:
    affine = AFFINES[1]
    x = normal(2, channels, 5, 7)
    got = quantised(x, affine, format)
    assert torch.equal(got, reference(x, affine))
    target = TensorDesc.dense(DType.f32, format, [2, channels, 5, 7])
    back = outcome(_native.dequantise(affine.desc(x.shape, format), target), target, place(got, affine.desc(x.shape, format)))
    assert torch.equal(back.double(), affine.reals(got).float().double())


@given(st.integers(0, 70), st.integers(1, 40), st.integers(0, 5), st.integers(1, 9), st.sampled_from(AFFINES), st.integers(0, 1000))
def test_rows_apart(rows: int, columns: int, beside: int, step: int, affine: Affine, seed: int) -> None:
    """Nothing beside the codes is written, whatever the strides of both."""
    x = normal(rows, columns * step + beside, seed=seed) * 50 * affine.scale
    source = TensorDesc(DType.f32, Format.plain, [rows, columns], [columns * step + beside, step])
    target = affine.strided((rows, columns), (columns + beside, 1))
    memory = torch.full((rows, columns + beside), 77).to(affine.dtype)
    run(_native.quantise(source, target), x, memory)
    assert torch.equal(memory[:, :columns], reference(x[:, : columns * step : step], affine))
    assert (memory[:, columns:] == 77).all()


@given(st.sampled_from(AFFINES), st.sampled_from(AFFINES), st.sampled_from(AFFINES), st.integers(1, 3000), st.integers(0, 100))
def test_a_chain_on_codes(a: Affine, b: Affine, to: Affine, count: int, seed: int) -> None:
    """A residual: two tensors of codes of their own scales are added, and what is left by relu quantised."""
    x, y = codes(count, dtype=a.dtype, seed=seed), codes(count, dtype=b.dtype, seed=seed + 1)
    ops = [("add", [("in", 0), ("in", 1)], 0.0, 0.0), ("relu", [("reg", 0)], 0.0, 0.0)]
    target = to.desc((count,))
    got = outcome(_native.pointwise([a.desc((count,)), b.desc((count,))], target, ops), target, x, y)
    to.assert_codes(got, torch.relu(a.reals(x) + b.reals(y)))


def test_a_channel_of_codes_is_broadcast() -> None:
    a, b = AFFINES[1], AFFINES[3]
    x, y = codes(2, 20, 6, 7, dtype=U8), codes(1, 20, 1, 1, dtype=S8)
    for format in FORMATS[:2]:
        source, target = a.desc(x.shape, format), TensorDesc.dense(DType.f32, format, list(x.shape))
        step = _native.pointwise([source, b.desc(y.shape, format)], target, [("mul", [("in", 0), ("in", 1)], 0.0, 0.0)])
        got = outcome(step, target, place(x, source), place(y, b.desc(y.shape, format)))
        torch.testing.assert_close(got.double(), a.reals(x) * b.reals(y), rtol=1e-6, atol=0)


def test_requantised_into_a_slice() -> None:
    """What concatenation of two scales does: a copy into channels of a wider tensor."""
    a, to = AFFINES[0], Affine(U8, 0.5, 10)
    x = codes(2, 5, 3, 3, dtype=U8)
    source = a.desc(x.shape, "channels_last")
    target = to.strided((2, 5, 3, 3), (72, 1, 24, 8), "channels_last")
    memory = torch.full((2 * 72,), 77, dtype=U8)
    run(_native.pointwise([source], target, [("copy", [("in", 0)], 0.0, 0.0)]), place(x, source), memory)
    wide = memory.view(2, 3, 3, 8)
    to.assert_codes(wide[..., :5].permute(0, 3, 1, 2), a.reals(x))
    assert (wide[..., 5:] == 77).all()


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (DType.s32, DType.u8, "f32 and bf16"),
        (DType.u8, DType.u8, "f32 and bf16"),
        (DType.f32, DType.s32, "s8 or u8"),
    ],
)
def test_refusals(source: DType, target: DType, reason: str) -> None:
    def dense(dtype: DType) -> TensorDesc:
        return TensorDesc.dense(dtype, Format.plain, [4])

    with pytest.raises(ValueError, match=reason):
        _native.quantise(dense(source), dense(target))
    with pytest.raises(ValueError, match="shape"):
        _native.quantise(dense(DType.f32), TensorDesc.dense(DType.u8, Format.plain, [5]))

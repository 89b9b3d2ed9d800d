"""Depthwise convolutions and pooling of codes, in each format: the nearest code to what float64 gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from codes import AFFINES, S8, U8, Affine, codes, float32
from hypothesis import given, settings
from hypothesis import strategies as st
from layout import dense, outcome, place, read, run
from test_windows import adaptive, sliding

from drystone import _native, native
from drystone.native import Depthwise, DType, PostOp

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

FORMATS = ["plain", "channels_last", native.blocked().name]
formats = pytest.mark.parametrize("format", FORMATS)


def packed(step: Depthwise, weight: torch.Tensor) -> torch.Tensor:
    memory = torch.full((step.packed_bytes // 4,), float("nan"))
    step.pack(DType.s8, weight.contiguous().data_ptr(), memory.data_ptr())
    return memory


@given(
    st.sampled_from(FORMATS), st.sampled_from(AFFINES), st.integers(1, 2), st.integers(1, 40), st.integers(1, 2),
    st.integers(1, 9), st.integers(1, 20), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=120)
def test_depthwise_sums_are_exact(
    format: str, affine: Affine, batch: int, channels: int, multiplier: int, height: int, width: int,
    kernel: int, stride: int, padding: int, dilation: int, seed: int,
) -> None:  # fmt: skip
    least = (kernel - 1) * dilation + 1 - 2 * padding
    x = codes(batch, channels, max(height, least), max(width, least), dtype=affine.dtype, seed=seed)
    weight = codes(channels * multiplier, 1, kernel, kernel, dtype=S8, seed=seed + 1)
    want = F.conv2d(x.double() - affine.zero_point, weight.double(), None, stride, padding, dilation, channels)
    source, output = affine.desc(x.shape, format), dense(want.shape, format)
    pads, ones = [padding] * 2, [1.0] * len(weight)
    step = Depthwise(source, list(weight.shape), False, output, [stride] * 2, pads, pads, [dilation] * 2, [], ones)
    got = outcome(step, output, place(x, source), packed(step, weight))
    assert torch.equal(got, (want * affine.scale).float())


ACTIVATIONS: dict[str, tuple[list[PostOp], Callable[[torch.Tensor], torch.Tensor]]] = {
    "none": ([], lambda x: x),
    "relu6": ([("clamp", 0.0, 6.0, None)], lambda x: x.clamp(0, 6)),
    "hardswish": ([("hardswish", 0.0, 0.0, None)], F.hardswish),
    "abs, silu": ([("abs", 0.0, 0.0, None), ("silu", 0.0, 0.0, None)], lambda x: F.silu(x.abs())),
}


@pytest.mark.parametrize("channels", [64, 73, 128, 185])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 2), (4, 3, 1), (5, 3, 1), (9, 4, 1)]
)
def test_depthwise_groups_of_channels(kernel: int, stride: int, dilation: int, channels: int) -> None:
    """Channels in vectors that lie together, and what is left of them; taps in each order; activations in registers."""
    size = 19 + kernel * dilation
    for number, (ops, activation) in enumerate(ACTIVATIONS.values()):
        affine, target = Affine(U8 if number % 2 else S8, float32(0.03), 7), Affine(S8 if number % 2 else U8, float32(0.43), 11)
        x, weight = codes(1, channels, 7, size, dtype=affine.dtype), codes(channels, 1, 3, kernel, dtype=S8, seed=1)
        bias, scales = torch.linspace(-4, 4, channels), torch.linspace(1e-3, 2e-2, channels)
        steps = [1, stride], [1, kernel // 2], [1, kernel // 2], [1, dilation]
        sums = F.conv2d(x.double() - 7, weight.double(), None, steps[0], steps[1], steps[3], channels)
        real = activation(sums * affine.scale * scales.double()[:, None, None] + bias.double()[:, None, None])
        for output in (target.desc(real.shape, "channels_last"), dense(real.shape, "channels_last")):
            source = affine.desc(x.shape, "channels_last")
            step = Depthwise(source, list(weight.shape), True, output, *steps, ops, scales.tolist())
            memory = place(torch.zeros(real.shape), output)
            run(step, place(x, source), packed(step, weight), bias, memory)
            got = read(output, memory)
            if output.dtype == DType.f32:
                torch.testing.assert_close(got.double(), real, rtol=1e-5, atol=1e-5)
            else:
                target.assert_codes(got, real)


def test_depthwise_of_a_bias_that_is_no_number() -> None:
    x, weight = codes(1, 70, 5, 5, dtype=U8), codes(70, 1, 3, 3, dtype=S8, seed=1)
    bias = torch.zeros(70)
    bias[[3, 66]] = torch.nan
    affine, target = Affine(U8, 0.5, 3), Affine(S8, 0.5, 4)
    source, output = affine.desc(x.shape, "channels_last"), target.desc((1, 70, 3, 3), "channels_last")
    none = [0, 0]
    step = Depthwise(source, [70, 1, 3, 3], True, output, [1, 1], none, none, [1, 1], [], [0.01] * 70)
    memory = place(torch.full((1, 70, 3, 3), 9), output)
    run(step, place(x, source), packed(step, weight), bias, memory)
    assert bool((read(output, memory)[:, [3, 66]] == 0).all())


@formats
@pytest.mark.parametrize("channels", [16, 21])
@pytest.mark.parametrize("other", [Affine(U8, 0.25, 3), Affine(S8, 0.125, -128), torch.float32], ids=str)
@pytest.mark.parametrize("target", [Affine(U8, float32(0.37), 100), Affine(S8, float32(0.5), -128), torch.bfloat16], ids=str)
def test_depthwise_epilogue(target: Affine | torch.dtype, other: Affine | torch.dtype, channels: int, format: str) -> None:
    """Bias, relu6, a residual of its own scale, and the next scale."""
    affine = Affine(U8, float32(0.03), 100)
    x, weight = codes(2, channels, 7, 6, dtype=U8), codes(channels, 1, 3, 3, dtype=S8, seed=1)
    bias, scales = torch.linspace(-4, 4, channels), torch.linspace(1e-3, 2e-2, channels)
    sums = F.conv2d(x.double() - 100, weight.double(), None, 1, 1, 1, channels)
    real = (sums * affine.scale * scales.double()[:, None, None] + bias.double()[:, None, None]).clamp(0, 6)
    source = affine.desc(x.shape, format)
    held = codes(*real.shape, dtype=other.dtype, seed=5) if isinstance(other, Affine) else torch.randn(real.shape)
    operand = other.desc(real.shape, format) if isinstance(other, Affine) else dense(real.shape, format, other)
    real = real + (other.reals(held) if isinstance(other, Affine) else held.double())
    output = target.desc(real.shape, format) if isinstance(target, Affine) else dense(real.shape, format, target)
    ops: list[PostOp] = [("clamp", 0.0, 6.0, None), ("add", 0.0, 0.0, operand)]
    step = Depthwise(source, list(weight.shape), True, output, [1, 1], [1, 1], [1, 1], [1, 1], ops, scales.tolist())
    memory = place(torch.full(real.shape, 77), output)
    run(step, place(x, source), packed(step, weight), bias, memory, place(held, operand))
    got = read(output, memory)
    if isinstance(target, Affine):
        target.assert_codes(got, real)
    else:
        torch.testing.assert_close(got.double(), real, rtol=4e-3, atol=1e-2)
    laid = place(got, output)
    assert not output.has_padding or torch.equal(memory, laid)


@formats
@pytest.mark.parametrize("channels", [1, 3, 5, 9, 16, 48, 100])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pools(kind: str, channels: int, format: str) -> None:
    """By one scale, where maxima are codes of the input, and from one to another."""
    a, b = Affine(U8, float32(0.037), 114), Affine(U8, float32(0.051), 3)
    signed = Affine(S8, float32(0.02), -128)
    source_format = native.FORMATS[format]
    for given_affine, to in ((a, a), (a, b), (signed, signed)):
        x = codes(2, channels, 9, 11, dtype=given_affine.dtype)
        reals = given_affine.reals(x)
        rows, columns = sliding(9, 3, 2, 1), sliding(11, 3, 2, 1)
        whole = adaptive(9, 1), adaptive(11, 1)
        for windows, divisors, want in (
            (
                [rows[0], columns[0]],
                [rows[1], columns[1]],
                F.max_pool2d(reals, 3, 2, 1) if kind == "max" else F.avg_pool2d(reals, 3, 2, 1),
            ),
            (list(whole), [[9], [11]], reals.amax((2, 3), True) if kind == "max" else reals.mean((2, 3), keepdim=True)),
        ):
            source, output = given_affine.desc(x.shape, format), to.desc(want.shape, format)
            arguments = (source, output, kind, windows, divisors if kind == "avg" else [], 0)
            if source_format.block > 1 and channels % source_format.block:
                with pytest.raises(ValueError, match="whole blocks"):
                    _native.pool(*arguments)
                continue
            got = outcome(_native.pool(*arguments), output, place(x, source))
            to.assert_codes(got, want)
            if kind == "max" and given_affine is to:
                assert torch.equal(got, to.codes(want))


@formats
@pytest.mark.parametrize("target", [Affine(U8, float32(0.011), 30), torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(2, 48, 7, 7), (1, 16, 40, 50)])
def test_means(shape: tuple[int, ...], target: Affine | torch.dtype, format: str) -> None:
    """The spatial mean, by one scale from another or to float32."""
    affine = Affine(S8, float32(0.02), -100)
    x = codes(*shape, dtype=S8)
    source, want = affine.desc(shape, format), affine.reals(x).mean((2, 3))
    output = target.desc(want.shape) if isinstance(target, Affine) else dense(want.shape, "plain", target)
    got = outcome(_native.reduce(source, output, "mean", [2, 3]), output, place(x, source))
    if isinstance(target, Affine):
        target.assert_codes(got, want)
    else:
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-7)


def test_refusals() -> None:
    x, y = AFFINES[0].desc((1, 8, 4, 4), "channels_last"), dense((1, 8, 4, 4), "channels_last")
    one, none = [1, 1], [0, 0]
    for source, output, scales, reason in (
        (x, y, [], "one weight scale"),
        (y, y, [1.0] * 8, "one weight scale"),
        (y, x, [], "f32 and bf16"),
    ):
        with pytest.raises(ValueError, match=reason):
            Depthwise(source, [8, 1, 1, 1], False, output, one, none, none, one, [], scales)
    step = Depthwise(x, [8, 1, 1, 1], False, y, one, none, none, one, [], [1.0] * 8)
    with pytest.raises(ValueError, match="s8 for codes"):
        step.pack(DType.f32, 0, 0)

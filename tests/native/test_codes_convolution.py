"""Convolutions of codes by the packed GEMM: sums exact, whatever the kernel meets at borders, and rounded once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from codes import AFFINES, S8, U8, Affine, codes, float32
from hypothesis import given, settings
from hypothesis import strategies as st
from layout import dense, outcome, place, run

from drystone import native
from drystone.native import DType, ImplicitGemm, PostOp

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")


def packed(step: ImplicitGemm, weight: torch.Tensor) -> torch.Tensor:
    memory = torch.full((step.packed_bytes,), 0x7F, dtype=torch.uint8)
    step.pack(DType.s8, weight.contiguous().data_ptr(), memory.data_ptr())
    return memory


axis = st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(0, 3), st.integers(1, 2))


@given(
    st.integers(1, 2), st.integers(1, 70), st.integers(1, 50), axis, st.one_of(axis, st.none()),
    st.sampled_from(AFFINES), st.booleans(), st.integers(1, 3), st.integers(0, 9), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=150)
def test_sums_are_exact(
    batch: int, channels: int, outputs: int, one: tuple[int, ...], other: tuple[int, ...] | None, affine: Affine, widened: bool,
    threads: int, gap: int, seed: int,
) -> None:  # fmt: skip
    """Kernels over one and two axes in any stride, padding and dilation; channels may be part of wider ones."""
    axes = [one] if other is None else [one, other]
    axes = [(max(size, (k - 1) * d + 1 - low - high), k, s, low, high, d) for size, k, s, low, high, d in axes]
    sizes, kernel, stride, low, high, dilation = (list(field) for field in zip(*axes, strict=True))
    x = codes(batch, channels, *sizes, dtype=affine.dtype, seed=seed)
    weight = codes(outputs, channels, *kernel, dtype=S8, seed=seed + 1)
    pads = [pad for i in reversed(range(len(axes))) for pad in (low[i], high[i])]
    plain = F.pad(x.double() - affine.zero_point, pads)
    convolve = F.conv1d if other is None else F.conv2d
    sums = convolve(plain, weight.double(), None, stride, 0, dilation)

    wide = channels + gap
    strides = [wide]
    for size in reversed(sizes[1:]):
        strides.insert(0, strides[0] * size)
    source = affine.strided(tuple(x.shape), (strides[0] * sizes[0], 1, *strides), "channels_last")
    output = dense(sums.shape, "channels_last")
    step = ImplicitGemm(
        source, list(weight.shape), False, output, stride, low, high, dilation, [], [1.0] * outputs, widened=widened
    )
    got = outcome(step, output, place(x, source), packed(step, weight), threads=threads)
    assert torch.equal(got, (sums * affine.scale).float())


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("other", [Affine(U8, 0.25, 3), Affine(S8, 0.125, -128), torch.float32, None], ids=str)
def test_epilogue(other: Affine | torch.dtype | None, kernel: int) -> None:
    """A residual (or an operand of a channel), relu, the next scale, into channels of a wider output."""
    x_affine, target = Affine(U8, float32(0.03), 100), Affine(S8, float32(0.7), 5)
    x, weight, bias = codes(2, 20, 7, 6, dtype=U8), codes(33, 20, kernel, kernel, dtype=S8, seed=1), torch.linspace(-40, 40, 33)
    scales = torch.linspace(1e-3, 2e-2, 33)
    sums = F.conv2d(x.double() - 100, weight.double(), None, 1, kernel // 2)
    real = sums * x_affine.scale * scales.double()[:, None, None] + bias.double()[:, None, None]
    ops: list[PostOp] = []
    operands = []
    if other is not None:
        drawn = codes(*real.shape, dtype=other.dtype, seed=5) if isinstance(other, Affine) else torch.randn(1, 33, 1, 1) * 20
        desc = other.desc(real.shape, "channels_last") if isinstance(other, Affine) else dense(drawn.shape, "plain", other)
        ops, operands = [("add", 0.0, 0.0, desc)], [place(drawn, desc)]
        real = real + (other.reals(drawn) if isinstance(other, Affine) else drawn.double())
    ops.append(("relu", 0.0, 0.0, None))
    output = target.strided(tuple(real.shape), (7 * 6 * 40, 1, 6 * 40, 40), "channels_last")
    memory = torch.full((2 * 7 * 6, 40), 77, dtype=S8)
    pad = [kernel // 2] * 2
    step = ImplicitGemm(
        x_affine.desc(x.shape, "channels_last"), list(weight.shape), True, output, [1, 1], pad, pad, [1, 1], ops, scales.tolist()
    )
    run(step, place(x, x_affine.desc(x.shape, "channels_last")), packed(step, weight), bias, memory, *operands)
    got = memory[:, :33].reshape(2, 7, 6, 33).permute(0, 3, 1, 2)
    target.assert_codes(got, torch.relu(real))
    assert (memory[:, 33:] == 77).all()


@pytest.mark.parametrize("dtype", [U8, S8])
@pytest.mark.parametrize("bounded", [False, True])
def test_results_that_no_code_stands_for(dtype: torch.dtype, bounded: bool) -> None:
    """Beyond all codes they are the last ones, what is no number is code 0: beside each other, and apart."""
    source, target = Affine(U8, 0.5, 7), Affine(dtype, 0.25, 5)
    large = torch.tensor([1e38, -1e38, 1e10, -1e10, 9000.0, -9000.0, 100.0, -100.0]).repeat(4)
    infinite = torch.tensor([float("inf"), -float("inf"), float("nan"), 1.0]).repeat(5)
    bias = torch.cat([large, infinite])
    x, weight = codes(1, 9, 5, 5, dtype=U8), codes(len(bias), 9, 1, 1, dtype=S8, seed=1)
    real = F.conv2d(x.double() - 7, weight.double()) * 0.5 + bias.double()[:, None, None]
    ops: list[PostOp] = [("relu", 0.0, 0.0, None)] if bounded else []
    output = target.desc(real.shape, "channels_last")
    step = ImplicitGemm(
        source.desc(x.shape, "channels_last"),
        list(weight.shape),
        True,
        output,
        [1, 1],
        [0, 0],
        [0, 0],
        [1, 1],
        ops,
        [1.0] * len(bias),
    )
    got = outcome(step, output, place(x, source.desc(x.shape, "channels_last")), packed(step, weight), bias)
    target.assert_codes(got, real.relu() if bounded else real)


def test_refusals() -> None:
    x, y = AFFINES[0].desc((1, 8, 4, 4), "channels_last"), dense((1, 8, 4, 4), "channels_last")
    one, none = [1, 1], [0, 0]
    for source, weights, output, reason in (
        (AFFINES[0].desc((1, 8, 4, 4)), [8, 8, 1, 1], y, "channels_last"),
        (y, [8, 8, 1, 1], y, "multiplies codes"),
        (x, [8, 4, 1, 1], y, "one group"),
        (x, [8, 8, 3, 3], y, "size that follows"),
        (x, [8, 8, 1, 1], dense((1, 8, 4, 4), "plain"), "channels_last"),
    ):
        with pytest.raises(ValueError, match=reason):
            ImplicitGemm(source, weights, False, output, one, none, none, one, [], [1.0] * 8)

"""The packed GEMM on codes: sums exact in 32 bits in every remainder, at every end of the range, and rounded once."""

from __future__ import annotations

import pytest
import torch
from codes import AFFINES, S8, U8, Affine, codes, float32
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layout import blank, dense, normal, outcome, run

from agreement import relative_error
from drystone import native
from drystone.native import DType, Format, Gemm, PostOp, TensorDesc

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

# Around strips of 16 and 48 columns, tiles of 6, 8 and 32 rows, fours of the depth, chunks of 32 and 64 of it, and blocks.
KINDS = {"as the CPU can": (False, False), "7 bits": (True, True), "8 bits": (True, False)}  # widened, weights_fit_7_bits
kinds = st.sampled_from(sorted(KINDS))
sizes = st.one_of(st.sampled_from([1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 64, 96, 97]), st.integers(1, 150))
depths = st.one_of(sizes, st.sampled_from([511, 512, 513, 2000, 6500]))


def weights(n: int, k: int, seven: bool, seed: int = 1) -> torch.Tensor:
    drawn = codes(n, k, dtype=S8, seed=seed)
    return (drawn.int() * 64 // 127).clamp(-64, 64).to(S8) if seven else drawn


def packed(step: Gemm, weight: torch.Tensor) -> torch.Tensor:
    memory = torch.full((step.packed_bytes,), 0x7F, dtype=torch.uint8)
    step.pack(DType.s8, weight.contiguous().data_ptr(), memory.data_ptr())
    return memory


def product(x: torch.Tensor, affine: Affine, weight: torch.Tensor, kind: str, output: TensorDesc, threads: int = 2) -> torch.Tensor:
    """By weights whose scales are all 1."""
    n, (widened, seven) = len(weight), KINDS[kind]
    step = Gemm(affine.desc(x.shape), n, False, output, [], widened, weight_scales=[1.0] * n, weights_fit_7_bits=seven)
    return outcome(step, output, x, packed(step, weight), threads=threads)


def exact(x: torch.Tensor, zero_point: int, weight: torch.Tensor) -> torch.Tensor:
    return (x.long() - zero_point) @ weight.long().T


@given(sizes, sizes, depths, st.sampled_from([U8, S8]), st.integers(0, 255), kinds, st.integers(1, 4), st.integers(0, 9))
@example(1, 768, 3072, U8, 255, "8 bits", 2, 0)
@example(9, 130, 6500, S8, 0, "7 bits", 3, 0)
@settings(max_examples=150)
def test_sums_are_exact(m: int, n: int, k: int, dtype: torch.dtype, zero: int, kind: str, threads: int, seed: int) -> None:
    affine = Affine(dtype, 1.0, zero if dtype == U8 else zero - 128)
    x, weight = codes(m, k, dtype=dtype, seed=seed), weights(n, k, kind == "7 bits", seed + 1)
    got = product(x, affine, weight, kind, dense((m, n), "plain"), threads=threads)
    assert torch.equal(got, exact(x, affine.zero_point, weight).float())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [U8, S8])
def test_nothing_saturates(dtype: torch.dtype, kind: str) -> None:
    """Codes and weights all at one end, zero points at the other; as deep as sums are sure to fit."""
    lowest, seven = 0 if dtype == U8 else -128, kind == "7 bits"
    for code, zero, weight in (
        (lowest + 255, lowest, 64 if seven else 127),
        (lowest + 255, lowest, -64 if seven else -128),
        (lowest, lowest + 255, -64 if seven else -128),
    ):
        for k in (4, 300, 65536):
            x, w = torch.full((9, k), code).to(dtype), torch.full((17, k), weight).to(S8)
            got = product(x, Affine(dtype, 1.0, zero), w, kind, dense((9, 17), "plain"))
            assert (got == torch.tensor((code - zero) * weight * k).float()).all()


@pytest.mark.parametrize("affine", AFFINES, ids=str)
def test_affine_maps_and_bias(affine: Affine) -> None:
    m, n, k = 11, 50, 70
    x, weight, bias = codes(m, k, dtype=affine.dtype), weights(n, k, False), normal(n) * affine.scale * 1000
    scales = torch.linspace(1e-4, 3.0, n)
    real = exact(x, affine.zero_point, weight) * affine.scale * scales.double() + bias.double()
    for target in (Affine(U8, float32(affine.scale * 900), 7), Affine(S8, float32(affine.scale * 900), 127)):
        step = Gemm(affine.desc(x.shape), n, True, target.desc((m, n)), [], weight_scales=scales.tolist())
        target.assert_codes(outcome(step, target.desc((m, n)), x, packed(step, weight), bias), real)
    for dtype, limit in ((torch.float32, 1e-6), (torch.bfloat16, 4e-3)):
        output = dense((m, n), "plain", dtype)
        step = Gemm(affine.desc(x.shape), n, True, output, [], weight_scales=scales.tolist())
        assert relative_error(outcome(step, output, x, packed(step, weight), bias), real) <= limit


@pytest.mark.parametrize("k", [4, 7, 8, 64, 68, 2000])
def test_weights_whose_sums_of_four_do_not_fit(k: int) -> None:
    """Of 7 bits: all at one end, or in runs of one sign, in some columns of a strip alone; many rows, and a few."""
    weight = weights(35, k, True)
    weight[::3], weight[1::5, : k // 2], weight[2::7, 1::2] = 64, -64, -64
    step = Gemm(AFFINES[0].desc((13, k)), 35, False, dense((13, 35), "plain"), [], True, [1.0] * 35, True)
    memory = packed(step, weight)
    for dtype, rows in ((U8, 13), (S8, 13), (U8, 1)):
        x = codes(rows, k, dtype=dtype)
        affine, output = Affine(dtype, 1.0, 3), dense((rows, 35), "plain")
        step = Gemm(affine.desc(x.shape), 35, False, output, [], True, [1.0] * 35, True)
        assert torch.equal(outcome(step, output, x, memory), exact(x, 3, weight).float())


def test_rows_apart() -> None:
    """Rows lie apart on both sides; nothing beside the results is written."""
    x_affine, target = AFFINES[1], Affine(U8, float32(37.0), 99)
    m, n, k, gap = 9, 21, 39, 5
    wide, weight = codes(m, k + gap, dtype=U8), weights(n, k, False)
    memory = torch.full((m, n + gap), 77, dtype=U8)
    step = Gemm(x_affine.strided((m, k), (k + gap, 1)), n, False, target.strided((m, n), (n + gap, 1)), [], weight_scales=[0.5] * n)
    run(step, wide, packed(step, weight), memory)
    target.assert_codes(memory[:, :n], exact(wide[:, :k], x_affine.zero_point, weight) * x_affine.scale * 0.5)
    assert (memory[:, n:] == 77).all()


@pytest.mark.parametrize("other", [Affine(U8, 0.25, 3), Affine(S8, 0.125, -128), torch.float32], ids=str)
@pytest.mark.parametrize(("m", "n", "k"), [(11, 50, 70), (1, 30, 6000)])
def test_epilogue(m: int, n: int, k: int, other: Affine | torch.dtype) -> None:
    """A residual of its own scale, relu, and the next scale; wherever the work is cut."""
    affine, target = Affine(U8, 0.5, 100), Affine(S8, 16.0, 5)
    x, weight, bias = codes(m, k, dtype=U8), weights(n, k, False), torch.arange(n).float()
    residual = codes(m, n, dtype=other.dtype, seed=5) if isinstance(other, Affine) else normal(m, n) * 100
    operand = other.desc((m, n)) if isinstance(other, Affine) else dense((m, n), "plain", other)
    ops: list[PostOp] = [("add", 0.0, 0.0, operand), ("relu", 0.0, 0.0, None)]
    step = Gemm(affine.desc((m, k)), n, True, target.desc((m, n)), ops, weight_scales=[0.125] * n)
    memory = blank(target.desc((m, n)))
    run(step, x, packed(step, weight), bias, memory, residual)
    reals = other.reals(residual) if isinstance(other, Affine) else residual.double()
    want = torch.relu(exact(x, 100, weight) * 0.5 * 0.125 + bias + reals)
    target.assert_codes(memory.view(m, n), want)


@pytest.mark.parametrize(
    "order", [["add"], ["relu", "add"], ["add", "relu", "add"], ["add", "relu", "relu"], ["relu", "add", "relu"]], ids=str
)
def test_the_order_of_an_epilogue(order: list[str]) -> None:
    """Bounds come before or after what is added, as they are said."""
    affine, target, other = Affine(U8, 0.5, 100), Affine(S8, 16.0, 5), Affine(U8, 8.0, 120)
    x, weight, residual = codes(7, 70, dtype=U8), weights(37, 70, False), codes(7, 37, dtype=U8, seed=5)
    want = exact(x, 100, weight) * 0.5 * 0.125
    ops: list[PostOp] = []
    for kind in order:
        want = torch.relu(want) if kind == "relu" else want + other.reals(residual)
        ops.append((kind, 0.0, 0.0, other.desc((7, 37)) if kind == "add" else None))
    step = Gemm(affine.desc((7, 70)), 37, False, target.desc((7, 37)), ops, weight_scales=[0.125] * 37)
    memory = blank(target.desc((7, 37)))
    run(step, x, packed(step, weight), memory, *[residual] * order.count("add"))
    target.assert_codes(memory.view(7, 37), want)


def test_a_residual_in_place() -> None:
    affine, target, held = Affine(U8, 0.5, 100), Affine(U8, 16.0, 5), Affine(U8, 4.0, 200)
    x, weight, memory = codes(9, 70, dtype=U8), weights(20, 70, False), codes(9, 20, dtype=U8, seed=3)
    want = exact(x, 100, weight) * 0.5 + held.reals(memory)
    step = Gemm(affine.desc((9, 70)), 20, False, target.desc((9, 20)), [("sum", 4.0, 200.0, None)], weight_scales=[1.0] * 20)
    run(step, x, packed(step, weight), memory)
    target.assert_codes(memory, want)


def choose(x: torch.Tensor, symmetric: bool, low: int, high: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """torch's choose_qparams (asymmetric), torchao's (symmetric), of each row."""
    least, most = x.amin(1).clamp(max=0), x.amax(1).clamp(min=0)
    if symmetric:
        return (torch.maximum(-least, most) / ((high - low) / 2)).clamp(min=eps), torch.zeros(len(x))
    scale = ((most - least) / float(high - low)).clamp(min=eps)
    return scale, (low - torch.round(least / scale)).clamp(low, high)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("symmetric", "low", "high"), [(False, 0, 255), (False, 0, 127), (False, -128, 127), (True, -127, 127)])
@pytest.mark.parametrize("by", ["tensor", "row"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 50, 3000), (17, 33, 70), (100, 20, 130)])
def test_dynamic(m: int, n: int, k: int, by: str, symmetric: bool, low: int, high: int, dtype: torch.dtype) -> None:
    """Rows of very different ranges, one of zeros: codes are those that torch makes, so sums are exact and only scales round."""
    x = (normal(m, k) * torch.logspace(-3, 3, m)[:, None]).to(dtype)
    if m > 1:
        x[1] = 0
    given = x.float()
    eps = 1e-5
    scale, zero = choose(given if by == "row" else given.reshape(1, -1), symmetric, low, high, eps)
    quantised = torch.clamp(torch.round(given * (1.0 / scale)[:, None]) + zero[:, None], low, high)
    weight, bias, scales = weights(n, k, False), normal(n), torch.linspace(1e-3, 1, n)
    want = ((quantised.double() - zero[:, None]) @ weight.double().T) * scale.double()[:, None] * scales.double() + bias.double()
    step = Gemm(
        dense((m, k), "plain", dtype), n, True, dense((m, n), "plain"), [], weight_scales=scales.tolist(), dynamic=by,
        symmetric=symmetric, codes=(low, high), eps=eps,
    )  # fmt: skip
    got = outcome(step, dense((m, n), "plain"), x, packed(step, weight), bias)
    for row in range(m):
        assert relative_error(got[row], want[row]) <= 1e-6, row


@pytest.mark.parametrize("by", ["tensor", "row"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_what_is_no_number_has_no_code(value: float, by: str) -> None:
    """Its row, or all rows, become NaN; other rows are as they were."""
    x, weight = normal(9, 70), weights(20, 70, False)
    step = Gemm(dense((9, 70), "plain"), 20, False, dense((9, 20), "plain"), [], weight_scales=[1.0] * 20, dynamic=by)
    clean = outcome(step, dense((9, 20), "plain"), x, packed(step, weight))
    x[3, 69] = value
    got = outcome(step, dense((9, 20), "plain"), x, packed(step, weight))
    assert got[3].isnan().all()
    others = [row for row in range(9) if row != 3]
    assert got[others].isnan().all() if by == "tensor" else torch.equal(got[others], clean[others])


def test_nothing_is_read_beyond_the_rows() -> None:
    for k in (1, 15, 17, 33):
        memory = torch.full((3 * k + 64,), float("nan"))
        x = memory[: 3 * k].view(3, k)
        x.copy_(normal(3, k))
        weight = weights(7, k, False)
        step = Gemm(dense((3, k), "plain"), 7, False, dense((3, 7), "plain"), [], weight_scales=[1.0] * 7, dynamic="row")
        assert not outcome(step, dense((3, 7), "plain"), x, packed(step, weight)).isnan().any()


def test_packed_weights_do_not_depend_on_the_rows() -> None:
    steps = [
        Gemm(AFFINES[i].desc((m, 64)), 100, False, dense((m, 100), "plain"), [], weight_scales=[1.0] * 100)
        for i, m in enumerate((1, 7, 128, 4096))
    ]
    assert len({step.packed_key for step in steps}) == 1


def test_refusals() -> None:
    x, y = AFFINES[0].desc((4, 8)), dense((4, 16), "plain")
    with pytest.raises(ValueError, match="one weight scale an output channel"):
        Gemm(x, 16, False, y, [], weight_scales=[1.0])
    with pytest.raises(ValueError, match="multiplied by codes"):
        Gemm(dense((4, 8), "plain"), 16, False, y, [], weight_scales=[1.0] * 16)
    with pytest.raises(ValueError, match="f32 and bf16"):
        Gemm(dense((4, 8), "plain"), 16, False, AFFINES[0].desc((4, 16)), [])
    with pytest.raises(ValueError, match="floats to quantise, or codes"):
        Gemm(x, 16, False, y, [], weight_scales=[1.0] * 16, dynamic="row")
    with pytest.raises(ValueError, match="'tensor' or 'row'"):
        Gemm(dense((4, 8), "plain"), 16, False, y, [], weight_scales=[1.0] * 16, dynamic="column")
    with pytest.raises(ValueError, match="none of u8 or s8"):
        Gemm(dense((4, 8), "plain"), 16, False, y, [], weight_scales=[1.0] * 16, dynamic="row", codes=(0, 256))
    with pytest.raises(ValueError, match="have no sign"):
        Gemm(dense((4, 8), "plain"), 16, False, y, [], weight_scales=[1.0] * 16, dynamic="row", symmetric=True)
    with pytest.raises(ValueError, match="32 bits"):
        long = TensorDesc.dense(DType.u8, Format.plain, [1, 65537])
        Gemm(long, 1, False, dense((1, 1), "plain"), [], weight_scales=[1.0])


def test_weights_that_do_not_fit_7_bits_are_not_packed_so() -> None:
    step = Gemm(AFFINES[0].desc((4, 8)), 16, False, dense((4, 16), "plain"), [], weight_scales=[1.0] * 16, weights_fit_7_bits=True)
    if "int7" not in step.implementation:
        pytest.skip("this CPU multiplies 8 bits as fast")
    with pytest.raises(ValueError, match="7 bits"):
        packed(step, torch.full((16, 8), 65, dtype=S8))

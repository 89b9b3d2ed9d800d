"""The packed GEMM on weights in 4 and 8 bits: small integers exactly, random numbers against the weights that codes stand for in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from grouped import Weight, product, weight
from layout import dense, integers, normal, run

from agreement import assert_as_exact, assert_same_specials
from drystone import native
from drystone.native import Gemm, GroupedStrips, PostOp

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

ROWS, STRIP = {"avx2": (6, 16)}.get(native.isa(), (8, 48))
NAN = float("nan")
both = pytest.mark.parametrize("bits", [4, 8])


def expected(x: torch.Tensor, w: Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
    return F.linear(x.double(), w.floats(), None if bias is None else bias.double())


def check_exact(m: int, w: Weight, threads: int = 2) -> None:
    n, k = w.codes.shape
    x, bias = integers(m, k), integers(n, seed=2)
    assert torch.equal(product(x, w, bias, threads=threads).double(), expected(x, w, bias)), (m, n, k, w.group)


@both
@pytest.mark.parametrize("minima", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_every_number_of_rows(bits: int, minima: bool, dtype: torch.dtype) -> None:
    w = weight(STRIP + 5, 64, bits, 32, dtype, minima)
    for m in range(3 * ROWS + 2):
        check_exact(m, w)


@both
def test_every_number_of_columns(bits: int) -> None:
    for n in range(1, 2 * STRIP + 2):
        check_exact(ROWS + 1 if n % 2 else 1, weight(n, 48, bits, 16))


@both
@pytest.mark.parametrize("group", [8, 16, 24, 32, 64, 128])
def test_every_group(bits: int, group: int) -> None:
    for groups in (1, 2, 3, 5):
        w = weight(STRIP + 1, groups * group, bits, group, minima=groups == 3)
        check_exact(1, w)
        check_exact(ROWS + 3, w)


@both
def test_a_group_a_row_of_any_length(bits: int) -> None:
    for k in range(2, 70, 2 if bits == 4 else 1):
        w = weight(STRIP + 1, k, bits, k)
        check_exact(1, w)
        check_exact(ROWS + 3, w)


@both
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("m", "n", "k", "group"),
    [
        (1, 20, 9216, 128),  # cut along k
        (1, 20, 9216, 24),  # in the midst of groups
        (30, 20, 4096, 32),  # blocks of k
        (5, 1000, 320, 32),  # columns
        (150, 400, 2112, 64),  # sums kept between blocks of k
        (70, 1000, 1696, 1696),  # of one group
        (300, 100, 640, 32),
    ],
)
def test_every_way_to_cut_the_work(m: int, n: int, k: int, group: int, threads: int, bits: int) -> None:
    check_exact(m, weight(n, k, bits, group, minima=group == 64), threads)


@both
@pytest.mark.parametrize("minima", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("m", "n", "k", "group"),
    [(1, 512, 4096, 32), (1, 512, 4096, 128), (1, 512, 4096, 4096), (4, 100, 768, 128), (40, 200, 768, 64)],
)
def test_accuracy(m: int, n: int, k: int, group: int, dtype: torch.dtype, minima: bool, bits: int) -> None:
    w, x, bias = weight(n, k, bits, group, dtype, minima, exact=False), normal(m, k), normal(n, seed=2)
    want, plain = expected(x, w, bias), F.linear(x, w.floats().float(), bias)
    assert_as_exact(product(x, w, bias), want, plain)


@both
@pytest.mark.parametrize("m", [1, ROWS, ROWS + 1, 40])
def test_bfloat16(m: int, bits: int) -> None:
    """Products are float32 for a few rows; else of weights that are rounded to bfloat16, where the CPU multiplies these."""
    w, x = weight(STRIP + 5, 256, bits, 32, exact=False), normal(m, 256, dtype=torch.bfloat16)
    rounded = m > ROWS and native.multiplies_bfloat16()
    used = w.floats().bfloat16().double() if rounded else w.floats()
    want, plain = F.linear(x.double(), used), F.linear(x.float(), used.float())
    got = product(x, w)
    assert_as_exact(got, want, plain)
    assert torch.equal(product(x, w, out=torch.empty(m, STRIP + 5, dtype=torch.bfloat16)), got.bfloat16())


@both
@pytest.mark.parametrize("m", [3, 20])
def test_chains(m: int, bits: int) -> None:
    w, bias, held = weight(STRIP + 3, 64, bits, 32), integers(STRIP + 3, seed=2), integers(m, STRIP + 3, seed=3)
    x, gate = integers(m, 64), integers(m, STRIP + 3, seed=4)
    ops: list[PostOp] = [("relu", 0.0, 0.0, None), ("sum", 0.0, 0.0, None), ("mul", 0.0, 0.0, dense(gate.shape, "plain"))]
    got = product(x, w, bias, out=held.clone(), ops=ops, operands=[gate])
    assert torch.equal(got.double(), (F.relu(expected(x, w, bias)) + held) * gate)


@both
@pytest.mark.parametrize("values", [[NAN], [float("inf")], [3e38], [float("inf"), -float("inf")]], ids=str)
def test_nan_infinities_and_large_numbers(values: list[float], bits: int) -> None:
    for m in (1, ROWS + 3):
        w, x = weight(STRIP + 3, 96, bits, 32, minima=m > 1), normal(m, 96) / 64
        w.scales.fill_(1 / 256)
        for i, value in enumerate(values):
            x[0, 90 - 2 * i] = value
        got, want = product(x, w), expected(x, w)
        assert_same_specials(got, want.float())


@both
@pytest.mark.parametrize("size", [1e-34, 1e-18, 1e28])
def test_small_and_large_numbers_are_as_exact(size: float, bits: int) -> None:
    for m in (1, 2, 4):
        w, x = weight(STRIP + 3, 512, bits, 32, minima=m == 2, exact=False), normal(m, 512) * size
        assert_as_exact(product(x, w), expected(x, w), F.linear(x, w.floats().float()))


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_by_index(dtype: torch.dtype, bits: int) -> None:
    for n, k, group, minima in ((2 * STRIP + 5, 64, 32, False), (3, 46, 46, True), (STRIP, 96, 24, True)):
        w = weight(n, k, bits, group, minima=minima, exact=False)
        for indices in (torch.tensor([[0, n - 1], [n // 2, 0]]), torch.arange(n, dtype=torch.int32)):
            out = torch.empty(*indices.shape, k, dtype=dtype)
            step = native.grouped_rows(w.strips(), dense(indices.shape, "plain", indices.dtype), dense(out.shape, "plain", dtype))
            run(step, w.packed(), indices, out)
            torch.testing.assert_close(
                out, w.floats()[indices.long()].to(dtype), rtol=1e-6 if dtype is torch.float32 else 0.01, atol=1e-5
            )


def test_an_index_out_of_range_raises() -> None:
    w = weight(5, 64, 4, 32)
    for wrong in (5, -1):
        step = native.grouped_rows(w.strips(), dense((2,), "plain", torch.int64), dense((2, 64), "plain"))
        with pytest.raises(IndexError, match=f"index {wrong} is out of bounds"):
            run(step, w.packed(), torch.tensor([0, wrong]), torch.empty(2, 64))


@pytest.mark.parametrize(
    ("kind", "k", "reason"),
    [
        ((3, 32), 64, "4 or 8 bits"),
        ((4, 48), 64, "48 do not divide K = 64"),
        ((4, 0), 64, "do not divide"),
        ((4, 4), 64, "no multiple of 8"),
        ((8, 2), 64, "no multiple of 4"),
        ((4, 7), 7, "even"),
        ((8, 32, torch.float64), 64, "f16 or f32"),
    ],
)
def test_refusals(kind: tuple[Any, ...], k: int, reason: str) -> None:
    bits, group, *dtype = kind
    with pytest.raises(ValueError, match=reason):
        GroupedStrips(16, k, bits, group, native.DTYPES[dtype[0] if dtype else torch.float16])


def test_what_is_packed_is_what_was_said() -> None:
    x, out = dense((4, 64), "plain"), dense((4, 16), "plain")
    strips = GroupedStrips(16, 64, 4, 32, native.DTYPES[torch.float16], minima=True)
    with pytest.raises(ValueError, match="missing"):
        strips.pack(0, 0, 0, 0)
    with pytest.raises(ValueError, match="GroupedStrips"):
        Gemm(x, 16, False, out, [], groups=strips).pack(native.DTYPES[torch.float32], 0, 0)
    with pytest.raises(ValueError, match=r"not \(N, K\)"):
        Gemm(x, 16, False, out, [], groups=GroupedStrips(17, 64, 4, 32, native.DTYPES[torch.float16]))

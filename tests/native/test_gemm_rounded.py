"""The packed GEMM on weights in groups with x rounded to int8, against the same codes of both in float64."""

from __future__ import annotations

from functools import partial

import grouped
import pytest
import torch
import torch.nn.functional as F
from grouped import Weight, weight
from layout import dense, integers, normal

from agreement import assert_as_exact
from drystone import native
from drystone.graph.groups import rounded
from drystone.native import Gemm, PostOp

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

ROWS, STRIP = {"avx2": (6, 16)}.get(native.isa(), (8, 48))
NAN = float("nan")
both = pytest.mark.parametrize("bits", [4, 8])
# With VPDPBUSD where the CPU has it, and without.
ways = pytest.mark.parametrize("widened", [False, True])
product = partial(grouped.product, rounds_x=True)


def check(m: int, w: Weight, threads: int = 2, widened: bool = False, dtype: torch.dtype = torch.float32) -> None:
    n, k = w.codes.shape
    x, bias = normal(m, k, dtype=dtype), normal(n, seed=2)
    near = rounded(x, w.group)
    want, plain = F.linear(near.double(), w.floats(), bias.double()), F.linear(near, w.floats().float(), bias)
    assert_as_exact(product(x, w, bias, threads=threads, widened=widened), want, plain)


@both
@ways
@pytest.mark.parametrize("minima", [False, True])
def test_every_number_of_rows(bits: int, minima: bool, widened: bool) -> None:
    w = weight(STRIP + 5, 64, bits, 32, torch.float32 if minima else torch.float16, minima, exact=False)
    for m in range(2 * ROWS + 2):
        check(m, w, widened=widened)


@both
@ways
def test_every_number_of_columns(bits: int, widened: bool) -> None:
    for n in range(1, 2 * STRIP + 2):
        check(ROWS + 1 if n % 2 else 1, weight(n, 48, bits, 16, exact=False), widened=widened)


@both
@ways
@pytest.mark.parametrize("group", [8, 24, 32, 64, 128])
def test_every_group(bits: int, group: int, widened: bool) -> None:
    for groups in (1, 2, 5):
        w = weight(STRIP + 1, groups * group, bits, group, minima=groups == 2, exact=False)
        for dtype in (torch.float32, torch.bfloat16):
            check(1, w, widened=widened, dtype=dtype)
            check(ROWS + 3, w, widened=widened, dtype=dtype)


@both
@ways
def test_a_group_a_row_of_any_length(bits: int, widened: bool) -> None:
    for k in range(2, 70, 2 if bits == 4 else 1):
        w = weight(STRIP + 1, k, bits, k, minima=k % 3 == 0, exact=False)
        check(1, w, widened=widened)
        check(ROWS + 3, w, widened=widened)


@both
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("m", "n", "k", "group"),
    [
        (1, 20, 9216, 128),  # cut along k
        (1, 20, 9216, 24),
        (30, 20, 8192, 32),  # blocks of k
        (5, 1000, 320, 32),  # columns
        (150, 400, 4224, 64),  # sums kept between blocks of k
        (300, 100, 640, 32),
    ],
)
def test_every_way_to_cut_the_work(m: int, n: int, k: int, group: int, threads: int, bits: int) -> None:
    check(m, weight(n, k, bits, group, minima=group == 64, exact=False), threads)


@both
@ways
def test_the_largest_sums_are_exact(bits: int, widened: bool) -> None:
    """Codes at their ends: sums of two products of 8 bits are nearly 2^15, and VPMADDUBSW would keep no more."""
    w = weight(STRIP + 1, 256, bits, 128)
    w.scales.fill_(1)
    for code in (0, 1, 2**bits - 1):
        for m in (1, ROWS):
            for sign in (1.0, -1.0):
                w.codes.fill_(code)
                x = torch.full((m, 256), 127.0 * sign)
                assert torch.equal(product(x, w, widened=widened).double(), F.linear(x.double(), w.floats())), (code, m)


@both
def test_chains(bits: int) -> None:
    w, bias, held = weight(STRIP + 3, 64, bits, 32), integers(STRIP + 3, seed=2), integers(3, STRIP + 3, seed=3)
    x, gate = integers(3, 64), integers(3, STRIP + 3, seed=4)
    x[:, ::32] = 127  # so that integers are codes
    ops: list[PostOp] = [("relu", 0.0, 0.0, None), ("sum", 0.0, 0.0, None), ("mul", 0.0, 0.0, dense(gate.shape, "plain"))]
    got = product(x, w, bias, out=held.clone(), ops=ops, operands=[gate])
    assert torch.equal(got.double(), (F.relu(F.linear(x.double(), w.floats(), bias.double())) + held) * gate)


@both
@ways
@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_a_row_without_finite_numbers_is_nan(value: float, bits: int, widened: bool) -> None:
    w, x = weight(STRIP + 3, 96, bits, 32, minima=bits == 4, exact=False), normal(3, 96)
    x[1, 70] = value
    got = product(x, w, widened=widened)
    assert got[1].isnan().all()
    assert got[[0, 2]].isfinite().all()


@both
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-34, 1e30])
def test_small_and_large_numbers(size: float, bits: int) -> None:
    w, x = weight(STRIP + 3, 64, bits, 32, exact=False), normal(2, 64)
    got, want = product(x * size, w), F.linear(rounded(x * size, 32).double(), w.floats())
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=size * 1e-4 + 1e-34)


def test_refusals() -> None:
    x, out = dense((4, 64), "plain"), dense((4, 16), "plain")
    with pytest.raises(ValueError, match="weights are in groups"):
        Gemm(x, 16, False, out, [], rounds_x=True)
    strips = native.GroupedStrips(16, 1 << 17, 8, 1 << 17, native.DTYPES[torch.float16])
    with pytest.raises(ValueError, match="may not fit into 32 bits"):
        Gemm(dense((4, 1 << 17), "plain"), 16, False, out, [], groups=strips, rounds_x=True)

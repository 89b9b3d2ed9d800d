"""The packed GEMM in any shape, at any address, with any epilogue, on any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from layout import normal
from test_gemm import BINARY, KINDS, TORCH, UNARY, packed, product, rows_of

from agreement import FLOAT32_LIMIT, FLOAT32_TIMES_EAGER, float32_limit, relative_error
from drystone import native
from drystone.native import Gemm, PostOp

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

# Around strips of 16 and 48 columns, tiles of 6, 8 and 32 rows, chunks of 16 and 32 of the depth, and blocks of it.
sizes = st.one_of(st.sampled_from([1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 96, 97]), st.integers(1, 150))
depths = st.one_of(sizes, st.sampled_from([511, 512, 513, 2000, 4097]))
kinds = st.sampled_from(sorted(KINDS))
threads = st.integers(1, 4)
SMOOTH = sorted(set(UNARY) - {"round"})  # a sum that is rounded otherwise may fall on its other side


class Placed:
    """Matrices as parts of wider ones, so many elements after an aligned address; NaN all around."""

    def __init__(self, offset: int, gap: int) -> None:
        self.offset, self.gap = offset, gap

    def __call__(self, matrix: torch.Tensor) -> torch.Tensor:
        rows, columns = matrix.shape
        wide = torch.full((rows * (columns + self.gap) + self.offset,), torch.nan, dtype=matrix.dtype)
        place = wide[self.offset :].view(rows, columns + self.gap)[:, :columns]
        return place.copy_(matrix)


placements = st.builds(Placed, st.integers(0, 17), st.integers(0, 5))


@st.composite
def epilogues(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Up to four operators: a name, and of binary ones the operand's rows, columns and dtype, "sum" being a residual in the result."""
    binary = st.tuples(
        st.sampled_from(["add", "sub", "mul", "maximum", "minimum", "sum"]),
        st.tuples(st.booleans(), st.booleans(), st.sampled_from([torch.float32, torch.bfloat16])),
    )
    unary = st.tuples(st.sampled_from(SMOOTH), st.none())
    ops = draw(st.lists(st.one_of(unary, binary), max_size=4))
    assume(sum(name == "sum" for name, _ in ops) <= 1)
    return ops


@settings(max_examples=200)
@given(
    st.one_of(st.just(0), sizes), sizes, depths, kinds, threads, placements, placements, st.booleans(), epilogues(), st.booleans()
)
@example(1, 20, 9000, "float32", 4, Placed(1, 3), Placed(3, 1), True, [("sum", (True, True, torch.float32))], True)
@example(33, 49, 4097, "bfloat16", 3, Placed(1, 3), Placed(3, 1), True, [("gelu_erf", None)], True)
def test_any_product(
    m: int, n: int, k: int, kind: str, threads: int, of_x: Placed, of_output: Placed, bias: bool, ops: list[tuple[str, Any]], rounded: bool
) -> None:  # fmt: skip
    dtype, weight_dtype, _ = KINDS[kind]
    x, weight = of_x(normal(m, k, dtype=dtype)), normal(n, k, dtype=weight_dtype, seed=1) / k**0.5
    held = normal(m, n, seed=2).to(torch.bfloat16 if rounded else torch.float32)
    given_bias = normal(n, seed=3) if bias else None
    post_ops: list[PostOp] = []
    operands: list[torch.Tensor] = []
    steps: list[Callable[[torch.Tensor], torch.Tensor]] = []
    for name, operand in ops:
        if operand is None:
            post_ops.append(UNARY[name])
            steps.append(TORCH[name])
        elif name == "sum":
            post_ops.append(("sum", 0.0, 0.0, None))
            steps.append(lambda y: y + held.to(y.dtype))
        else:
            all_rows, all_columns, operand_dtype = operand
            values = normal(m if all_rows else 1, n if all_columns else 1, seed=4 + len(operands)).to(operand_dtype)
            operands.append(values)
            post_ops.append((name, 0.0, 0.0, rows_of(values)))
            steps.append(lambda y, name=name, values=values: BINARY[name](y, values.to(y.dtype)))

    def eager(precision: torch.dtype) -> torch.Tensor:
        y = F.linear(x.to(precision), weight.to(precision), None if given_bias is None else given_bias.to(precision))
        for step in steps:
            y = step(y)
        return y

    want = eager(torch.float64)
    theirs = relative_error(eager(torch.float32), want)
    assume(theirs < FLOAT32_LIMIT / FLOAT32_TIMES_EAGER)  # where all digits cancel, no error says anything
    got = product(x, weight, given_bias, kind=kind, out=of_output(held), ops=post_ops, operands=operands, threads=threads)
    assert relative_error(got, want) <= float32_limit(theirs) + (relative_error(want.to(got.dtype), want) * 1.01 if rounded else 0)


@settings(max_examples=40)
@given(sizes, sizes, sizes, kinds)
def test_the_same_bits_on_any_number_of_threads_of_a_step(m: int, n: int, k: int, kind: str) -> None:
    dtype, weight_dtype, _ = KINDS[kind]
    x, weight = normal(m, k, dtype=dtype), normal(n, k, dtype=weight_dtype, seed=1)
    results = [product(x, weight, kind=kind, threads=4) for _ in range(2)]
    assert torch.equal(*results)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("m", "n", "k"), [(3, 0, 4), (3, 5, 0), (0, 0, 4), (0, 5, 0), (3, 0, 0)])
def test_products_without_columns_or_depth_are_refused(m: int, n: int, k: int, kind: str) -> None:
    dtype = KINDS[kind][0]
    with pytest.raises(ValueError, match="empty"):
        step = Gemm(rows_of(torch.empty(m, k, dtype=dtype)), n, False, rows_of(torch.empty(m, n)), [])
        packed(step, torch.empty(n, k, dtype=dtype))

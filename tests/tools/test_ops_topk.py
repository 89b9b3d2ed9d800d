"""The cases of ``drystone ops topk``: which there are, and what is refused as a result."""

from __future__ import annotations

import itertools

import pytest
import torch

from drystone.eager import operators
from drystone.tools.ops.operators import topk


def test_the_matrix_is_complete():
    sizes = {tuple(case.sizes.values()) for case in topk.cases("float32")}
    wanted = {
        (c, n, k)
        for c, n in itertools.product((1000, 10_000, 50_257, 1_000_000), (1, 5, 32, 128))
        for k in (1, 10, 50, 100, c // 10, c // 2, c - 5)
    }
    assert sizes == wanted
    assert len(list(topk.cases("float32"))) == len(wanted)


def test_only_the_longest_are_not_quick():
    long = {(case.sizes["C"], case.sizes["N"]) for case in topk.cases("float32") if case.tag != "quick"}
    assert long == {(1_000_000, 128)}


def test_work():
    case = topk.case("bfloat16", 1000, 5, 50)
    assert (case.flops, case.bytes) == (5000, 2 * 5000 + 250 * (2 + 8))
    assert case.copies == 16 and topk.case("float32", 1_000_000, 32, 1).copies == 1


@pytest.mark.skipif(operators.why_not() is not None, reason=str(operators.why_not()))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_contenders_agree(dtype):
    contest = topk.case(dtype, 1000, 5, 50).make()
    calls, reasons = contest.prepare()
    assert list(calls) == ["drystone", "torch"] and not reasons
    for i in range(16):
        assert torch.equal(calls["drystone"](i), calls["torch"](i))
    assert torch.equal(calls["drystone"](0).double(), contest.exact())


def test_wrong_results_are_refused():
    x = torch.randn(2, 100)
    values, indices = x.topk(5)
    topk.check(x, values, values, indices)
    with pytest.raises(ValueError, match="not torch's"):
        topk.check(x, values, values + 1e-6, indices)
    with pytest.raises(ValueError, match="indices of other values"):
        topk.check(x, values, values, indices.flip(-1))
    equal = torch.ones(2, 100)
    with pytest.raises(ValueError, match="occurs twice"):
        topk.check(equal, equal[:, :5], equal[:, :5], torch.zeros(2, 5, dtype=torch.int64))

"""topk under torch's own name: torch's samples of the operator, gradients, and errors, with and without ``drystone.enable()``."""

from __future__ import annotations

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

import drystone

TOPK = next(info for info in op_db if info.name == "topk")


@pytest.mark.parametrize("dtype", sorted(TOPK.supported_dtypes("cpu"), key=str), ids=str)
def test_torchs_samples(dtype: torch.dtype) -> None:
    for sample in TOPK.sample_inputs("cpu", dtype):
        expected = TOPK(sample.input, *sample.args, **sample.kwargs)
        with drystone.enabled(only=["topk"]):
            values, indices = TOPK(sample.input, *sample.args, **sample.kwargs)
        dim = sample.args[1] if len(sample.args) > 1 else sample.kwargs.get("dim", -1)
        assert values.stride() == expected.values.stride() and indices.stride() == expected.indices.stride()
        ordered = [x.sort(dim).values if sample.input.dim() else x for x in (values, expected.values)]
        assert torch.equal(*ordered)  # where they need not be sorted, ours are all the same
        if sample.input.dim():
            assert torch.equal(sample.input.gather(dim, indices), values)


def test_gradients() -> None:
    checked = 0
    for sample in TOPK.sample_inputs("cpu", torch.float64, requires_grad=True):
        function = lambda x, sample=sample: TOPK(x, *sample.args, **sample.kwargs).values  # noqa: E731
        with drystone.enabled(only=["topk"]):
            assert torch.autograd.gradcheck(function, sample.input)
            assert torch.autograd.gradgradcheck(function, sample.input)
            checked += 1
    assert checked


def test_our_kernel_runs_under_torchs_name() -> None:
    x = torch.zeros(4, 3000)
    drystone.enable()
    result = torch.topk(x, 5)
    assert torch.equal(result.indices, torch.arange(5).expand(4, 5))  # torch's own are others
    assert isinstance(result, torch.return_types.topk)
    drystone.disable()
    assert not torch.equal(torch.topk(x, 5).indices, result.indices)


def test_results_may_be_given() -> None:
    x = torch.randn(4, 3000)
    out = torch.empty(0), torch.empty(0, dtype=torch.int64)
    with drystone.enabled():
        torch.topk(x, 5, out=out)
        expected = torch.topk(x, 5)
    assert torch.equal(out[0], expected.values) and torch.equal(out[1], expected.indices)

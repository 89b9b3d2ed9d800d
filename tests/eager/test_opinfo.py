"""PyTorch's own samples of the operators: results, gradients and errors with ``drystone.enable()`` are those without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from operator_calls import NAMES
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

import drystone

INFOS = [info for info in op_db if info.name in NAMES]
DTYPES = [torch.float32, torch.bfloat16, torch.int64]
SAMPLED = [
    pytest.param(info, dtype, id=f"{info.name}{info.variant_test_name}-{dtype}")
    for info in INFOS
    for dtype in DTYPES
    if dtype in info.supported_dtypes("cpu") and ("conv" not in info.name or dtype == torch.float32)  # all else is torch's there
]


def outcome(info: Any, sample: Any) -> list[torch.Tensor]:
    """Results and gradients, as a list."""
    given = pytree.tree_leaves((sample.input, sample.args, sample.kwargs))
    leaves = [x for x in given if isinstance(x, torch.Tensor) and x.requires_grad]
    result = info(sample.input, *sample.args, **sample.kwargs)
    tensors = [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
    differentiable = [x for x in tensors if x.requires_grad]
    gradients: tuple[torch.Tensor | None, ...] = ()
    if differentiable and leaves:
        total = torch.stack([x.float().square().sum() for x in differentiable]).sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return [x.detach().to_dense() for x in [*tensors, *(x for x in gradients if x is not None)]]


def test_every_operator_is_here() -> None:
    assert {info.name for info in INFOS} == NAMES


@pytest.mark.parametrize(("info", "dtype"), SAMPLED)
def test_samples(info: Any, dtype: torch.dtype) -> None:
    with_gradients = dtype.is_floating_point and info.supports_autograd
    for sample in info.sample_inputs("cpu", dtype, requires_grad=with_gradients):
        if info.name == "topk" and (sample.args + tuple(sample.kwargs.values()))[-1:] == (False,):
            continue  # not sorted: any order is right, and tests of topk compare what it holds
        stock = outcome(info, sample)
        with drystone.enabled():
            ours = outcome(info, sample)
        for got, expected in zip(ours, stock, strict=True):
            assert got.stride() == expected.stride()
            torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize(
    "info", [info for info in INFOS if info.error_inputs_func], ids=lambda info: f"{info.name}{info.variant_test_name}"
)
def test_errors(info: Any) -> None:
    for error in info.error_inputs("cpu"):
        sample = error.sample_input
        with drystone.enabled(), pytest.raises(error.error_type, match=error.error_regex):
            info(sample.input, *sample.args, **sample.kwargs)

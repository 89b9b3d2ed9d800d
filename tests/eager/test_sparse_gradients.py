"""Sparse gradients of tables, which torch composes from operators that are ours: the same with ``drystone.enable()`` as without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import drystone

ROWS, WIDTH, READ = 200, 64, 900  # large enough to be ours


def both(call: Callable[..., torch.Tensor], by_name: Callable[..., torch.Tensor], *operands: Any, **options: Any) -> torch.Tensor:
    """The sparse gradient of ``operands[1]``, which has the same entries, in the same order, in each way of calling."""
    table = operands[1]

    def gradient(function: Callable[..., torch.Tensor]) -> torch.Tensor:
        y = function(*operands, sparse=True, **options)
        (found,) = torch.autograd.grad(y, table, torch.arange(y.numel()).view(y.shape).to(y.dtype))
        return found

    expected = gradient(call)
    with drystone.enabled():
        results = [gradient(call), gradient(by_name)]
    assert expected.is_sparse
    for got in results:
        assert got.is_sparse and got.is_coalesced() == expected.is_coalesced() and got.shape == expected.shape
        assert torch.equal(got._indices(), expected._indices())
        torch.testing.assert_close(got._values(), expected._values(), rtol=0, atol=0)
        torch.testing.assert_close(got.coalesce().to_dense(), expected.coalesce().to_dense(), rtol=1e-6, atol=1e-6)
    return expected


def table_and_indices(dtype: torch.dtype, index: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(ROWS, WIDTH).to(dtype).requires_grad_(), torch.randint(0, ROWS, (READ,), dtype=index)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("index", [torch.int64, torch.int32])
@pytest.mark.parametrize("padding_idx", [None, 7, -1])
def test_embedding(dtype: torch.dtype, index: torch.dtype, padding_idx: int | None) -> None:
    table, which = table_and_indices(dtype, index)
    both(F.embedding, drystone.ops.embedding, which, table, padding_idx=padding_idx)
    both(F.embedding, drystone.ops.embedding, which.view(30, 30), table, padding_idx=padding_idx)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("index", [torch.int64, torch.int32])
@pytest.mark.parametrize("padding_idx", [None, 7])
def test_embedding_bag(mode: str, dtype: torch.dtype, index: torch.dtype, padding_idx: int | None) -> None:
    table, which = table_and_indices(dtype, index)
    bags = {"mode": mode, "padding_idx": padding_idx}
    both(F.embedding_bag, drystone.ops.embedding_bag, which.view(30, 30), table, **bags)
    ends = torch.tensor([0, 0, 1, 400, 401, 899, READ], dtype=index)  # empty bags, one of one row, long ones
    both(F.embedding_bag, drystone.ops.embedding_bag, which, table, ends, **bags)
    both(F.embedding_bag, drystone.ops.embedding_bag, which, table, ends, include_last_offset=True, **bags)


def test_weights_of_samples() -> None:
    table, which = table_and_indices(torch.float32, torch.int64)
    scale = torch.randn(30, 30)
    both(F.embedding_bag, drystone.ops.embedding_bag, which.view(30, 30), table, mode="sum", per_sample_weights=scale)


def test_an_optimiser_for_sparse_gradients_takes_the_same_steps() -> None:
    table, which = table_and_indices(torch.float32, torch.int64)
    tables = []
    for only in ([], None):
        parameter = table.detach().clone().requires_grad_()
        optimiser = torch.optim.SparseAdam([parameter])
        with drystone.enabled(only=only):
            for part in which.split(300):
                optimiser.zero_grad()
                F.embedding(part, parameter, sparse=True).square().sum().backward()
                optimiser.step()
        tables.append(parameter.detach())
    torch.testing.assert_close(tables[1], tables[0], rtol=1e-6, atol=1e-6)

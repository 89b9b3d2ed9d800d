"""Products of two computed matrices against torch: integers, so that sums are exact."""

from __future__ import annotations

import pytest
import torch
from layout import blank, dense, place, read, run, strided

from drystone import _native
from drystone._native import Format

PLAIN = Format.plain


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (5, 7, 3), (16, 16, 16), (17, 33, 65), (64, 1, 9), (1, 128, 31)])
def test_products_of_strided_operands(m: int, k: int, n: int) -> None:
    heads, batch = 3, 2
    a = torch.randint(-4, 5, (batch, m, heads, k)).float()
    b = torch.randint(-4, 5, (batch, n, heads, k)).float()
    left = strided((batch, heads, m, k), (m * heads * k, k, heads * k, 1), PLAIN)
    right = strided((batch, heads, k, n), (n * heads * k, k, 1, heads * k), PLAIN)
    output = dense((batch, heads, m, n), PLAIN)
    result = blank(output)
    run(_native.Matmul(left, right, output), a.reshape(-1), b.reshape(-1), result)
    assert torch.equal(read(output, result), a.transpose(1, 2) @ b.permute(0, 2, 3, 1))
    one = dense((1, heads, k, n), PLAIN)
    broadcast = torch.randint(-4, 5, (1, heads, k, n)).float()
    run(_native.Matmul(left, one, output), a.reshape(-1), place(broadcast, one), result)
    assert torch.equal(read(output, result), a.transpose(1, 2) @ broadcast)

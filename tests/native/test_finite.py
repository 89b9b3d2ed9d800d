"""all_finite around its block of 64, with the bad element at every place."""

from __future__ import annotations

import pytest
import torch

from drystone import native


def all_finite(x: torch.Tensor) -> bool:
    return native.all_finite(x.data_ptr(), x.numel(), native.DTYPES[x.dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [0, 1, 2, 15, 31, 63, 64, 65, 129, 200])
def test_a_nan_or_infinity_anywhere(length: int, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    x = torch.tensor([limits.max, limits.min, limits.tiny / 4, -0.0]).repeat(50)[:length].to(dtype)
    assert all_finite(x)
    for place in range(length):
        for bad in (torch.nan, torch.inf, -torch.inf):
            spoiled = x.clone()
            spoiled[place] = bad
            assert not all_finite(spoiled)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="f32 or bf16"):
        all_finite(torch.zeros(3, dtype=torch.float64))

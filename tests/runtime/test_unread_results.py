"""Results of a segment that nobody reads have no place, whatever shapes they turn out to have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import drystone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
def test_embedding_bag(dtype: torch.dtype) -> None:
    """Its offsets' bags come out empty on some paths where the trace has one entry an id."""

    class Bag(nn.Module):
        def forward(self, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
            return nn.functional.embedding_bag(ids, table, mode="sum") * 2

    ids, table = torch.randint(0, 5, (5, 5)), torch.randn(5, 4).to(dtype)
    fast = drystone.optimize(Bag().eval(), (ids, table), tuning="estimate")
    assert torch.equal(fast(ids, table), Bag()(ids, table))

"""as_strided looks at memory, not at the tensor in it: a program gives it the memory that eager would, or refuses."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

import drystone
from drystone import DrystoneWarning, UnsupportedError, native


class Windows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.softmax(x, -1)
        w = torch.softmax((z * 2).relu(), -1)
        return w.as_strided((2, 3, 4, 4), (32, 8, 4, 1), 0).sum(-1) + z.sum()


class OfATransposed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 2).transpose(1, 2).as_strided((2, 4), (8, 1), 0)


class PastASlice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 2)[:1].as_strided((2, 4), (32, 1), 0)


def test_offsets_count_from_the_tensor_and_not_from_the_arena() -> None:
    x = torch.randn(2, 4, 8)
    below = native.isa() == "none"  # all is torch's there, which is not worth a warning
    with nullcontext() if below else pytest.warns(DrystoneWarning, match="as_strided"):
        fast = drystone.optimize(Windows().eval(), x, tuning="estimate")
    assert torch.allclose(fast(x), Windows()(x), rtol=1e-5)


@pytest.mark.parametrize("model", [OfATransposed(), PastASlice()], ids=lambda model: type(model).__name__)
def test_memory_that_a_program_does_not_have_is_refused(model: nn.Module) -> None:
    with pytest.raises(UnsupportedError, match="as_strided"):
        drystone.optimize(model.eval(), torch.randn(2, 4, 8), tuning="estimate")

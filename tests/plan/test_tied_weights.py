"""A parameter that several layers share is packed once."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import drystone
from agreement import Reference, assert_close, program_of
from drystone import native
from drystone.runtime.module import OptimizedModule

WIDTH = 64


class Two(nn.Module):
    """Two layers of one shape, with weights of their own or one."""

    def __init__(self, kind: str, tied: bool) -> None:
        super().__init__()
        make = {
            "linear": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
            "conv": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
        }
        self.first, self.second = make[kind](), make[kind]()
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu() + x)


def packed_bytes(model: nn.Module, x: torch.Tensor, **options: object) -> int:
    fast = drystone.optimize(model.eval(), x, tuning="estimate", **options)
    assert isinstance(fast, OptimizedModule)
    if not options:
        Reference(model, (x,)).check_float32(fast(x))
    return fast.explain().weights_bytes


@pytest.mark.skipif(native.isa() == "none", reason="nothing is packed below AVX2")
@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")  # which says so where bfloat16 is computed in float32
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_layers_with_one_parameter(kind: str, dtype: torch.dtype | None) -> None:
    x = torch.randn(4, WIDTH) if kind == "linear" else torch.randn(1, WIDTH, 12, 12)
    options = {"dtype": dtype} if dtype else {}
    apart, tied = (packed_bytes(Two(kind, tied), x, **options) for tied in (False, True))
    assert apart == 2 * tied > 0


def test_a_layer_used_twice_and_read_as_it_is() -> None:
    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(96, WIDTH)

        def forward(self, index: torch.Tensor) -> torch.Tensor:
            x = self.table(index)
            x = F.linear(F.linear(x, self.table.weight).softmax(-1), self.table.weight.t())
            return F.linear(x, self.table.weight)

    model, index = Embedding().eval(), torch.randint(96, (2, 7))
    fast = drystone.optimize(model, index, tuning="estimate")
    assert isinstance(fast, OptimizedModule)
    with torch.no_grad():
        assert_close(fast(index), model(index))
    copies = [buffer for buffer, _ in program_of(fast).assembled.slots if buffer.kind == "constant"]
    packed = {buffer.data.data_ptr() for buffer in copies} - {model.table.weight.data_ptr()}  # the lookup reads the model's own
    assert len(packed) <= 2  # one way for the two outer, another for the inner

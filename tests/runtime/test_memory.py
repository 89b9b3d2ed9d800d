"""Programs of one module share the memory of a call."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import assert_close
from drystone import native
from drystone.preparer import programs_of
from drystone.runtime.memory import Memory


class Owner:
    pass


def test_a_block_is_as_large_as_the_largest_need() -> None:
    memory = Memory()
    small, large = Owner(), Owner()
    memory.register(small, 1000)
    block = memory.block()
    assert memory.fit(block, 1000).numel() == 1000
    block.frames[0] = "bound to the old memory"
    number = memory.register(large, 5000)
    assert memory.fit(block, 1000).numel() == 1000
    assert memory.fit(block, 5000).numel() == 5000
    assert block.frames == {}
    other = memory.block()
    assert other is not block
    assert memory.fit(other, 1000).numel() == 5000, "it would have to grow at once"
    block.frames[number] = "the large one's"
    memory.idle.append(block)
    del large
    gc.collect()
    assert block.frames == {}
    assert not memory.idle, "larger than any program needs"


def blocks(fast: Any) -> list[int]:
    memory = programs_of(fast).preparer.memory
    return [reference().memory.numel() for reference in memory._blocks.valuerefs()]


@pytest.mark.parametrize("declared", [False, True])
def test_many_batch_sizes_take_the_memory_of_the_largest(declared: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval().requires_grad_(False)
    shapes = ({0: torch.export.Dim("batch", min=2, max=64)},) if declared else None
    inputs = [torch.randn(n, 3, 24, 24) for n in (2, 9, 5, 7, 3)]
    fast = drystone.optimize(model, inputs[0], tuning="estimate", dynamic_shapes=shapes)
    for _ in range(2):
        for x in inputs:
            assert_close(fast(x), model(x))
    needs = [prepared.program._need for _, prepared in programs_of(fast).items()]
    assert len(needs) == 5
    assert blocks(fast) == [max(needs)]


@pytest.mark.skipif(native.isa() == "none", reason="below AVX2 packed layers are the model's own")
def test_parts_and_packed_layers_share_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for part in self.parts:
                x = part(x) if x.sum() > -1e9 else x
            return x

    model, x = Net().eval().requires_grad_(False), torch.randn(2, 4, 16, 16)
    with pytest.warns(drystone.DrystoneWarning):
        parted = drystone.optimize(model, x, tuning="estimate")
    assert_close(parted(x), model(x))
    preparers = [programs_of(program).preparer for forward in parted._forwards for program in forward.programs]
    assert len({id(preparer) for preparer in preparers}) == 1
    packed = drystone.optimize(model, x, tuning="estimate", capture="eager")
    assert_close(packed(x), model(x))
    programs = [p for table in packed.tables for s in table.structures.values() for p in s.programs.values()]
    assert len(programs) > 1
    assert len({id(program._memory) for program in programs}) == 1

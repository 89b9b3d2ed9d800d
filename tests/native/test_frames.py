"""One program in frames of several Python threads at once: they share steps and weights, and nothing that is written."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from layout import dense

from drystone import native
from drystone.native import DType, Winograd
from drystone.plan.implementations.movement import copy_step

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

THREADS = 8
SHAPE = (1, 16, 9, 11)


class Chain:
    """conv 3x3 by oneDNN, by Winograd, then softmax over the last axis: a primitive, an own kernel with scratch, one without."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        desc = dense(SHAPE, "channels_last")
        self.weight, self.bias = torch.randn(16, 16, 3, 3), torch.randn(16)
        own = Winograd(desc, [16, 16, 3, 3], True, desc, [1, 1], [1, 1], 4, [])
        onednn = native.Convolution(desc, [16, 16, 3, 3], True, desc, [1, 1], [1, 1], [1, 1], [1, 1], 1, [])
        plain = dense(SHAPE, "plain")
        self.packed = [torch.zeros(step.packed_bytes, dtype=torch.uint8) for step in (onednn, own)]
        for step, memory in zip((onednn, own), self.packed, strict=True):
            step.pack(DType.f32, self.weight.data_ptr(), memory.data_ptr())
        self.program = native.Program()
        self.program.add(copy_step(plain, desc), [0, 3])
        self.program.add(onednn, [3, 1, 2, 4])
        self.program.add(own, [4, 5, 2, 6])
        self.program.add(copy_step(desc, plain), [6, 7])
        self.program.add(native.softmax(plain, plain, 3), [7, 8])

    def call(self, x: torch.Tensor, times: int = 1) -> list[torch.Tensor]:
        """The results of so many calls in a frame of their own."""
        count = x.numel()
        arena = torch.zeros(4, count)
        scratchpad = torch.empty(max(self.program.scratchpad_bytes, 1), dtype=torch.uint8)
        places = [0, self.packed[0].data_ptr(), self.bias.data_ptr(), arena[0].data_ptr(), arena[1].data_ptr()]
        places += [self.packed[1].data_ptr(), arena[2].data_ptr(), arena[3].data_ptr(), 0]
        frame = native.Frame(self.program, places, [(0, 0, 0), (8, 1, 0)], scratchpad.data_ptr(), torch.get_num_threads())
        results = []
        for _ in range(times):
            result = torch.empty(SHAPE)
            frame.call([x.data_ptr(), result.data_ptr()], len(self.program))
            results.append(result)
        return results


@pytest.mark.parametrize("openmp_threads", [1, 2])
def test_frames_in_several_threads(openmp_threads: int) -> None:
    torch.set_num_threads(openmp_threads)
    chain = Chain()
    inputs = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(THREADS)]
    wanted = [chain.call(x)[0] for x in inputs]
    assert all(torch.allclose(result.sum(-1), torch.ones(SHAPE[:-1])) for result in wanted)
    assert not torch.equal(wanted[0], wanted[1])
    start = threading.Barrier(THREADS)

    def worker(i: int) -> bool:
        start.wait()
        return all(torch.equal(result, wanted[i]) for result in chain.call(inputs[i], 200))

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(worker, range(THREADS)))

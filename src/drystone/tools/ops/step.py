"""A native step by itself as a contender: called as a program calls it, with nothing of a program around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from drystone import native

from .case import Call


def desc(x: torch.Tensor) -> native.TensorDesc:
    """The descriptor of a dense tensor in the plain format."""
    return native.TensorDesc.dense(native.DTYPES[x.dtype], native.FORMATS["plain"], list(x.shape))


def call_of(step: native.Step, copies: Sequence[Sequence[torch.Tensor]], output: torch.Tensor) -> Call:
    """``copies`` holds the tensors of the step's slots, a list for each copy of the cold operands; ``output`` is what it gives."""
    program = native.Program()
    program.add(step, range(len(copies[0])))
    scratchpad = native.allocate(program.scratchpad_bytes)
    threads = torch.get_num_threads()
    frames = [native.Frame(program, [x.data_ptr() for x in slots], [], scratchpad.data_ptr(), threads) for slots in copies]
    kept = (copies, scratchpad)  # the frames have their addresses

    def call(i: int) -> torch.Tensor:
        assert kept
        frames[i].run(0, 1)
        return output

    return call

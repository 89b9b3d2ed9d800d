"""A program ready to be called: its arena, its frames, the ATen segments between its native stretches."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import torch

from drystone import forks, native
from drystone.errors import DrystoneError, InputError
from drystone.memory import REMEDY, has_memory
from drystone.plan.assemble import Assembled, Buffer, Place
from drystone.plan.formats import PLAIN
from drystone.runtime.memory import Block, Memory

# A cache line before the arena's end is read by vector loads that run past a tensor's last element.
_SLACK = 64
_NO_RESULTS = (
    "there is no memory for results: a torch mode that makes tensors without data (FakeTensorMode, functionalize) is active; "
    "call the module outside of it"
)
# Elements of an output whose likeness may have memory.
_SMALL = 1024

_address = torch.Tensor.data_ptr
_storage = torch.Tensor.untyped_storage
_storage_bytes = torch.UntypedStorage.nbytes


class Program:
    """``program(inputs)`` for inputs of the shapes it was made for: outputs are fresh tensors.

    Calls may come from several threads at once: each takes a block (arena and scratchpad) of ``memory``, which
    other programs may share, and the frame that is bound to it.
    """

    def __init__(self, assembled: Assembled, threads: int, memory: Memory | None = None) -> None:
        forks.note_use()
        self.assembled = assembled
        self.threads = threads
        self._outputs = [
            _template(_extent(place, dtype), dtype) for place, dtype in zip(assembled.outputs, assembled.output_dtypes, strict=True)
        ]
        if not all(map(has_memory, self._outputs)):
            raise DrystoneError(_NO_RESULTS)
        self._within = list(assembled.within.items())
        for output, _ in self._within:
            self._outputs[output] = torch.empty(0)
        # Of inputs that are the whole of their storage, as most are: the others are looked at one by one.
        self._usual_bytes = [place.desc.bytes for place in assembled.inputs]
        self._scratchpad = _whole_lines(assembled.arena_bytes)  # where it begins
        # Whole elements of any dtype too: torch's operators may look at the storage of a tensor that lies in it.
        self._need = self._scratchpad + _whole_lines(assembled.program.scratchpad_bytes)
        self._memory = memory or Memory()
        self._number = self._memory.register(self, self._need)
        self._block, self._put_back = self._memory.block, self._memory.idle.append
        self._steps = len(assembled.program)
        self._plain = assembled.segments == 0
        self.reorders = sum(record.kind in ("reorder", "copy") for record in assembled.records)
        self.implementations = [record.implementation for record in assembled.records if record.kind == "node"]

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """``inputs``: contiguous tensors in the graph's order. Their shapes and dtypes are not checked here.

        What lies in another format than plain, goes in and comes out as a tensor of one axis: its memory.
        """
        outputs = self._results(inputs)
        block = self._block()
        try:
            frame = block.frames.get(self._number) or self._frame(block)
            pointers = self._addresses(inputs, outputs)
            if self._plain:
                frame.native.call(pointers, self._steps)
            else:
                frame.native.bind(pointers)
                with torch.autocast("cpu", enabled=False):  # the plan says what is computed in which precision
                    frame.run_segments([*inputs, *outputs])
        finally:
            self._put_back(block)
        return outputs

    def _results(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Memory for the outputs: fresh, but for those that are written into an input."""
        outputs = [*map(torch.empty_like, self._outputs)]
        for output, index in self._within:
            outputs[output] = inputs[index]
        return outputs

    def single(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """The only output of a program without segments: as a call, with less between the calls of small ones."""
        if not self._plain:
            return self(inputs)[0]
        output = torch.empty_like(self._outputs[0])
        block = self._block()
        frame = block.frames.get(self._number) or self._frame(block)
        frame.native.call(self._addresses(inputs, [output]), self._steps)
        self._put_back(block)
        return output

    def _addresses(self, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> list[int]:
        """Where inputs and outputs lie; raises where one has no memory. Of each call, so it is built of C functions."""
        addresses = [*map(_address, inputs), *map(_address, outputs)]
        if 0 in addresses or [*map(_storage_bytes, map(_storage, inputs))] != self._usual_bytes:
            for name, tensor in zip(self.assembled.input_names, inputs, strict=True):
                if not has_memory(tensor):
                    raise InputError(f"input {name!r} has no memory for its elements: {REMEDY}")
            if not all(map(has_memory, outputs)):
                raise DrystoneError(_NO_RESULTS)
        return addresses

    def time_steps(self, inputs: list[torch.Tensor]) -> list[float]:
        """Seconds of each record of the program, in one call."""
        outputs = self._results(inputs)
        block = self._block()
        frame = block.frames.get(self._number) or self._frame(block)
        frame.native.bind(self._addresses(inputs, outputs))
        seconds = frame.run_segments([*inputs, *outputs], timed=True)
        self._put_back(block)
        return seconds

    def _frame(self, block: Block) -> _Frame:
        memory = self._memory.fit(block, self._need)
        made = block.frames[self._number] = _Frame(self.assembled, self.threads, memory, self._scratchpad)
        return made


class _Frame:
    """A program bound to the memory of one call in flight: the arena, and from ``scratchpad`` on the scratchpad."""

    def __init__(self, assembled: Assembled, threads: int, memory: torch.Tensor, scratchpad: int) -> None:
        self.assembled = assembled
        self.arena = memory
        inputs = len(assembled.inputs)
        addresses, externals = [], []
        for slot, (buffer, offset) in enumerate(assembled.slots):
            address = 0
            if buffer.kind == "arena":
                address = self.arena.data_ptr() + buffer.offset + offset
            elif buffer.kind == "constant":
                assert buffer.data is not None
                address = buffer.data.data_ptr() + offset
            else:
                externals.append((slot, self._argument(buffer, inputs), offset))
            addresses.append(address)
        self.native = native.Frame(assembled.program, addresses, externals, memory.data_ptr() + scratchpad, threads)

    @staticmethod
    def _argument(buffer: Buffer, inputs: int) -> int:
        return buffer.index if buffer.kind == "input" else inputs + buffer.index

    def _tensor(self, place: Place, dtype: torch.dtype, arguments: list[torch.Tensor]) -> torch.Tensor:
        """The torch tensor of ``dtype`` that aliases ``place``."""
        buffer = place.buffer
        if buffer.kind == "arena":
            memory = self.arena[buffer.offset + place.offset :][: place.desc.bytes]
        else:
            whole = buffer.data if buffer.kind == "constant" else arguments[self._argument(buffer, len(self.assembled.inputs))]
            assert whole is not None
            memory = whole.reshape(-1).view(torch.uint8)[place.offset :][: place.desc.bytes]
        return memory.view(dtype).as_strided(place.desc.shape, place.desc.strides)

    def run_segments(self, arguments: list[torch.Tensor], timed: bool = False) -> list[float]:
        """The native stretches and the ATen calls in turn; the seconds of each record when ``timed``."""
        seconds: list[float] = []
        records = self.assembled.records
        cuts = [i for i, record in enumerate(records) if record.kind == "aten"]
        done = 0
        for start, stop in pairwise([-1, *cuts, len(records)]):
            count = stop - start - 1
            if timed:
                seconds += self.native.run_timed(done, done + count)
            elif count:
                self.native.run(done, done + count)
            done += count
            if stop < len(records):
                began = time.perf_counter()
                record = records[stop]
                assert record.call is not None and record.node is not None
                read = zip(record.call_inputs, record.node.inputs, strict=True)
                results = record.call([self._tensor(place, value.dtype, arguments) for place, value in read])
                for place, value, result in zip(record.call_outputs, record.node.outputs, results, strict=True):
                    if place is not None:
                        self._tensor(place, value.dtype, arguments).copy_(result)
                seconds.append(time.perf_counter() - began)
        return seconds


def _whole_lines(size: int) -> int:
    """``size`` bytes and the slack behind them, in whole cache lines."""
    return -(-(size + _SLACK) // _SLACK) * _SLACK


def _template(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    """What outputs are made like, which takes torch two thirds of making them of a shape. Large ones hold one element."""
    small = math.prod(shape) <= _SMALL
    return torch.empty(shape, dtype=dtype, device="cpu") if small else torch.empty((), dtype=dtype, device="cpu").expand(shape)


def _extent(place: Place, dtype: torch.dtype) -> list[int]:
    """The shape of a tensor for ``place``: its own where it is plain, else one axis for all its memory."""
    desc = place.desc
    return list(desc.shape) if desc.format == native.FORMATS[PLAIN] else [desc.bytes // dtype.itemsize]

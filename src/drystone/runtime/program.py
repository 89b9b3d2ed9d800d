"""A program ready to be called: its arena, its frames, the ATen segments between its native stretches."""

from __future__ import annotations

import math
import time
from collections import deque
from itertools import pairwise

import torch

from drystone import native
from drystone.errors import DrystoneError, InputError
from drystone.memory import REMEDY, has_memory
from drystone.plan.assemble import Assembled, Buffer, Place
from drystone.plan.formats import PLAIN

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

    Calls may come from several threads at once: each takes a frame (arena and scratchpad) from a pool.
    """

    def __init__(self, assembled: Assembled, threads: int) -> None:
        native.note_use()
        self.assembled = assembled
        self.threads = threads
        self._outputs = [
            _template(_extent(place, dtype), dtype) for place, dtype in zip(assembled.outputs, assembled.output_dtypes, strict=True)
        ]
        if not all(map(has_memory, self._outputs)):
            raise DrystoneError(_NO_RESULTS)
        # Of inputs that are the whole of their storage, as most are: the others are looked at one by one.
        self._usual_bytes = [place.desc.bytes for place in assembled.inputs]
        self._frames: deque[_Frame] = deque()
        self._steps = len(assembled.program)
        self._plain = assembled.segments == 0
        self.reorders = sum(record.kind in ("reorder", "copy") for record in assembled.records)
        self.implementations = [record.implementation for record in assembled.records if record.kind == "node"]

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """``inputs``: contiguous tensors in the graph's order. Their shapes and dtypes are not checked here.

        What lies in another format than plain, goes in and comes out as a tensor of one axis: its memory.
        """
        outputs = [*map(torch.empty_like, self._outputs)]
        try:
            frame = self._frames.pop()
        except IndexError:
            frame = _Frame(self)
        try:
            pointers = self._addresses(inputs, outputs)
            if self._plain:
                frame.native.call(pointers, self._steps)
            else:
                frame.native.bind(pointers)
                with torch.autocast("cpu", enabled=False):  # the plan says what is computed in which precision
                    frame.run_segments([*inputs, *outputs])
        finally:
            self._frames.append(frame)
        return outputs

    def single(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """The only output of a program without segments: as a call, with less between the calls of small ones."""
        if not self._plain:
            return self(inputs)[0]
        output = torch.empty_like(self._outputs[0])
        try:
            frame = self._frames.pop()
        except IndexError:
            frame = _Frame(self)
        frame.native.call(self._addresses(inputs, [output]), self._steps)
        self._frames.append(frame)
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
        outputs = [*map(torch.empty_like, self._outputs)]
        frame = self._frames.pop() if self._frames else _Frame(self)
        frame.native.bind(self._addresses(inputs, outputs))
        seconds = frame.run_segments([*inputs, *outputs], timed=True)
        self._frames.append(frame)
        return seconds


class _Frame:
    """The memory of one call in flight."""

    def __init__(self, program: Program) -> None:
        assembled = program.assembled
        self.assembled = assembled
        self.arena = native.allocate(assembled.arena_bytes + _SLACK)
        self.scratchpad = native.allocate(assembled.program.scratchpad_bytes + _SLACK)
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
        self.native = native.Frame(assembled.program, addresses, externals, self.scratchpad.data_ptr(), program.threads)

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


def _template(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    """What outputs are made like, which takes torch two thirds of making them of a shape. Large ones hold one element."""
    small = math.prod(shape) <= _SMALL
    return torch.empty(shape, dtype=dtype) if small else torch.empty((), dtype=dtype).expand(shape)


def _extent(place: Place, dtype: torch.dtype) -> list[int]:
    """The shape of a tensor for ``place``: its own where it is plain, else one axis for all its memory."""
    desc = place.desc
    return list(desc.shape) if desc.format == native.FORMATS[PLAIN] else [desc.bytes // dtype.itemsize]

"""A program ready to be called: its arena, its frames, the ATen segments between its native stretches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import torch

from drystone import forks, native
from drystone.errors import DrystoneError, InputError
from drystone.memory import REMEDY, has_memory
from drystone.plan.assembled import Assembled, Buffer, Place, StepRecord
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

# Who is told of each call of a program: its steps have taken so many seconds, in which their threads waited for each other for so
# many (below 0 where that is not seen), and the whole so many.
Observer = Callable[["Program", list[float], list[float], float], None]
observers: list[Observer] = []
_is_profiled = torch.autograd._profiler_enabled

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
        if observers or _is_profiled():
            return self._observed(inputs)
        outputs = self._results(inputs)
        block = self._block()
        try:
            frame = block.frames.get(self._number) or self._frame(block)
            pointers = self._addresses(inputs, outputs)
            if self._plain:
                frame.native.call(pointers, self._steps)
            else:
                frame.native.bind(pointers)
                with _without_autocast():
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
        if not self._plain or observers or _is_profiled():
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

    def time_steps(self, inputs: list[torch.Tensor], limit: float = math.inf) -> list[float]:
        """Seconds of each record of the program, in one call, as far as the one with which they exceed ``limit``."""
        return self._stepwise(inputs, limit=limit)[1]

    def _observed(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """A call that is looked at: by observers, and by torch's profiler, to which each step is a function."""
        began = time.perf_counter()
        idle: list[float] = []
        outputs, seconds = self._stepwise(inputs, named=_is_profiled(), idle=idle)
        took = time.perf_counter() - began
        for observer in list(observers):
            observer(self, seconds, idle, took)
        return outputs

    def _stepwise(
        self, inputs: list[torch.Tensor], named: bool = False, idle: list[float] | None = None, limit: float = math.inf
    ) -> tuple[list[torch.Tensor], list[float]]:
        outputs = self._results(inputs)
        block = self._block()
        try:
            frame = block.frames.get(self._number) or self._frame(block)
            frame.native.bind(self._addresses(inputs, outputs))
            with _without_autocast():
                seconds = frame.run_segments([*inputs, *outputs], timed=True, named=named, idle=idle, limit=limit)
        finally:
            self._put_back(block)
        return outputs, seconds

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
        self._begin, self._end = memory.data_ptr(), memory.data_ptr() + memory.numel()
        self._segments = self._prepared(assembled.records)

    @staticmethod
    def _argument(buffer: Buffer, inputs: int) -> int:
        return buffer.index if buffer.kind == "input" else inputs + buffer.index

    def _prepared(self, records: list[StepRecord]) -> list[_Segment]:
        cuts = [i for i, record in enumerate(records) if record.kind == "aten"]
        last_reading = {place.buffer: i for i in cuts for place in records[i].call_inputs}
        segments = []
        for i in cuts:
            record = records[i]
            assert record.call is not None and record.node is not None
            over = {place.buffer for place in record.call_inputs if place.buffer.kind == "held" and last_reading[place.buffer] == i}
            inputs = [self._lookup(place, value.dtype) for place, value in zip(record.call_inputs, record.node.inputs, strict=True)]
            outputs: list[Buffer | _Lookup | None] = []
            for target, value in zip(record.call_outputs, record.node.outputs, strict=True):
                if target is None or (target.buffer.kind == "held" and target.buffer not in last_reading):
                    outputs.append(None)
                else:
                    outputs.append(target.buffer if target.buffer.kind == "held" else self._lookup(target, value.dtype))
            segments.append(_Segment(i, record.call, inputs, outputs, list(over)))
        return segments

    def _lookup(self, place: Place, dtype: torch.dtype) -> _Lookup:
        """Gives the torch tensor of ``dtype`` that aliases ``place``, for the arguments of a call and what it holds."""
        buffer, desc = place.buffer, place.desc
        if buffer.kind == "held":
            return lambda arguments, held: held[buffer]
        if buffer.kind in ("arena", "constant"):
            memory = buffer.data if buffer.data is not None else self.arena[buffer.offset :]
            alias = _alias(memory, place, dtype)
            return lambda arguments, held: alias
        index = self._argument(buffer, len(self.assembled.inputs))
        if desc.is_dense and desc.bytes == buffer.size:
            shape = tuple(desc.shape)
            return lambda arguments, held: arguments[index].view(shape)
        return lambda arguments, held: _alias(arguments[index], place, dtype)

    def run_segments(
        self,
        arguments: list[torch.Tensor],
        timed: bool = False,
        named: bool = False,
        idle: list[float] | None = None,
        limit: float = math.inf,
    ) -> list[float]:
        """The native stretches and the ATen calls in turn; the seconds of each record when ``timed``.

        When ``named``, torch's profiler gets each under its name. ``idle``: is given the seconds that threads waited for each
        other. ``limit``: it ends with the record with which they exceed so many seconds. All three imply that it is timed.
        """
        seconds: list[float] = []
        alone = named or limit < math.inf  # each native step is a call for itself
        held: dict[Buffer, torch.Tensor] = {}
        start = done = 0  # records, and those of them that are native steps
        for segment in [*self._segments, None]:
            stop = segment.record if segment else len(self.assembled.records)
            count = stop - start
            if alone:
                for number in range(count):
                    if limit < math.inf and sum(seconds) > limit:
                        return seconds
                    with self._named(start + number) if named else nullcontext():
                        seconds += self._timed(done + number, done + number + 1, idle)
            elif timed:
                seconds += self._timed(done, done + count, idle)
            elif count:
                self.native.run(done, done + count)
            done += count
            start = stop + 1
            if limit < math.inf and sum(seconds) > limit:
                return seconds
            if segment:
                began = time.perf_counter()
                with self._named(stop) if named else nullcontext():
                    self._call(segment, arguments, held)
                seconds.append(time.perf_counter() - began)
                if idle is not None:
                    idle.append(-1.0)
        return seconds

    def _timed(self, begin: int, end: int, idle: list[float] | None) -> list[float]:
        if idle is None:
            return self.native.run_timed(begin, end)
        seconds, waited = self.native.run_watched(begin, end)
        idle += waited
        return seconds

    def _named(self, record: int) -> AbstractContextManager[object]:
        return torch.profiler.record_function(f"drystone::{self.assembled.records[record].name}")

    def _call(self, segment: _Segment, arguments: list[torch.Tensor], held: dict[Buffer, torch.Tensor]) -> None:
        results = segment.call([look(arguments, held) for look in segment.inputs])
        for buffer in segment.over:
            del held[buffer]
        for target, result in zip(segment.outputs, results, strict=True):
            if isinstance(target, Buffer):
                # A view of the arena would show what comes to lie there.
                held[target] = result.clone() if self._begin <= _address(result) < self._end else result
            elif target is not None:
                target(arguments, held).copy_(result)


# The tensor of a place, for the arguments of a call and the tensors that torch made in it.
_Lookup: TypeAlias = Callable[[list[torch.Tensor], dict[Buffer, torch.Tensor]], torch.Tensor]


@dataclass
class _Segment:
    """A call of torch's in place of record ``record``. ``outputs``: what is held, what a result is copied to, or None for one that
    nobody reads. ``over``: what is held and read for the last time."""

    record: int
    call: Callable[[list[torch.Tensor]], list[torch.Tensor]]
    inputs: list[_Lookup]
    outputs: list[Buffer | _Lookup | None]
    over: list[Buffer]


def _without_autocast() -> AbstractContextManager[object]:
    """The plan says what is computed in which precision. Entered only if it is on, as that takes longer than a small segment."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


def _alias(memory: torch.Tensor, place: Place, dtype: torch.dtype) -> torch.Tensor:
    mine = memory.reshape(-1).view(torch.uint8)[place.offset :][: place.desc.bytes]
    return mine.view(dtype).as_strided(place.desc.shape, place.desc.strides)


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

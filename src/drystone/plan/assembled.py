"""A program as the planner leaves it: its buffers, the places of values in them, and a record of each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from drystone import native
from drystone.graph.graph import Node, Value
from drystone.plan.formats import PLAIN
from drystone.plan.implementations import Option


@dataclass(eq=False)
class Buffer:
    """Memory of its own. ``kind``: "arena", "input", "output" (``index`` says which), "constant" (``data``), or "held": a tensor
    that torch made and only torch reads, with whatever strides it has."""

    kind: str
    size: int
    index: int = -1
    data: torch.Tensor | None = None
    first: int = -1
    last: int = -1
    read_until: int = -1  # the last node that reads a value that lies in it
    offset: int = 0


@dataclass(frozen=True)
class Place:
    """Where a value lies: in ``buffer`` from byte ``offset`` on, as ``desc`` says."""

    buffer: Buffer
    offset: int
    desc: native.TensorDesc


@dataclass
class StepRecord:
    """One entry of the program, as explain() shows it. ``node`` is None for a reorder or a guard of ``value``."""

    kind: str  # "node", "finish" (a second step of a node), "reorder", "copy", "guard" or "aten"
    value: Value
    implementation: str
    layout: str
    node: Node | None = None
    reason: str = ""
    places: list[Place] = field(default_factory=list)  # that it reads or writes
    overwrites: Value | None = None  # whose memory its output takes over
    call: Callable[[list[torch.Tensor]], list[torch.Tensor]] | None = None
    call_inputs: list[Place] = field(default_factory=list)
    call_outputs: list[Place | None] = field(default_factory=list)  # None for a result that nobody reads

    @property
    def name(self) -> str:
        """The node's, or that of the value between two nodes."""
        return self.node.name if self.node else self.value.name


@dataclass
class Assembled:
    """A program with its memory plan. ``slots``: for each slot of the program its buffer and byte offset."""

    program: native.Program
    records: list[StepRecord]
    slots: list[tuple[Buffer, int]]
    inputs: list[Place]
    input_names: list[str]
    outputs: list[Place]
    output_dtypes: list[torch.dtype]  # a place knows only what its elements are moved as
    arena_bytes: int
    choice: dict[Node, Option]
    lies: list[tuple[StepRecord | None, Value, Place]]  # where a value lies in a format, since which step (None: from the start)
    within: dict[int, int]  # outputs that lie in the memory of an input

    @property
    def constant_bytes(self) -> int:
        """Of packed weights and other constants that the program reads."""
        constants = {buffer: buffer.data for buffer, _ in self.slots if buffer.data is not None}
        return sum(data.nbytes for data in constants.values())

    @property
    def segments(self) -> int:
        return sum(record.kind == "aten" for record in self.records)


@dataclass(frozen=True)
class Ends:
    """The formats in which a program takes its inputs and leaves its outputs; those that are not named are plain."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def of_input(self, index: int) -> str:
        return self.inputs[index] if self.inputs else PLAIN

    def of_output(self, index: int) -> str:
        return self.outputs[index] if self.outputs else PLAIN

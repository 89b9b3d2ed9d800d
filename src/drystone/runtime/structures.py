"""What has been asked of a model's tensors and is not computed yet, and the programs that compute it.

An operator on tensors that nobody can change is no hurry: batch norm, activation and residual after a convolution are noted down,
and one program computes them all when the next convolution, or something that only torch knows, reads the result. A
``Structure`` is such a note. Equal notes are one object, so the second call of a model finds the program by a few lookups.

The rule of what waits, and in which format results lie, is here: ``Structure.waits_for``, ``Table.format_of``, ``Table.reorders``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from drystone.forks import Lock
from drystone.plan.formats import PLAIN, block_of
from drystone.runtime.program import Program

# Structures of one table, at most, and ways of calling one function: where sizes or numbers go on changing inside a model, what is
# new is left to torch.
MAX_STRUCTURES = 16384
MAX_WAYS = 256
# Operations that one program computes, at most.
MAX_STEPS = 24

Kind = tuple[tuple[int, ...], torch.dtype]  # shape and dtype


@dataclass(eq=False)
class Operation:
    """A function or a module on operands of certain kinds. ``trace`` is what capture knows of it.

    ``light``: it goes through its operands element by element. ``spatial``: it is fastest in the table's format. ``pads``: it only
    pads, as a convolution does on the way. ``changes``: the operand that it changes in place and gives back. ``gives``: the operand
    that it gives back as it is; ``copies``: the one that it gives a copy of.
    """

    name: str
    trace: Any
    kind: Kind
    light: bool = False
    spatial: bool = False
    pads: bool = False
    changes: int | None = None
    gives: int | None = None
    copies: int | None = None


@dataclass(eq=False)
class Structure:
    """A tensor of ``kind`` in ``format``: in memory, or as ``operation`` on ``operands``, which are not in memory either or are.

    ``steps``: the operations since memory. ``wanted``: once it was computed twice, for itself and inside something else.
    """

    kind: Kind
    format: str
    size: torch.Size
    operation: Operation | None = None
    operands: tuple[Structure, ...] = ()
    steps: int = 0
    wanted: bool = False
    programs: dict[str, Program] = field(default_factory=dict)  # by the format of the result

    def waits_for(self, reader: Operation) -> bool:
        """Whether it may be computed inside of what ``reader`` makes of it: element by element, or padding before a convolution.
        Where it is read for a second time, it is computed for itself all the same."""
        below = self.operation
        return below is None or (self.steps < MAX_STEPS and (reader.light or (below.pads and reader.spatial)))


# Stands in ``Table.following`` for what is only done to a tensor in memory.
COMPUTED_FIRST = Structure(((), torch.float32), PLAIN, torch.Size())


class Maker(Protocol):
    """Makes what a table lacks."""

    format: str
    lock: Lock  # of whoever has something made

    def operation(self, key: Hashable, function: Callable[..., Any], kinds: Sequence[Kind]) -> Operation | None:
        """None where the native side can't compute it."""

    def program(self, structure: Structure, format: str) -> Program:
        """Gives the tensor of ``structure`` in ``format``, for the memory below it in order. Threads as in force."""

    def renew(self) -> None:
        """The weights have changed: nothing that was packed is used again."""

    def is_constant(self, tensor: torch.Tensor) -> bool:
        """Whether it is one of the model's weights, which nobody changes during a call."""


class Table:
    """Operations, structures and programs of a model for one shape of its inputs."""

    def __init__(self, maker: Maker) -> None:
        self.maker, self.format = maker, maker.format
        self.operations: dict[Any, Operation | None] = {}
        self.structures: dict[Any, Structure] = {}
        # What the function of this key gives for one tensor of this structure. Not in the structures, which would be a cycle.
        self.following: dict[tuple[Hashable, Structure], Structure] = {}
        self._ways: Counter[Hashable] = Counter()
        self._lock = maker.lock

    def operation(self, key: Hashable, function: Callable[..., Any], kinds: tuple[Kind, ...]) -> Operation | None:
        """``function`` on these; ``key`` tells it from others. None where only torch computes it."""
        at = (key, *kinds)
        try:
            return self.operations[at]
        except KeyError:
            with self._lock:
                if at not in self.operations:
                    subject = key[0] if isinstance(key, tuple) else key
                    self._ways[subject] += 1
                    if self._ways[subject] > MAX_WAYS:
                        return None
                    self.operations[at] = self.maker.operation(key, function, kinds)
                return self.operations[at]

    def memory(self, kind: Kind, format: str) -> Structure:
        at = (kind, format)
        found = self.structures.get(at)
        if found is None:
            found = self.structures.setdefault(at, Structure(kind, format, torch.Size(kind[0])))
        return found

    def structure(self, operation: Operation, operands: tuple[Structure, ...]) -> Structure:
        at = (operation, *operands)
        found = self.structures.get(at)
        if found is None:
            format = self.format_of(operation, operands)
            steps = 1 + sum(operand.steps for operand in operands)
            made = Structure(operation.kind, format, torch.Size(operation.kind[0]), operation, operands, steps)
            found = self.structures.setdefault(at, made)
        return found

    @property
    def full(self) -> bool:
        return len(self.structures) >= MAX_STRUCTURES

    def format_of(self, operation: Operation, operands: tuple[Structure, ...]) -> str:
        """Convolutions lead to the table's format, and what follows stays in it; linear layers are plain."""
        if operation.spatial:
            return self.format
        rank = len(operation.kind[0])
        return next((operand.format for operand in operands if len(operand.kind[0]) == rank), PLAIN)

    def reorders(self, kind: Kind, reader: Operation) -> bool:
        """Whether a plain tensor that others may change is brought into the table's format at once, before ``reader`` is: it would
        be in any case, and a copy is safe."""
        block = block_of(self.format)
        return reader.spatial and block > 1 and len(kind[0]) in (3, 4, 5) and kind[0][1] >= block

    def run(self, structure: Structure, leaves: list[torch.Tensor], format: str) -> tuple[torch.Tensor, Program]:
        """The memory of ``structure`` in ``format``, and the program that filled it."""
        program = structure.programs.get(format)
        if program is None:
            with self._lock:
                program = structure.programs.get(format)
                if program is None:
                    program = structure.programs[format] = self.maker.program(structure, format)
        return program.single(leaves), program

"""The memory of calls in flight: programs of one module take turns in it, as only one of them runs in a call."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from typing import Any

import torch

from drystone import native


class Block:
    """Memory for one call. ``frames``: those that are bound to it, by the number of their program."""

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.uint8)
        self.frames: dict[int, Any] = {}


class Memory:
    """Blocks of memory, one a call in flight, each as large as the largest need of the programs that share them."""

    def __init__(self) -> None:
        self.idle: deque[Block] = deque()
        self._blocks: weakref.WeakValueDictionary[int, Block] = weakref.WeakValueDictionary()
        self._needs: dict[int, int] = {}
        self._numbers = itertools.count()

    def register(self, program: object, need: int) -> int:
        """The number of a program that needs so many bytes. It is forgotten with the program."""
        number = next(self._numbers)
        self._needs[number] = need
        weakref.finalize(program, self._forget, number).atexit = False
        return number

    def _forget(self, number: int) -> None:
        need = self._needs.pop(number)
        for reference in self._blocks.valuerefs():
            if block := reference():
                block.frames.pop(number, None)
        if need > max(self._needs.values(), default=0):
            self.idle.clear()  # they are larger than any program needs

    def block(self) -> Block:
        """One that no call uses; whoever takes it puts it back into ``idle``."""
        try:
            return self.idle.pop()
        except IndexError:
            made = Block()
            self._blocks[id(made)] = made
            return made

    def fit(self, block: Block, need: int) -> torch.Tensor:
        """The memory of ``block``, larger than it was where a program needs it."""
        if block.memory.numel() < need:
            block.frames.clear()
            block.memory = torch.empty(0, dtype=torch.uint8)  # the old one goes before the new one comes
            block.memory = native.allocate(max(self._needs.values()))
        return block.memory

"""The memory of caches: pages that sequences take as they grow, and share with others that begin alike.

``Pages`` is the memory of a model's caches, ``Sequence`` what one text has of it, ``Rows`` some sequences as the rows of a call.
Nothing is copied when a sequence grows, is forked (a beam, a common beginning), cropped or moved to another row. Only where two
share a page, and one writes into it, that page is.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence as Listed
from dataclasses import dataclass

import numpy as np
import torch

from drystone import native
from drystone.errors import DrystoneError, InputError
from drystone.graph.cache_pages import PAGE, pages_for

Tensor = torch.Tensor

# Bytes that are asked of the system at once, at least.
_SLAB = 4 << 20


@dataclass(frozen=True)
class Layer:
    """What a layer keeps of a position: keys of ``depth`` features and values of ``width``, each of ``heads``. ``window``: so many
    positions back are read, 0 for all."""

    heads: int
    depth: int
    width: int
    window: int = 0


class _Group:
    """Layers alike, whose pages for the same positions are taken together: a block, known by its address."""

    def __init__(self, layer: Layer, layers: list[int], dtype: torch.dtype) -> None:
        self.layer, self.layers, self.dtype = layer, layers, dtype
        self._users: dict[int, int] = {}
        self._free: list[int] = []
        self._slabs: list[native.PageSlab] = []
        self._lock = threading.RLock()  # a sequence may be collected, and so give back, while it is held
        self.block_bytes = 0
        self.page_offsets = np.zeros(len(layers), dtype=np.int64)  # of each layer's page, from the block's address

    @property
    def bytes(self) -> int:
        return sum(slab.bytes for slab in self._slabs)

    @property
    def used(self) -> int:
        return len(self._users) * self.block_bytes

    def take(self) -> int:
        with self._lock:
            if not self._free:
                self._grow()
            block = self._free.pop()
            self._users[block] = 1
            return block

    def _grow(self) -> None:
        layer = self.layer
        shape = native.DTYPES[self.dtype], layer.heads, layer.depth, layer.width
        page = native.page_offsets(*shape)[0] * layer.heads
        self.block_bytes = page * len(self.layers)
        self.page_offsets = page * np.arange(len(self.layers))
        blocks = max(1, _SLAB // self.block_bytes)
        try:
            slab = native.PageSlab(*shape, blocks * len(self.layers))
        except MemoryError:
            raise DrystoneError(
                f"no memory for {blocks * self.block_bytes >> 20} MB more of a cache, after {self.bytes >> 20} MB: "
                "shorter or fewer sequences, or a cache in int8 or bfloat16, need less"
            ) from None
        self._slabs.append(slab)
        self._free += reversed(range(slab.begin, slab.begin + slab.bytes, self.block_bytes))

    def share(self, block: int) -> None:
        with self._lock:
            self._users[block] += 1

    def give_back(self, block: int) -> None:
        with self._lock:
            self._users[block] -= 1
            if not self._users[block]:
                del self._users[block]
                self._free.append(block)

    def is_shared(self, block: int) -> bool:
        return self._users[block] > 1

    def copy(self, block: int) -> int:
        """Another block of the same content."""
        fresh = self.take()
        ctypes.memmove(fresh, block, self.block_bytes)
        return fresh


class Pages:
    """The memory of a model's caches. It grows as it is needed, and what sequences give back is used again.

    Args:
        layers: of the model, in order.
        positions: that a sequence may have at most.
        dtype: float32, bfloat16, or int8 with a float32 scale a head and position.

    Safe to use from several threads; a ``Sequence`` belongs to one at a time.
    """

    def __init__(self, layers: Listed[Layer], positions: int, dtype: torch.dtype = torch.float32) -> None:
        if dtype not in (torch.float32, torch.bfloat16, torch.int8):
            raise InputError(f"a cache of {dtype}: expected torch.float32, torch.bfloat16 or torch.int8")
        self.layers, self.positions, self.dtype = tuple(layers), positions, dtype
        self.capacity = pages_for(positions)  # pages of a sequence
        alike: dict[Layer, list[int]] = {}
        for index, layer in enumerate(layers):
            alike.setdefault(layer, []).append(index)
        self._groups = [_Group(layer, indices, dtype) for layer, indices in alike.items()]

    @property
    def bytes(self) -> int:
        """Taken from the system."""
        return sum(group.bytes for group in self._groups)

    @property
    def used(self) -> int:
        """Bytes of pages that sequences have."""
        return sum(group.used for group in self._groups)


class Sequence:
    """One text's pages: ``length`` positions that are valid, and room for those that are reserved.

    ``table`` (layers, capacity), int64, holds their addresses, 0 where there is none. ``version`` counts its changes.
    """

    def __init__(self, pages: Pages) -> None:
        self.pages = pages
        self.length = 0
        # Written by numpy, which is fast for single entries, and does not ask whether torch is in inference mode.
        self._addresses = np.zeros((len(pages.layers), pages.capacity), dtype=np.int64)
        self.table = torch.from_numpy(self._addresses)
        self.version = 0
        self._blocks: list[list[int]] = [[] for _ in pages._groups]  # 0: behind the window, given back
        self._writable = 0  # positions up to here, from the length on, have pages that no other sequence has

    def __del__(self) -> None:
        if hasattr(self, "_blocks"):
            self._cut(0)

    def reserve(self, count: int) -> None:
        """Make the next ``count`` positions writable. Raises ``InputError`` beyond what a sequence may have."""
        end = self.length + count
        if end <= self._writable:
            return
        if end > self.pages.positions:
            raise InputError(
                f"{self.length} positions and {count} new ones do not fit into a cache of {self.pages.positions}: "
                "shorten the text, or make the cache for more positions"
            )
        self._cut(self.length)  # what was reserved and may be shared by now
        first = self.length // PAGE
        for number, (group, blocks) in enumerate(zip(self.pages._groups, self._blocks, strict=True)):
            if len(blocks) > first and group.is_shared(blocks[first]):
                shared = blocks[first]
                self._put(number, first, group.copy(shared))
                group.give_back(shared)
            while len(blocks) < pages_for(end):
                blocks.append(0)
                self._put(number, len(blocks) - 1, group.take())
        self._writable = len(self._blocks[0]) * PAGE if self._blocks else end

    def _put(self, number: int, place: int, block: int) -> None:
        group = self.pages._groups[number]
        self._blocks[number][place] = block
        self._addresses[group.layers, place] = block + group.page_offsets if block else 0
        self.version += 1

    def advance(self, count: int) -> None:
        """The next ``count`` positions, which were reserved, are valid."""
        if self.length + count > self._writable:
            raise InputError(f"{count} positions were not reserved after {self.length}")
        self.length += count
        for number, group in enumerate(self.pages._groups):
            if group.layer.window:
                self._slide(number, group)

    def _slide(self, number: int, group: _Group) -> None:
        """Give back what lies behind the window; a page more is kept, for a crop by a few positions."""
        blocks = self._blocks[number]
        behind = (self.length - group.layer.window + 1) // PAGE - 1
        for place in range(behind - 1, -1, -1):
            if not blocks[place]:
                break
            group.give_back(blocks[place])
            self._put(number, place, 0)

    def least_length(self) -> int:
        """The shortest length but 0 that ``crop`` can go back to: of what is behind a window nothing is left."""
        least = 0
        for group, blocks in zip(self.pages._groups, self._blocks, strict=True):
            gone = next((place for place, block in enumerate(blocks) if block), 0)
            if gone:
                least = max(least, gone * PAGE + group.layer.window - 1)
        return least

    def crop(self, length: int) -> None:
        """Keep the first ``length`` positions."""
        if not 0 <= length <= self.length:
            raise InputError(f"a cache of {self.length} positions can't be cropped to {length}")
        if length and length < self.least_length():
            raise InputError(
                f"a cache with a sliding window can't be cropped to {length} of its {self.length} positions, but to 0 "
                f"or at least {self.least_length()}"
            )
        self._cut(length)
        self.length = length

    def _cut(self, length: int) -> None:
        """Give back the pages beyond ``length`` positions."""
        keep = pages_for(length)
        for number, (group, blocks) in enumerate(zip(self.pages._groups, self._blocks, strict=True)):
            while len(blocks) > keep:
                if blocks[-1]:
                    group.give_back(blocks[-1])
                self._put(number, len(blocks) - 1, 0)
                blocks.pop()
        self._writable = 0

    def fork(self, length: int | None = None) -> Sequence:
        """Another sequence that begins with the same positions, or the first ``length``, in the same pages."""
        other = Sequence(self.pages)
        keep = pages_for(self.length)
        for number, (group, blocks) in enumerate(zip(self.pages._groups, self._blocks, strict=True)):
            for place, block in enumerate(blocks[:keep]):
                if block:
                    group.share(block)
                other._blocks[number].append(block)
                other._put(number, place, block)
        other.length = self.length
        self._writable = 0
        if length is not None:
            other.crop(length)
        return other


class Rows:
    """Sequences as the rows of calls."""

    def __init__(self, sequences: Listed[Sequence]) -> None:
        self.sequences = list(sequences)
        self._addresses = np.zeros((0, 0, 0), dtype=np.int64)
        self._seen: list[tuple[Sequence, int] | None] = []  # what the addresses of each row are of
        self._lengths = np.zeros(0, dtype=np.int64)
        self._tensors = torch.from_numpy(self._addresses), torch.from_numpy(self._lengths)

    def reserve(self, count: int) -> None:
        for sequence in self.sequences:
            sequence.reserve(count)

    def advance(self, count: int | Listed[int]) -> None:
        counts = [count] * len(self.sequences) if isinstance(count, int) else count
        for sequence, each in zip(self.sequences, counts, strict=True):
            sequence.advance(each)

    def crop(self, length: int) -> None:
        for sequence in self.sequences:
            sequence.crop(min(length, sequence.length))

    def select(self, indices: Listed[int]) -> None:
        """Row i becomes what row ``indices[i]`` was: beams in another order, some of them several times."""
        before, used = self.sequences, set[int]()
        self.sequences = []
        for index in indices:
            self.sequences.append(before[index].fork() if index in used else before[index])
            used.add(index)

    def tables(self) -> tuple[Tensor, Tensor]:
        """``pages`` (layers, rows, capacity) and ``lengths`` (rows), both int64, as ``drystone::cached_attention`` takes them.

        They are written anew by the next call.
        """
        count = len(self.sequences)
        if len(self._lengths) != count:
            layers, capacity = self.sequences[0]._addresses.shape
            self._lengths, self._addresses = np.empty(count, dtype=np.int64), np.empty((layers, count, capacity), dtype=np.int64)
            self._seen = [None] * count
            self._tensors = torch.from_numpy(self._addresses), torch.from_numpy(self._lengths)
        for row, sequence in enumerate(self.sequences):
            self._lengths[row] = sequence.length
            if self._seen[row] != (sequence, sequence.version):
                self._addresses[:, row] = sequence._addresses
                self._seen[row] = sequence, sequence.version
        return self._tensors

"""Whether tensors still have the numbers that they had, by their version and by where their memory is.

torch counts writes, but not ``tensor.data = other``, by which ``model.half()`` goes too. Both are read from torch's structures as
bytes, at 3 ns each, where asking torch takes 50.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from operator import attrgetter

import torch

from drystone import native

_version = attrgetter("_version")
_address = torch.Tensor.data_ptr
_WORD = ctypes.sizeof(ctypes.c_void_p)


class Stamps:
    """Those of ``tensors``. Old memory lives on, so that no other tensor gets its address."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        tensors, known = list(tensors), layout()
        plain = [tensor for tensor in tensors if _is_plain(tensor)]
        # Tensors made under inference mode can't be written to outside it, and have no count.
        self._counted = [tensor for tensor in tensors if not tensor.is_inference()]
        self._versions = list(map(_version, self._counted))
        self._memory = [(tensor, tensor.detach(), tensor.data_ptr()) for tensor in plain]
        self._words = native.Snapshot(_places(self._memory, known) if known else [])
        # What torch is to be asked.
        self._asked = [tensor for tensor in self._counted if known is None or not _is_plain(tensor)]
        self._asked_versions = list(map(_version, self._asked))
        self._addressed = [] if known else plain
        self._addresses = list(map(_address, self._addressed))

    def hold(self) -> bool:
        """Whether nothing was written to, and all memory is where it was."""
        if not self._words.unchanged():
            return False
        if self._asked and list(map(_version, self._asked)) != self._asked_versions:
            return False
        return not self._addressed or list(map(_address, self._addressed)) == self._addresses

    def changed(self) -> list[torch.Tensor]:
        """The tensors that were written to or have other memory, unless the same numbers are in it, as after
        ``model.to(memory_format=…)``."""
        written = [tensor for tensor, version in zip(self._counted, self._versions, strict=True) if tensor._version != version]
        return written + [
            tensor
            for tensor, before, address in self._memory
            if _address(before) != address or (_address(tensor) != address and not _are_equal(tensor, before))
        ]


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided and tensor.is_cpu


def _are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype is other.dtype and torch.equal(one, other)


@dataclass(frozen=True)
class Layout:
    """Bytes from the start of a structure to a pointer, or to the number, in it."""

    tensor: int  # of a Python object
    storage: int  # of a tensor
    memory: int  # of a storage
    counter: int  # of a tensor
    version: int  # of a counter


@cache
def layout() -> Layout | None:
    """Looks for known values in a tensor's structures. None: this torch has them elsewhere."""
    with torch.inference_mode(False), torch.no_grad():
        one, other = torch.zeros(1, device="cpu"), torch.zeros(1, device="cpu")
        alias, storage = one.detach(), one.untyped_storage()
        try:
            first, same, different = (_words(tensor._cdata, 8) for tensor in (one, alias, other))
            place = first.index(storage._cdata)
            # What all aliases of a tensor share: the storage and the counter.
            (counter,) = [i for i in range(8) if first[i] == same[i] != different[i] and i != place]
            version = _version_place(one, first[counter])
            return Layout(
                _WORD * _words(id(one), 4).index(one._cdata),
                _WORD * place,
                _WORD * _words(storage._cdata, 4).index(storage.data_ptr()),
                _WORD * counter,
                version,
            )
        except ValueError:
            return None


def _words(address: int, count: int) -> list[int]:
    return list((ctypes.c_size_t * count).from_address(address))


def _version_place(tensor: torch.Tensor, counter: int) -> int:
    halves = (ctypes.c_uint32 * 6).from_address(counter)
    found = set(range(6))
    for _ in range(3):
        tensor.zero_()
        found &= {i for i in range(6) if halves[i] == tensor._version}
    (place,) = found
    return ctypes.sizeof(ctypes.c_uint32) * place


def _places(memory: list[tuple[torch.Tensor, torch.Tensor, int]], known: Layout) -> list[tuple[int, int]]:
    """In an order in which each place is readable if those before it are unchanged."""
    objects, structures, ends = [], [], []
    for tensor, _, _ in memory:
        objects.append((id(tensor) + known.tensor, _WORD))
        structures += [(tensor._cdata + known.storage, _WORD), (tensor._cdata + known.counter, _WORD)]
        ends.append((tensor.untyped_storage()._cdata + known.memory, _WORD))
        counter = ctypes.c_size_t.from_address(tensor._cdata + known.counter).value
        if counter and not tensor.is_inference():
            ends.append((counter + known.version, ctypes.sizeof(ctypes.c_uint32)))
    return objects + structures + ends

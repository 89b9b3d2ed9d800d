"""Whether tensors still have the memory that they had: ``tensor.data = other``, by which ``model.half()`` goes too, counts no version.

A tensor's structure in torch points to its storage's, and that to the memory. Both pointers are compared as bytes, at 3 ns each, where
asking torch takes 50.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cache

import torch

from drystone import native

_WORD = ctypes.sizeof(ctypes.c_void_p)
_address = torch.Tensor.data_ptr
_LOOKED_THROUGH = 8  # words of a structure; torch's are longer


class Storages:
    """Those of the plain tensors on the CPU among ``tensors``. Old memory lives on, so that no other tensor gets its address."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self._tensors = [tensor for tensor in tensors if _is_plain(tensor)]
        self._before = [tensor.detach() for tensor in self._tensors]
        self._addresses = list(map(_address, self._tensors))
        self._known = pointers()
        places = []
        if self._known:
            to_storage, to_memory = self._known
            places = [(tensor._cdata + to_storage, _WORD) for tensor in self._tensors]
            places += [(tensor.untyped_storage()._cdata + to_memory, _WORD) for tensor in self._before]
        self._pointers = native.Snapshot(places)

    def are_others(self) -> bool:
        if self._known:
            return bool(self._pointers.changed())
        return list(map(_address, self._tensors)) != self._addresses

    def changed(self) -> list[torch.Tensor]:
        """The tensors with other memory, unless the same numbers are there, as after ``model.to(memory_format=…)``."""
        each = zip(self._tensors, self._before, self._addresses, strict=True)
        return [
            tensor
            for tensor, before, address in each
            if _address(before) != address or (_address(tensor) != address and not _are_equal(tensor, before))
        ]


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided and tensor.is_cpu


def _are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype is other.dtype and torch.equal(one, other)


@cache
def pointers() -> tuple[int, int] | None:
    """Bytes from the start of a tensor's structure to its storage, and of a storage's to its memory. None: torch has them elsewhere."""
    tensor = torch.empty(1, device="cpu")
    storage = tensor.untyped_storage()
    try:
        return _place(tensor._cdata, storage._cdata), _place(storage._cdata, storage.data_ptr())
    except ValueError:
        return None


def _place(structure: int, pointer: int) -> int:
    words = (ctypes.c_size_t * _LOOKED_THROUGH).from_address(structure)
    return _WORD * list(words).index(pointer)

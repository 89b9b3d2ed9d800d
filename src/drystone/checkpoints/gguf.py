"""Weights in the blocks of a GGUF file, for a model that transformers has read from it as floats.

A model's weights are recognised by their numbers, whatever their names are and in which order their rows lie: transformers reads
exactly what the blocks stand for. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from drystone.errors import InputError, UnsupportedError
from drystone.graph.graph import identity_of
from drystone.graph.groups import Grouped, Kind, Parts, packed

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Blocks:
    """A type of block: so many ``numbers`` in so many ``bytes``, and how (rows, blocks, bytes) become codes (one a byte), scales
    and minima."""

    kind: Kind
    numbers: int
    bytes: int
    read: Callable[[Array], tuple[Array, Array, Array | None]]


def _halves(data: Array, at: int) -> Array:
    """The float16 at a byte of each block, (rows, blocks)."""
    return np.ascontiguousarray(data[..., at : at + 2]).view(np.float16)[..., 0]


def _low_then_high(bytes_: Array) -> Array:
    """The low halves of the last axis, then the high ones."""
    return np.concatenate([bytes_ & 15, bytes_ >> 4], -1)


def _q8_0(data: Array) -> tuple[Array, Array, None]:
    return data[..., 2:] ^ 128, _halves(data, 0), None


def _q4_0(data: Array) -> tuple[Array, Array, None]:
    return _low_then_high(data[..., 2:]), _halves(data, 0), None


def _q4_1(data: Array) -> tuple[Array, Array, Array]:
    return _low_then_high(data[..., 4:]), _halves(data, 0), _halves(data, 2)


def _q4_k(data: Array) -> tuple[Array, Array, Array]:
    """Eight groups of 32, whose scales and minima are six bits each in twelve bytes: of the last four the high two are apart."""
    some = data[..., 4:16].reshape(*data.shape[:-1], 3, 4)
    first, second, third = some[..., 0, :], some[..., 1, :], some[..., 2, :]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], -1).astype(np.float32)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], -1).astype(np.float32)
    codes = _low_then_high(data[..., 16:].reshape(*data.shape[:-1], 4, 32))
    each = [_halves(data, at).astype(np.float32)[..., None] for at in (0, 2)]
    return codes, scales * each[0], -minima * each[1]


def _q6_k(data: Array) -> tuple[Array, Array, None]:
    """Sixteen groups of 16: four bits of a code in the first bytes, two in the next, scales of eight bits behind."""
    low = data[..., :128].reshape(*data.shape[:-1], 2, 2, 32)
    high = data[..., 128:192].reshape(*data.shape[:-1], 2, 1, 32)
    four = np.concatenate([low & 15, low >> 4], -2)
    two = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], -2)
    scales = data[..., 192:208].view(np.int8).astype(np.float32) * _halves(data, 208).astype(np.float32)[..., None]
    return (four | two << 4) + np.uint8(96), scales, None  # whose zero is 32, and here 128


# By the name of the type.
BLOCKS = {
    "Q8_0": Blocks(Kind(8, 32), 32, 34, _q8_0),
    "Q4_0": Blocks(Kind(4, 32), 32, 18, _q4_0),
    "Q4_1": Blocks(Kind(4, 32, has_minima=True), 32, 20, _q4_1),
    "Q4_K": Blocks(Kind(4, 32, torch.float32, has_minima=True), 256, 144, _q4_k),
    "Q6_K": Blocks(Kind(8, 16, torch.float32), 256, 210, _q6_k),
}
FLOATS = ("F32", "F16", "BF16", "F64")


def read_blocks(blocks: Blocks, data: Array) -> Parts:
    """Rows of bytes (rows, bytes)."""
    rows = len(data)
    codes, scales, minima = blocks.read(np.ascontiguousarray(data).reshape(rows, -1, blocks.bytes))
    flat = [torch.from_numpy(np.ascontiguousarray(part).reshape(rows, -1)) for part in (codes, scales, minima) if part is not None]
    return Parts(packed(flat[0], blocks.kind.bits), *flat[1:])


def is_path(weights: Any) -> bool:
    return isinstance(weights, (str, os.PathLike)) and os.fspath(weights).lower().endswith(".gguf")


def grouped_of_file(model: nn.Module, path: str | os.PathLike[str]) -> dict[Hashable, Grouped]:
    """The identities of the weights of ``model`` that are in the file, with their codes.

    Raises ``InputError`` where the file can't be read or holds none of them, ``UnsupportedError`` where one is of another type.
    """
    name = os.fspath(path)
    tensors = _Rows(name)
    found: dict[Hashable, Grouped] = {}
    for parameter in model.parameters():
        for weight in (parameter.detach(), parameter.detach().t()) if parameter.dim() == 2 else ():
            place = tensors.find(weight)
            if place is not None:
                tensor, order = place
                identity, kind = identity_of(weight), tensors.blocks(tensor).kind
                n, k = weight.shape
                found[identity] = Grouped((n, k), kind, ("gguf", name, identity), partial(tensors.parts, tensor, order))
                break
    if not found:
        raise InputError(
            f"weights: none of the model's weights is in {name!r}; load the model from this very file, as with "
            "from_pretrained(folder, gguf_file=name), and don't change its weights"
        )
    return found


class _Rows:
    """The tensors of a file, by what tells a row from others: rows of a weight may lie in another order than in the file."""

    def __init__(self, path: str) -> None:
        self.tensors = list(_tensors(path))
        self._marks: dict[tuple[int, int], list[tuple[Any, dict[int, int]]]] = {}
        self._dtype: torch.dtype | None = None

    def blocks(self, tensor: Any) -> Blocks:
        return BLOCKS[tensor.tensor_type.name]

    def parts(self, tensor: Any, order: Array) -> Parts:
        return read_blocks(self.blocks(tensor), tensor.data[order])

    def find(self, weight: torch.Tensor) -> tuple[Any, Array] | None:
        """The tensor, and the places of its rows, that ``weight`` has the numbers of."""
        if self._dtype != weight.dtype:
            self._dtype, self._marks = weight.dtype, {}
        shape = (weight.shape[0], weight.shape[1])
        if shape not in self._marks:
            same = [tensor for tensor in self.tensors if (int(tensor.shape[1]), int(tensor.shape[0])) == shape]
            self._marks[shape] = [(tensor, self._marked(tensor, weight.dtype)) for tensor in same]
        marks = _marks(weight)
        for tensor, known in self._marks[shape]:
            order = [known.get(mark, -1) for mark in marks]
            if -1 not in order:
                return tensor, np.array(order)
        return None

    def _marked(self, tensor: Any, dtype: torch.dtype) -> dict[int, int]:
        from gguf.quants import dequantize

        floats = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type)).to(dtype)
        return {mark: row for row, mark in enumerate(_marks(floats))}


def _marks(weight: torch.Tensor) -> list[int]:
    """A number for each row, of 64 bits, which is another where one bit of the row is."""
    whole = weight.contiguous().view({4: torch.int32, 2: torch.int16}[weight.element_size()])
    some = torch.Generator().manual_seed(1)
    factors = torch.randint(-(2**63), 2**63 - 1, (whole.shape[1],), generator=some) | 1
    return [mark for rows in whole.split(1024) for mark in (rows.long() * factors).sum(1).tolist()]


def _tensors(path: str) -> Iterator[Any]:
    """Those in blocks of few bits."""
    try:
        import gguf
    except ImportError:
        raise UnsupportedError("weights: reading a GGUF file takes the package gguf: pip install gguf") from None
    if not os.path.isfile(path):
        raise InputError(f"weights: there is no file {path!r}")
    try:
        tensors = gguf.GGUFReader(path).tensors
    except Exception as error:  # of whatever kind its reader stumbles on
        raise InputError(f"weights: {path!r} is no GGUF file, or a damaged one: {type(error).__name__}: {error}") from error
    for tensor in tensors:
        type_ = tensor.tensor_type.name
        if type_ in FLOATS or len(tensor.shape) != 2:
            continue
        if type_ not in BLOCKS:
            raise UnsupportedError(
                f"weights: {tensor.name} in {path!r} is of type {type_}; served are {', '.join(BLOCKS)}. "
                'Leave out weights, and the model runs on floats; or quantise these anew, with weights="int8" or "int4"'
            )
        yield tensor

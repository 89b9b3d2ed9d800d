"""The constants of the graphs, in a safetensors file of which no byte is taken on trust.

Tensors are read when they are packed, each held against its checksum: nothing plain stays in memory beside what is packed, and
a file that is changed or cut while it is in use is noticed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from drystone.artefact.document import DTYPES, dtype_of, entries, listed, name_of, parse, require, serialise, text, whole, wholes
from drystone.artefact.quantisations import of_quantisation, quantisation
from drystone.graph.graph import Value

MAX_HEADER = 16 << 20
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class Constants:
    """Collects the constants of graphs, each once, and writes them."""

    def __init__(self) -> None:
        self.numbers: dict[Hashable, int] = {}
        self.described: list[dict[str, Any]] = []
        self._data: list[Callable[[], torch.Tensor]] = []

    def number(self, value: Value) -> int:
        """The constant's place in the file. Equal keys share one."""
        if value.key not in self.numbers:
            self.numbers[value.key] = len(self.described)
            described = {"name": value.name, "dtype": name_of(value.dtype), "shape": list(value.shape)}
            self.described.append(described | {"quantisation": of_quantisation(value)})
            self._data.append(lambda: value.constant.detach().resolve_conj().resolve_neg())
        return self.numbers[value.key]

    def write(self, path: Path) -> None:
        """Write the file, and add each tensor's checksum to ``described``. No more than one of them is copied at a time."""
        header: dict[str, Any] = {}
        end = 0
        for index, entry in enumerate(self.described):
            dtype = DTYPES[entry["dtype"]]
            size = _size(entry["shape"], dtype)
            stored, shape = _stored_as(dtype, entry["shape"])
            header[str(index)] = {"dtype": stored, "shape": shape, "data_offsets": [end, end + size]}
            end += size
        text = serialise(header, "the weights' header", MAX_HEADER)
        text = text.ljust(-(-len(text) // 8) * 8)
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for entry, data in zip(self.described, self._data, strict=True):
                tensor = data()
                found = name_of(tensor.dtype), list(tensor.shape)
                require(
                    found == (entry["dtype"], entry["shape"]), f"the constant {entry['name']!r} is no {entry['dtype']} any more"
                )
                content = _bytes(_real(tensor).contiguous())
                entry["sha256"] = hashlib.sha256(content).hexdigest()
                file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _stored_as(dtype: torch.dtype, shape: Sequence[int]) -> tuple[str, list[int]]:
    """dtype and shape in the file."""
    return ("F32", [*shape, 2]) if dtype.is_complex else (_NAMES[dtype], list(shape))


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """Complex numbers as pairs, which every version of the format holds."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


@dataclass
class Stored:
    """One tensor of the file, read when it is called."""

    file: BinaryIO
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    sha256: str
    name: str
    seen: bool = False
    extremes: tuple[int, int] | None = None

    def __call__(self) -> torch.Tensor:
        complex_ = self.dtype.is_complex
        tensor = torch.empty((*self.shape, 2) if complex_ else self.shape, dtype=torch.float32 if complex_ else self.dtype)
        data, done = _bytes(tensor), 0
        while done < len(data):
            count = os.preadv(self.file.fileno(), [data[done:]], self.start + done)
            require(count, f"the weights end within {self.name!r}")
            done += count
        same = hashlib.sha256(data).hexdigest() == self.sha256
        require(same, f"the weight {self.name!r} is not the one that was saved: its checksum differs")
        # A bool is a byte, but only of two values: others would be numbers that torch does not know.
        require(self.dtype is not torch.bool or not tensor.view(torch.uint8).gt(1).any(), f"{self.name!r} holds a bool beyond 1")
        self.seen = True
        return torch.view_as_complex(tensor) if complex_ else tensor


def read(file: BinaryIO, described: Any, max_bytes: int) -> list[Value]:
    """The constants, checked against the file's header; their data are read when they are used, so ``file`` stays open.

    The file must hold them and nothing else, one behind the other without gaps.
    """
    total = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    require(total >= 8 and length <= min(MAX_HEADER, total - 8), "the weights' header is longer than the file, or than any")
    header = parse(file.read(length), "the weights' header")
    require(type(header) is dict, "the weights' header is no object")
    require(header.pop("__metadata__", {}) == {}, "the weights' header has metadata")
    constants = [_value(file, 8 + length, header, index, item) for index, item in enumerate(listed(described, "constants"))]
    require(len(header) == len(constants), "the weights hold tensors that no constant names")
    end = 8 + length
    for stored in sorted(
        (_stored(value) for value in constants), key=lambda stored: (stored.start, _size(stored.shape, stored.dtype))
    ):
        require(stored.start == end, f"the weights overlap or leave a gap before {stored.name!r}")
        end += _size(stored.shape, stored.dtype)
    require(end == total, f"the weights must be {end} bytes, and are {total}")
    require(total <= max_bytes, f"the weights take {total} bytes, and this machine has {max_bytes}")
    return constants


def extremes(value: Value) -> tuple[int, int]:
    """The least and the greatest of the integers that a constant holds, (0, -1) where it is empty. It is read once."""
    stored = _stored(value)
    if stored.extremes is None:
        data = stored()
        stored.extremes = (int(data.min()), int(data.max())) if data.numel() else (0, -1)
    return stored.extremes


def check_all(constants: list[Value]) -> None:
    """Read what was not read yet. Raises ``ArtefactError`` where a checksum is not the tensor's."""
    for value in constants:
        stored = _stored(value)
        if not stored.seen:
            stored()


def _stored(value: Value) -> Stored:
    assert isinstance(value.data, Stored)
    return value.data


def _size(shape: Sequence[int], dtype: torch.dtype) -> int:
    count = dtype.itemsize
    for size in shape:
        count *= size
    return count


def _value(file: BinaryIO, base: int, header: dict[str, Any], index: int, item: Any) -> Value:
    what = f"constant {index}"
    given_name, given_dtype, given_shape, codes, sha256 = entries(item, what, "name", "dtype", "shape", "quantisation", "sha256")
    name, dtype = text(given_name, what), dtype_of(given_dtype, what)
    shape = wholes(given_shape, what, 0, 2**31 - 1)
    require(len(shape) <= 64, f"{what} has {len(shape)} axes")
    require(str(index) in header, f"the weights lack {what}")
    stored_dtype, stored_shape, offsets = entries(header[str(index)], f"the weights' {index}", "dtype", "shape", "data_offsets")
    expected = _stored_as(dtype, shape)
    require(
        (stored_dtype, stored_shape) == expected, f"the weights' {index} is {stored_dtype} {stored_shape}, and {what} {expected}"
    )
    start, stop = (whole(offset, f"the weights' {index}") for offset in listed(offsets, f"the weights' {index}", 2))
    require(stop - start == _size(shape, dtype), f"the weights' {index} has {stop - start} bytes")
    stored = Stored(file, base + start, shape, dtype, text(sha256, what), name)
    value = Value(shape, dtype, name, data=stored, identity=("constant", index))
    value.quantisation = quantisation(codes, value, what)
    return value

"""Torch tensors laid out in drystone's memory formats, and single native steps run on them.

A *buffer* is a 1-D torch tensor that holds the memory of a ``TensorDesc`` from its first byte to its last.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from drystone import native
from drystone.graph.instructions import INSTRUCTIONS, PointwiseOp
from drystone.native import DType, Format, Step, TensorDesc

FORMATS = tuple(native.formats())

_TORCH_DTYPES = {dtype: torch_dtype for torch_dtype, dtype in native.DTYPES.items()}


def _as_format(format: Format | str) -> Format:
    return native.FORMATS[format] if isinstance(format, str) else format


def _as_dtype(dtype: DType | torch.dtype) -> DType:
    return native.DTYPES[dtype] if isinstance(dtype, torch.dtype) else dtype


def dense(shape: tuple[int, ...] | torch.Size, format: Format | str, dtype: DType | torch.dtype = torch.float32) -> TensorDesc:
    """A desc of dense memory; ``format`` may be its name."""
    return TensorDesc.dense(_as_dtype(dtype), _as_format(format), list(shape))


def strided(
    shape: tuple[int, ...], strides: tuple[int, ...], format: Format | str, dtype: DType | torch.dtype = torch.float32
) -> TensorDesc:
    """A desc with strides of its own: one a logical axis, in elements; blocked: ``strides[1]`` leads to the next block."""
    return TensorDesc(_as_dtype(dtype), _as_format(format), list(shape), list(strides))


def blank(desc: TensorDesc) -> torch.Tensor:
    """A buffer for ``desc`` that no kernel has written: NaN in floating point, 77 in integers."""
    dtype = _TORCH_DTYPES[desc.dtype]
    count = desc.bytes // dtype.itemsize
    if dtype == torch.bool:
        return torch.zeros(count, dtype=dtype)
    return torch.full((count,), float("nan") if dtype.is_floating_point else 77, dtype=dtype)


def _logical_view(desc: TensorDesc, buffer: torch.Tensor) -> torch.Tensor:
    """The buffer seen as ``desc.shape``; in a blocked format as (N, C / block, block, *spatial), the padding included."""
    if buffer.numel() == 0:
        return buffer.reshape(desc.shape)
    block = desc.format.block
    if block == 1:
        return buffer.as_strided(desc.shape, desc.strides)
    batch, channels, *spatial = desc.shape
    sizes = [batch, -(-channels // block), block, *spatial]
    return buffer.as_strided(sizes, [desc.strides[0], desc.strides[1], 1, *desc.strides[2:]])


def place(tensor: torch.Tensor, desc: TensorDesc, buffer: torch.Tensor | None = None) -> torch.Tensor:
    """Write ``tensor`` into a buffer as ``desc`` lays it, in its dtype; a block's padding becomes 0. Returns the buffer."""
    assert list(tensor.shape) == list(desc.shape), f"{tuple(tensor.shape)} is not the shape of {desc}"
    if buffer is None:
        buffer = blank(desc)
    view = _logical_view(desc, buffer)
    if view.dim() != tensor.dim():
        padded = torch.zeros(view.shape[0], view.shape[1] * view.shape[2], *view.shape[3:], dtype=tensor.dtype)
        padded[:, : tensor.shape[1]] = tensor
        tensor = padded.reshape(view.shape)
    view.copy_(tensor)
    return buffer


def lay(
    tensor: torch.Tensor, format: Format | str = Format.plain, dtype: DType | torch.dtype | None = None
) -> tuple[TensorDesc, torch.Tensor]:
    """``tensor`` in dense memory of ``format`` and ``dtype`` (its own if None): the desc and the buffer."""
    desc = dense(tensor.shape, format, tensor.dtype if dtype is None else dtype)
    return desc, place(tensor, desc)


def read(desc: TensorDesc, buffer: torch.Tensor) -> torch.Tensor:
    """The tensor that lies in ``buffer``: a contiguous copy of shape ``desc.shape``, in the buffer's dtype."""
    view = _logical_view(desc, buffer)
    if view.dim() != len(desc.shape):
        view = view.flatten(1, 2)[:, : desc.shape[1]]
    return view.clone(memory_format=torch.contiguous_format)


def integers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """From -4 to 4, of which sums and products are exact."""
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def instruction(kind: str, alpha: float = 0.0, beta: float = 0.0) -> Callable[..., torch.Tensor]:
    """What torch makes of it."""
    return lambda *operands: INSTRUCTIONS[kind].function(PointwiseOp(kind, (), alpha, beta), *operands)


def outcome(step: Step, output: TensorDesc, *buffers: torch.Tensor, threads: int = 2) -> torch.Tensor:
    """What ``step`` writes where ``output`` says, its last slot. The channels that pad a block must be zero."""
    memory = blank(output)
    run(step, *buffers, memory, threads=threads)
    result = read(output, memory)
    if output.has_padding:
        laid = place(result, output)
        assert ((memory == laid) | (laid != laid)).all(), "the padding of the last block is not zero"
    return result


def run(step: Step, *buffers: torch.Tensor, threads: int = 2) -> None:
    """Run ``step`` once: its slots in order are ``buffers``. The same buffer may be given twice (in place)."""
    program = native.Program()
    program.add(step, list(range(len(buffers))))
    scratchpad = torch.empty(max(program.scratchpad_bytes, 1), dtype=torch.uint8)
    frame = native.Frame(program, [buffer.data_ptr() for buffer in buffers], [], scratchpad.data_ptr(), threads)
    frame.run(0, 1)

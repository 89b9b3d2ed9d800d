"""Tensors that have no memory where it is read: a storage freed or shrunk, or one that never was (fake tensors, wrappers)."""

from __future__ import annotations

import torch

REMEDY = "its storage was freed or shrunk, or it is a fake tensor or another wrapper: give a tensor with its data"


def has_memory(tensor: torch.Tensor) -> bool:
    """Whether a dense ``tensor`` on the CPU has memory for all its elements. Those of other layouts keep theirs elsewhere."""
    if tensor.layout is not torch.strided or tensor.is_nested or not tensor.numel():
        return True
    offset, width = tensor.storage_offset(), tensor.element_size()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if (offset + last + 1) * width > tensor.untyped_storage().nbytes():
        return False
    return tensor.data_ptr() != offset * width

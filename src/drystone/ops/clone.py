"""Copies in another memory format."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drystone.ops.define import operator


def _setup_context(ctx: Any, inputs: tuple[Tensor], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    pass


_clone = operator("clone", _setup_context, lambda ctx, gradient: gradient)


def clone(input: Tensor, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
    """``torch.clone``: ours between contiguous_format and channels_last_3d, of elements of two or four bytes.

    Args:
        input: of any shape, dtype and strides.
        memory_format: of the copy.

    Raises:
        RuntimeError: ``memory_format`` does not go with the number of axes.
    """
    return _clone(input, memory_format=memory_format)

"""Calls of a module in place, seen from outside: their sizes, and what takes them."""

from __future__ import annotations

from typing import Any

import torch

from drystone.capture.isolated import tensors_of
from drystone.errors import InputError
from drystone.runtime.module import OptimizedModule
from drystone.runtime.proxy import checked_tensors


def sizes_of_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.Size, ...]:
    return tuple(tensor.shape for tensor in tensors_of(args, kwargs))


def takes(fast: OptimizedModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        fast._checked(args, kwargs)
    except InputError:
        return False
    return True


def are_taken(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether programs can read these tensors: on the CPU, with memory."""
    try:
        checked_tensors(args, kwargs)
    except InputError:
        return False
    return True

"""What is run: a model, its inputs, and under which dtype and how many threads."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from .targets import Call, load, name_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
FLOATS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Workload:
    """``model``: a target as of ``targets``; ``size``: of the inputs, or None for the model's own; ``inputs``: as of --input."""

    model: str
    dtype: str = "float32"
    batch: int = 1
    size: tuple[int, ...] | None = None
    threads: int = 1
    seed: int = 0
    inputs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The model's name without any path: ``resnet50``, ``mine.py:build``."""
        return name_of(self.model)

    def load(self) -> tuple[nn.Module, Call]:
        """The module in evaluation mode and a call of it, the same every time and in every process.

        Raises ``ValueError`` for a target that is not there, or that does not take a batch, size or inputs that were asked for.
        """
        torch.manual_seed(self.seed)
        return load(self.model, self.batch, self.size, self.inputs, self.seed)


def first_tensor(output: Any) -> torch.Tensor:
    """The first tensor of a model's output, whatever its structure."""
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, torch.Tensor):
            return leaf
    raise ValueError("the model's output holds no tensor")


def fingerprint(module: nn.Module, call: Call) -> int:
    """A checksum of every weight and input, by which processes make sure that they run the same model."""
    checksum = 0
    for tensor in [*module.state_dict().values(), *pytree.tree_leaves((call.args, call.kwargs))]:
        if isinstance(tensor, torch.Tensor):
            checksum = zlib.crc32(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def shapes_of(call: Call) -> list[list[int]]:
    return [list(leaf.shape) for leaf in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(leaf, torch.Tensor)]

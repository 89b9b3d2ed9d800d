"""What a test and the benchmark of a library share: how it is used, and when two results are the same."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded
# Relative L2 error of a tensor or an array, and of a number, that is put down to rounding.
LIMIT = 1e-4
# Numbers near zero: an absolute error.
NEAR_ZERO = 1e-5


@dataclass(frozen=True)
class Used:
    """A library's object, ready: ``run`` is the user's program, in which ``model`` computes."""

    model: nn.Module
    run: Callable[[], Any]


@dataclass(frozen=True)
class Usage:
    """``call``: what the user writes. ``packages``: modules to be imported. ``build`` gives the same weights and data each time."""

    library: str
    call: str
    packages: tuple[str, ...]
    make: Callable[[], Used]

    @property
    def name(self) -> str:
        return self.make.__name__

    def build(self) -> Used:
        torch.manual_seed(0)
        return self.make()


_usages: list[Usage] = []


def usages() -> list[Usage]:
    """All of them, from the files beside this one."""
    for file in sorted(Path(__file__).parent.glob("*_usages.py")):
        importlib.import_module(file.stem)
    return _usages


def usage(library: str, call: str, *packages: str) -> Callable[[Callable[[], Used]], Callable[[], Used]]:
    def register(make: Callable[[], Used]) -> Callable[[], Used]:
        _usages.append(Usage(library, call, packages, make))
        return make

    return register


def difference(got: Any, want: Any, path: str = "result") -> str | None:
    """Where ``got`` differs from ``want`` by more than rounding, or None."""
    if isinstance(want, dict):
        if not isinstance(got, dict) or got.keys() != want.keys():
            return f"{path}: other keys"
        return next(filter(None, (difference(got[key], want[key], f"{path}[{key!r}]") for key in want)), None)
    if isinstance(want, (list, tuple)):
        if len(got) != len(want):
            return f"{path}: {len(got)} entries, not {len(want)}"
        pairs = enumerate(zip(got, want, strict=True))
        return next(filter(None, (difference(a, b, f"{path}[{i}]") for i, (a, b) in pairs)), None)
    if isinstance(want, np.ndarray) and want.dtype == object:
        return difference(list(got), list(want), path)
    if isinstance(want, (torch.Tensor, np.ndarray)):
        return _array_difference(np.asarray(got), np.asarray(want), path)
    same = abs(got - want) <= max(LIMIT * abs(want), NEAR_ZERO) if isinstance(want, (float, np.floating)) else got == want
    return None if same else f"{path}: {got!r}, not {want!r}"


def _array_difference(got: Any, want: Any, path: str) -> str | None:
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{path}: {got.dtype} {got.shape}, not {want.dtype} {want.shape}"
    if want.dtype.kind != "f":
        return None if (got == want).all() else f"{path}: {int((got != want).sum())} of {want.size} elements differ"
    error = np.linalg.norm((got - want).astype(float)) / max(np.linalg.norm(want.astype(float)), NEAR_ZERO)
    return None if error <= LIMIT else f"{path}: relative error {error:.1e}"

"""What is run: a model, its inputs, and under which dtype and how many threads."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


@dataclass(frozen=True)
class Workload:
    """``model`` is a name of the zoo or ``path.py:function``; ``size``: of the inputs, or None for the model's own."""

    model: str
    dtype: str = "float32"
    batch: int = 1
    size: tuple[int, ...] | None = None
    threads: int = 1
    seed: int = 0

    @property
    def name(self) -> str:
        """The model's name without any path: ``resnet50``, ``mine.py:build``."""
        path, colon, function = self.model.rpartition(":")
        return f"{Path(path).name}:{function}" if colon else self.model

    def load(self) -> tuple[nn.Module, tuple[Any, ...]]:
        """The module in evaluation mode and its inputs, the same on every call and in every process.

        Raises ``ValueError`` for a name that is not in the zoo, a file without such a function, or a function that has no
        parameter for a batch or size that was asked for.
        """
        torch.manual_seed(self.seed)
        if ":" in self.model:
            module, inputs = self._load_from_file()
        else:
            from . import zoo

            if self.model not in zoo.ZOO:
                raise ValueError(f"no model {self.model!r} in the zoo; it has {', '.join(zoo.ZOO)}, or give path.py:function")
            module, inputs = zoo.load(self.model, self.batch, self.size, self.seed)
        return module.eval(), inputs

    def _load_from_file(self) -> tuple[nn.Module, tuple[Any, ...]]:
        function = _function_from_file(self.model)
        asked: dict[str, Any] = {}
        if self.batch != 1:
            asked["batch"] = self.batch
        if self.size is not None:
            asked["size"] = self.size
        missing = asked.keys() - inspect.signature(function).parameters.keys()
        if missing:
            raise ValueError(f"{self.name} has no parameter {' or '.join(sorted(missing))}, and one was asked for")
        result = function(**asked)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], nn.Module)):
            raise ValueError(f"{self.name} must return (module, inputs), not {type(result).__name__}")
        module, inputs = result
        return module, inputs if isinstance(inputs, tuple) else (inputs,)


def _function_from_file(model: str) -> Callable[..., Any]:
    path, _, name = model.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"no file {path!r} (from {model!r})")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    sys.path.insert(0, str(file.resolve().parent))
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{file.name} has no function {name!r}")
    return function


def first_tensor(output: Any) -> torch.Tensor:
    """The first tensor of a model's output, whatever its structure."""
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, torch.Tensor):
            return leaf
    raise ValueError("the model's output holds no tensor")


def fingerprint(module: nn.Module, inputs: tuple[Any, ...]) -> int:
    """A checksum of every weight and input, by which processes make sure that they run the same model."""
    checksum = 0
    for tensor in [*module.state_dict().values(), *pytree.tree_leaves(inputs)]:
        if isinstance(tensor, torch.Tensor):
            checksum = zlib.crc32(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def shapes_of(inputs: Any) -> list[list[int]]:
    return [list(leaf.shape) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]

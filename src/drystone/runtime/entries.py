"""The places in a model's modules that hold its weights and submodules: whether another stands there.

``torch.func.functional_call`` puts other tensors there for the length of a call, an assignment for good.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn

from drystone import native
from drystone.errors import WeightsReplacedError

REFRESH = "call refresh() on the optimised module to take them over"
OPTIMISE = "optimise the model again to take them over"


class Entries:
    """Asked at each call: 10 ns an entry."""

    def __init__(self, model: nn.Module | None = None, tensors: Iterable[torch.Tensor] = ()) -> None:
        """Those of ``tensors`` wherever they are in ``model``, and of all its submodules. TorchScript has none."""
        known = set(map(id, tensors))
        self._dicts: list[dict[str, Any]] = []
        self._keys: list[str] = []
        self._values: list[Any] = []
        self._names: list[str] = []
        for prefix, module in model.named_modules() if model is not None else ():
            if isinstance(module._parameters, dict) and not isinstance(module, torch.jit.ScriptModule):
                self._add(module, prefix, known)

    def _add(self, module: nn.Module, prefix: str, known: set[int]) -> None:
        for held in (module._parameters, module._buffers, module._modules, vars(module)):
            for key, value in held.items():
                if id(value) in known or (held is module._modules and value is not None):
                    self._dicts.append(held)
                    self._keys.append(key)
                    self._values.append(value)
                    self._names.append(f"{prefix}.{key}" if prefix else key)

    def hold(self) -> bool:
        """Whether each is what it was."""
        return native.entries_hold(self._dicts, self._keys, self._values)

    def replaced(self, remedy: str) -> WeightsReplacedError:
        """Names where something else is, or nothing."""
        each = zip(self._dicts, self._keys, self._values, self._names, strict=True)
        names = [name for held, key, value, name in each if held.get(key) is not value]
        return WeightsReplacedError(
            f"tensors or submodules of the model are others than it was prepared with ({listed(names)}); {remedy}"
        )


def tensors_of_tree(model: nn.Module, stateful: Collection[nn.Module]) -> list[torch.Tensor]:
    """Those that ``model`` keeps, but for what calls change in ``stateful`` modules."""
    fixed = [module for module in model.modules() if module not in stateful]
    kept = [value for module in fixed for held in (module._buffers, vars(module)) for value in held.values()]
    return [*model.parameters(), *[value for value in kept if isinstance(value, torch.Tensor)]]


def listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

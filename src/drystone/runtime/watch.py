"""Whether a module is still as it was when its program was made: its switches, its parts, and who watches them."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import nn

from drystone.capture.module_tree import unchanged

_PLAIN = (bool, int, float, str, type(None), nn.Module, nn.Parameter)
_values = dict.values


class Change(NamedTuple):
    """An attribute, by its qualified name, that means something else than before; None stands for nothing."""

    name: str
    old: Any
    new: Any

    @property
    def is_mode(self) -> bool:
        return self.name.rpartition(".")[2] == "training"

    @property
    def is_lent(self) -> bool:
        """Whether the new is there for a call, by ``torch.func.functional_call``: an assignment refuses what is no parameter."""
        return isinstance(self.old, nn.Parameter) and isinstance(self.new, torch.Tensor) and not isinstance(self.new, nn.Parameter)

    @property
    def is_weight(self) -> bool:
        return isinstance(self.old, torch.Tensor) and isinstance(self.new, torch.Tensor)


class Watch:
    """Asked at each call, and cheap for that: what the dicts of all modules hold is compared as a whole."""

    def __init__(self, module: nn.Module, state: Collection[str] = ()) -> None:
        """``state``: the attributes that calls change, by qualified name."""
        self.state = set(state)
        named = [(name, inner) for name, inner in module.named_modules() if "_parameters" in vars(inner)]  # TorchScript has none
        self.parameters = list(module.parameters())
        self._hooks = [
            hooks for _, inner in named if inner is not module for hooks in (inner._forward_pre_hooks, inner._forward_hooks)
        ]
        self._hook_count = sum(map(len, self._hooks))
        self._names = [name for name, inner in named for _ in range(4)]
        self._dicts: list[dict[str, Any]] = [
            held for _, inner in named for held in (vars(inner), inner._parameters, inner._buffers, inner._modules)
        ]
        owners = {name.rpartition(".")[0] for name in state}
        # Those without state, and those with it, which are looked through.
        self._plain = [held for name, held in zip(self._names, self._dicts, strict=True) if name not in owners]
        self._mixed = [(name and f"{name}.", held) for name, held in zip(self._names, self._dicts, strict=True) if name in owners]
        self._note()

    def _note(self) -> None:
        self._before = list(map(dict, self._dicts))
        self._all = self._now()

    def _now(self) -> tuple[Any, ...]:
        values = tuple(chain.from_iterable(map(_values, self._plain)))
        for prefix, held in self._mixed:
            values += tuple([value for name, value in held.items() if prefix + name not in self.state])
        return values

    def other_hooks(self) -> bool:
        """Whether hooks of submodules are others in number."""
        return sum(map(len, self._hooks)) != self._hook_count

    def change(self) -> Change | None:
        """An attribute that means something else than before: a plain value, a parameter, a buffer, a submodule."""
        try:
            if self._now() == self._all:  # the same objects, mostly
                return None
        except Exception:  # tensors, say, do not compare to one truth value
            pass
        for prefix, before, now in zip(self._names, self._before, self._dicts, strict=True):
            tensors = not ("training" in now and "_parameters" in now)
            for name in {**before, **now}:
                old, new, qualified = before.get(name), now.get(name), f"{prefix}.{name}" if prefix else name
                counts = tensors or (isinstance(old, _PLAIN) and isinstance(new, _PLAIN))
                if counts and not unchanged(old, new) and qualified not in self.state:
                    return Change(qualified, old, new)
        self._note()
        return None

"""Which submodules of a model are asked to stay as they are."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from typing import cast

import torch
from torch import nn

from drystone.errors import InputError

# A submodule, itself or by its qualified name, or a function of (name, module) that says whether it is meant.
Choice = str | nn.Module | Callable[[str, nn.Module], bool]


def chosen_modules(model: nn.Module, choices: Sequence[Choice] | Choice | None, option: str = "keep_fp32") -> set[nn.Module]:
    """The submodules that ``option`` means, with all inside them. Raises ``InputError`` for one that the model does not have."""
    if choices is None:
        return set()
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"{option}: a TorchScript module does not tell which operator is of which submodule")
    modules = dict(model.named_modules())
    chosen: set[nn.Module] = set()
    single = isinstance(choices, (str, nn.Module)) or callable(choices)
    for choice in [choices] if single else cast(Sequence[Choice], choices):
        if isinstance(choice, nn.Module):
            if choice not in modules.values():
                raise InputError(f"{option}: the {type(choice).__name__} that is given is no submodule of the model")
            chosen.update(choice.modules())
        elif isinstance(choice, str):
            if choice not in modules:
                near = difflib.get_close_matches(choice, modules, 3, 0.4)
                likely = f"; there is {', '.join(map(repr, near))}" if near else ""
                raise InputError(f"{option}: the model has no submodule {choice!r}{likely}")
            chosen.update(modules[choice].modules())
        elif callable(choice):
            chosen.update(inner for name, module in modules.items() if choice(name, module) for inner in module.modules())
        else:
            raise InputError(f"{option}: expected submodules, their names, and functions of (name, module), got {choice!r}")
    return chosen


def names_of(model: nn.Module, chosen: Collection[nn.Module]) -> set[str]:
    """All names under which ``model`` has them."""
    return {name for name, module in model.named_modules(remove_duplicate=False) if module in chosen} if chosen else set()

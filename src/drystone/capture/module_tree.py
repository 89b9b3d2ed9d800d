"""A model's tree of modules, copied for use beside it: the copies share its parameters, and what is set on them it never sees."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from types import MethodType
from typing import Any

import torch
from torch import nn

# What nn.Module itself keeps of a module: dicts of children, tensors and hooks, which a copy needs for itself.
_MACHINERY = frozenset(vars(nn.Module()))


def copy_tree(
    model: nn.Module, forwards: Mapping[nn.Module, Callable[..., Any]] | None = None, stateful: Collection[nn.Module] = ()
) -> dict[nn.Module, nn.Module]:
    """Each module of ``model`` → its copy; ``[model]`` is the root of the new tree.

    Modules in ``forwards`` get that function as their ``forward``, and keep the original modules below them: their copies are
    in all else what they were, for parents that read their weights, call their other methods or ask for their class. Buffers
    of ``stateful`` modules are copied, all other tensors shared. A module that is at two places of the tree is so in the copy.
    """
    forwards = forwards or {}
    copies: dict[nn.Module, nn.Module] = {}
    tensors: dict[int, torch.Tensor] = {}

    def visit(module: nn.Module) -> nn.Module:
        if module in copies or isinstance(module, torch.jit.ScriptModule):
            return copies.get(module, module)
        copies[module] = made = _shallow(module)
        if module in stateful:
            for holder in (made._buffers, vars(made)):
                for name, value in holder.items():
                    if isinstance(value, torch.Tensor):
                        holder[name] = tensors[id(value)] = tensors[id(value)] if id(value) in tensors else value.clone()
        if module in forwards:
            vars(made)["forward"] = forwards[module]
        else:
            for name, child in made._modules.items():
                made._modules[name] = None if child is None else visit(child)
        return made

    visit(model)
    for original, made in copies.items():
        _redirect(original, made, copies)
    return copies


def bare(module: nn.Module) -> nn.Module:
    """``module`` without what surrounds its ``forward`` in a call: its own hooks, a ``__call__`` of its class.

    Both are still there around the ``forward`` that takes its place in a copied tree.
    """
    kind = type(module)
    made = _shallow(module)
    made.__class__ = type(kind.__name__, (kind,), {"__call__": nn.Module.__call__, "__module__": kind.__module__})
    made._forward_hooks.clear()
    made._forward_pre_hooks.clear()
    return made


def _shallow(module: nn.Module) -> nn.Module:
    """Another object of the same class with the same attributes. copy.copy would run what the class does when unpickled."""
    made: nn.Module = object.__new__(type(module))
    for name, value in vars(module).items():
        vars(made)[name] = copy.copy(value) if name in _MACHINERY else value
    for ancestor in type(module).__mro__:
        slots = vars(ancestor).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(module, name):
                object.__setattr__(made, name, getattr(module, name))
    return made


def _redirect(original: nn.Module, made: nn.Module, copies: Mapping[nn.Module, nn.Module]) -> None:
    """Attributes that lead past the tree (a module kept unregistered, a bound method) lead to the copies."""
    for name, value in vars(original).items():
        if vars(made)[name] is not value:
            continue
        if isinstance(value, nn.Module):
            vars(made)[name] = copies.get(value, value)
        elif isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
            vars(made)[name] = MethodType(value.__func__, copies.get(value.__self__, value.__self__))

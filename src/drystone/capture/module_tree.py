"""A model's tree of modules, copied for use beside it: the copies share its parameters, and what is set on them it never sees."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from types import MethodType
from typing import Any, Protocol

import torch
from torch import nn

from drystone.capture.isolated import Copier

# What nn.Module itself keeps of a module: dicts of children, tensors and hooks, which a copy needs for itself.
MACHINERY = frozenset(vars(nn.Module()))


class Replacement(Protocol):
    """What takes the place of a module's ``forward`` in a copied tree."""

    def around(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """The new ``forward``; ``own`` is that of the copy."""

    def abandon(self, name: str) -> None:
        """Called when someone sets the attribute ``name`` of the module, or of one below, to something else."""


def copy_tree(
    model: nn.Module, replaced: Mapping[nn.Module, Replacement] | None = None, stateful: Collection[nn.Module] = ()
) -> dict[nn.Module, nn.Module]:
    """Each module of ``model`` → its copy; ``[model]`` is the root of the new tree.

    Modules in ``replaced`` have another ``forward``: in all else their copies are what they were, for parents that read their
    weights, call their other methods or ask for their class. What ``stateful`` modules hold beside parameters is copied, all else
    shared. A module that is at two places of the tree is so in the copy.
    """
    copies: dict[nn.Module, nn.Module] = {}
    copier = Copier(torch.Tensor.clone, modules=False)

    def visit(module: nn.Module) -> nn.Module:
        if module in copies or stands_alone(module):
            return copies.get(module, module)
        copies[module] = made = _shallow(module)
        if module in stateful:
            for holder in (made._buffers, vars(made)):
                for name, value in holder.items():
                    if name not in MACHINERY and not isinstance(value, (nn.Module, MethodType)):
                        holder[name] = copier.copy(value)
        for name, child in made._modules.items():
            made._modules[name] = None if child is None else visit(child)
        return made

    visit(model)
    for original, made in copies.items():
        _redirect(original, made, copies)
    for module, replacement in (replaced or {}).items():
        made = copies[module]
        vars(made)["forward"] = replacement.around(made.forward)
        for inner in module.modules():
            if inner in copies:
                _watch(copies[inner], replacement.abandon)
    return copies


def stands_alone(module: nn.Module) -> bool:
    """Whether ``module`` runs something of its own, so that no copy is made: TorchScript, or what drystone has prepared."""
    return isinstance(module, torch.jit.ScriptModule) or getattr(type(module), "stands_alone", False)


def unchanged(old: Any, new: Any) -> bool:
    """Whether an attribute that was ``old`` means the same as ``new``; tensors and other objects only if they are one."""
    return old is new or (isinstance(new, (bool, int, float, str)) and type(old) is type(new) and old == new)


def _watch(made: nn.Module, changed: Callable[[str], None]) -> None:
    """Have ``changed`` called with the name of each attribute of ``made`` that is set to something else."""
    kind = type(made)

    def set_attribute(self: nn.Module, name: str, value: Any) -> None:
        if not unchanged(getattr(self, name, MACHINERY), value):
            changed(name)
        kind.__setattr__(self, name, value)

    # Past __setattr__: a module of several parts has one that watches already.
    watched = type(kind.__name__, (kind,), {"__setattr__": set_attribute, "__module__": kind.__module__})
    object.__setattr__(made, "__class__", watched)


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
        vars(made)[name] = copy.copy(value) if name in MACHINERY else value
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

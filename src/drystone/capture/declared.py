"""What ``dynamic_shapes`` says of the inputs' dimensions, and whether a call keeps to it.

torch.export checks that a model lets vary what is declared. A program must check that a call stays within it: it was asked for no
other sizes, and inputs that share a dimension are one symbol of it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from drystone.errors import InputError, ShapeError


@dataclass(frozen=True)
class Declared:
    """One dimension: ``times`` the size called ``root``, and ``plus``. Without a root it is of no other's size."""

    name: str
    least: int
    most: int | None
    root: str = ""
    times: int = 1
    plus: int = 0

    def __str__(self) -> str:
        bounds = f"from {self.least} on" if self.most is None else f"from {self.least} to {self.most}"
        return f"{self.name} {bounds}".strip()

    def allows(self, size: int) -> bool:
        return self.least <= size and (self.most is None or size <= self.most)


# For each input, what is declared of its dimensions.
Dimensions = list[dict[int, Declared]]


def declared_dims(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any
) -> dict[int, dict[int, Declared]]:
    """For each tensor of the call, by its id, what is declared of its dimensions.

    Raises ``InputError`` for a dimension that a tensor does not have, ``ShapeError`` if the call itself is outside of it.
    """
    if hasattr(dynamic_shapes, "dynamic_shapes"):  # torch's ShapesCollection, AdditionalInputs
        dynamic_shapes = dynamic_shapes.dynamic_shapes(model, args, kwargs)
    if not isinstance(dynamic_shapes, (dict, tuple, list)):
        raise InputError(
            f"dynamic_shapes: expected a dict of the inputs' names, or a tuple with an entry for each, got {dynamic_shapes!r}"
        )
    given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    named = dynamic_shapes if isinstance(dynamic_shapes, dict) else dict(zip(given, dynamic_shapes, strict=False))
    found, names, tensors = [], [], []
    for name, tensor, dims in _tensors(given, named):
        each = _by_key(dims)
        for axis in each:
            if not -tensor.dim() <= axis < tensor.dim():
                raise InputError(f"dynamic_shapes: input {name!r} has {tensor.dim()} dimensions, and no dimension {axis}")
        found.append({axis: said for axis, dim in each.items() if (said := _declared(dim))})
        names.append(name)
        tensors.append(tensor)
    check(found, names, tensors)
    return {id(tensor): dims for tensor, dims in zip(tensors, found, strict=True)}


def check(declared: Dimensions, names: Sequence[str], tensors: Sequence[torch.Tensor]) -> None:
    """Raise ``ShapeError`` where a size is out of its range, or inputs differ in a size that they share."""
    roots: dict[str, tuple[int, str, str]] = {}  # size, place and name, where each was met first
    for name, tensor, dims in zip(names, tensors, declared, strict=True):
        for axis, said in dims.items():
            size = tensor.shape[axis]
            place = f"input {name!r} has {size} along dimension {axis}"
            if not said.allows(size):
                raise ShapeError(
                    f"{place}, and dynamic_shapes declares it as {said}; declare more there, or leave dynamic_shapes out"
                )
            if not said.root:
                continue
            root, rest = divmod(size - said.plus, said.times)
            first, other, called = roots.setdefault(said.root, (root, place, said.name))
            if rest and other == place:
                raise ShapeError(f"{place}, and dynamic_shapes declares it as {said.name}")
            if rest or root != first:
                both = f"both as {called}" if called == said.name else f"them as {called} and {said.name}"
                raise ShapeError(f"{other} and {place}, and dynamic_shapes declares {both}")


def _tensors(value: Any, declared: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor, Any]]:
    """The tensors inside ``value``, and what is declared in the same places; nothing where torch.export will refuse it."""
    if isinstance(value, torch.Tensor):
        yield name, value, declared
        return
    if isinstance(value, dict):
        keys, children = list(value), list(value.values())
    else:
        children = pytree.tree_flatten(value, is_leaf=lambda item: item is not value)[0]
        keys = list(range(len(children)))
    if len(children) == 1 and children[0] is value:
        return
    inside = _by_key(declared)
    for key, child in zip(keys, children, strict=True):
        yield from _tensors(child, inside.get(key), f"{name}[{key!r}]" if name else str(key))


def _by_key(declared: Any) -> dict[Any, Any]:
    return declared if isinstance(declared, dict) else dict(enumerate(declared if isinstance(declared, (tuple, list)) else ()))


def _declared(dim: Any) -> Declared | None:
    """What a ``Dim`` of torch's declares; None for a fixed size, and for a hint without bounds."""
    least, most = (getattr(dim, bound, None) for bound in ("min", "max"))
    name = getattr(dim, "__name__", "")
    if not (name or isinstance(least, int) or isinstance(most, int)) or hasattr(dim, "value"):
        return None
    root, function = getattr(dim, "root", dim), getattr(dim, "fn", None)
    times, plus = (1, 0) if function is None else (int(function(1) - function(0)), int(function(0)))
    # No bound is an integer of torch's own, in older versions the largest.
    bounds = [bound if isinstance(bound, int) and bound < sys.maxsize - 1 else None for bound in (least, most)]
    return Declared(name, bounds[0] or 0, bounds[1], getattr(root, "__name__", ""), times, plus)

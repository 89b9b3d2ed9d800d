"""The caches of transformers among the inputs: objects with tensors that a call reads and writes to.

torch.export takes tensors in containers that pytree knows. transformers makes its growing cache known itself, not its static ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from drystone.errors import InputError, UnsupportedError

_MODULE = "transformers.cache_utils"


@dataclass(frozen=True)
class _Tensor:
    """Stands for a tensor."""


@dataclass(frozen=True)
class _Opened:
    """An object, list, tuple or dict without its tensors."""

    kind: type
    items: tuple[tuple[Any, Any], ...]


def register_caches(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Have torch look for tensors inside the caches among the arguments.

    Raises ``InputError`` for one that makes its tensors at its first call only.
    """
    for leaf in pytree.tree_leaves((args, kwargs)):
        kind = type(leaf)
        if kind not in pytree.SUPPORTED_NODES and is_cache(leaf):
            name = f"{kind.__module__}.{kind.__qualname__}"
            pytree.register_pytree_node(kind, _opened, _closed, serialized_type_name=name, flatten_with_keys_fn=_opened_with_keys)
    for cache in caches_in(args, kwargs):
        if not getattr(cache, "is_initialized", True):
            raise InputError(
                f"the {type(cache).__name__} has no tensors yet; make them with its early_initialization(…), or by an eager call"
            )


def is_cache(value: Any) -> bool:
    return any(kind.__name__ == "Cache" and kind.__module__ == _MODULE for kind in type(value).__mro__)


def caches_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Those that this module has registered."""
    leaves = pytree.tree_leaves((args, kwargs), is_leaf=is_cache)
    nodes = pytree.SUPPORTED_NODES
    return [leaf for leaf in leaves if is_cache(leaf) and type(leaf) in nodes and nodes[type(leaf)].flatten_fn is _opened]


class Watched:
    """Caches before a call, which may write to their tensors and is to change nothing else in them."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._before = [(cache, *_opened(cache)) for cache in caches_in(args, kwargs)]

    def check(self) -> None:
        """Raises ``UnsupportedError``."""
        for cache, tensors, rest in self._before:
            now, other = _opened(cache)
            if other != rest or any(a is not b for a, b in zip(tensors, now, strict=True)):
                raise UnsupportedError(f"a call changes more in its {type(cache).__name__} than the numbers in tensors")


def _opened(value: Any) -> tuple[list[torch.Tensor], Any]:
    tensors: list[torch.Tensor] = []

    def visit(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            tensors.append(item)
            return _Tensor()
        if isinstance(item, (list, tuple)):
            return _Opened(type(item), tuple((None, visit(each)) for each in item))
        if isinstance(item, dict):
            return _Opened(type(item), tuple((key, visit(each)) for key, each in item.items()))
        if type(item).__module__ == _MODULE or item is value:
            return _Opened(type(item), tuple((name, visit(each)) for name, each in vars(item).items()))
        return item

    return tensors, visit(value)


def _opened_with_keys(value: Any) -> Any:
    tensors, rest = _opened(value)
    return [(pytree.SequenceKey(index), tensor) for index, tensor in enumerate(tensors)], rest


def _closed(tensors: Any, rest: Any) -> Any:
    given = iter(list(tensors))

    def visit(item: Any) -> Any:
        if isinstance(item, _Tensor):
            return next(given)
        if not isinstance(item, _Opened):
            return item
        items = [(name, visit(each)) for name, each in item.items]
        if issubclass(item.kind, (list, tuple)):
            return item.kind(each for _, each in items)
        if issubclass(item.kind, dict):
            return item.kind(items)
        made = object.__new__(item.kind)
        vars(made).update(items)
        return made

    return visit(rest)

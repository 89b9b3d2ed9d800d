"""Calibration data: calls of the model like the example's, each held to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from drystone.errors import InputError

# More teach observers little.
MOST = 128

Call = tuple[tuple[Any, ...], dict[str, Any]]


def samples_of(calibration: Any, args: tuple[Any, ...], kwargs: dict[str, Any], varying: bool = False) -> list[Call]:
    """Calls of the example's shapes, at most ``MOST``; larger batches are cut. Raises ``InputError`` for what is none.

    ``varying``: sizes may be others, as far as the model takes them.
    """
    if calibration is None:
        raise InputError(
            "calibration is missing: dtype=torch.int8 takes its scales from inputs like those to come. Give a list, a DataLoader "
            "or another iterable of tensors, tuples of positional inputs, or dicts of inputs by name; 32 are usually enough"
        )
    if isinstance(calibration, torch.Tensor) or not isinstance(calibration, Iterable):
        raise InputError(f"calibration: expected an iterable of inputs, got {type(calibration).__name__}")
    found: list[Call] = []
    for number, item in enumerate(calibration):
        found += _calls(f"calibration sample {number}", item, args, kwargs, varying)
        if len(found) >= MOST:
            break
    if not found:
        raise InputError("calibration: there are no samples in it")
    return found[:MOST]


def _calls(what: str, item: Any, args: tuple[Any, ...], kwargs: dict[str, Any], varying: bool) -> Iterator[Call]:
    given: Call
    if isinstance(item, Mapping):
        given = ((), dict(item))
        if args and not kwargs and len(args) == 1 and isinstance(args[0], Mapping):
            given = ((item,), {})
    else:
        given = ((item,) if isinstance(item, torch.Tensor) else tuple(item), {}) if _is_sequence(item) else ((item,), {})
    leaves, spec = pytree.tree_flatten(given)
    like, expected = pytree.tree_flatten((args, kwargs))
    if spec != expected:
        raise InputError(
            f"{what} is no call like the example's: expected {_shown((args, kwargs))}, got {_shown(given)}; leave out labels"
        )
    parts = None
    for leaf, example in zip(leaves, like, strict=True):
        if isinstance(example, torch.Tensor):
            count = _parts(what, leaf, example, varying)
            parts = count if parts is None else min(parts, count)
    for part in range(parts or 1):
        cut = leaves if varying else [_part(leaf, example, part) for leaf, example in zip(leaves, like, strict=True)]
        yield pytree.tree_unflatten(cut, spec)


def _is_sequence(item: Any) -> bool:
    return isinstance(item, (torch.Tensor, tuple, list))


def _parts(what: str, leaf: Any, example: torch.Tensor, varying: bool) -> int:
    """How many of the example's batches are in ``leaf``."""
    if not isinstance(leaf, torch.Tensor):
        raise InputError(f"{what}: expected a tensor of shape {list(example.shape)}, got {type(leaf).__name__}")
    if leaf.dtype != example.dtype:
        raise InputError(f"{what}: expected {example.dtype}, as the example has, got {leaf.dtype}")
    if leaf.is_floating_point() and not bool(leaf.isfinite().all()):
        raise InputError(f"{what} holds NaN or infinity: no scale follows from it; leave it out")
    if leaf.shape == example.shape or (varying and leaf.dim() == example.dim()):
        return 1
    fits = leaf.dim() == example.dim() > 0 and leaf.shape[1:] == example.shape[1:]
    if not fits or leaf.shape[0] < example.shape[0]:
        raise InputError(
            f"{what}: expected shape {list(example.shape)}, as the example's, or a larger batch, got {list(leaf.shape)}"
        )
    return int(leaf.shape[0] // example.shape[0])


def _part(leaf: Any, example: Any, part: int) -> Any:
    if not isinstance(example, torch.Tensor) or leaf.shape == example.shape:
        return leaf
    size = example.shape[0]
    return leaf[part * size : (part + 1) * size]


def _shown(call: Call) -> str:
    return str(pytree.tree_map_only(torch.Tensor, lambda tensor: f"tensor{list(tensor.shape)}", call))

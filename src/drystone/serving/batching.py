"""Requests of the same form as one call: along the first axis of their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from drystone.capture.shapes import batch_inputs

Call = tuple[tuple[Any, ...], dict[str, Any]]
# Requests of equal forms can be merged. Shapes have no first axis.
Form = tuple[Any, ...]
# Of the leaves of a result; None of what is no tensor.
Shapes = list[tuple[int, ...] | None]


@dataclass(frozen=True)
class Sliced:
    """Of a call: its leaves, which of them are cut along the first axis, and into how many rows."""

    leaves: list[Any]
    spec: Any
    cut: frozenset[int]
    rows: int
    form: Form


def sliced(call: Call) -> Sliced | None:
    """None where nothing of the call has a first axis, or something else of it can't be compared."""
    leaves, spec = pytree.tree_flatten(call)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    batch = batch_inputs([leaves[place] for place in places])
    if not batch:
        return None
    cut = frozenset(places[number] for number in batch)
    first = leaves[min(cut)]
    described = []
    for place, leaf in enumerate(leaves):
        if place in cut:
            described.append((leaf.shape[1:], leaf.dtype))
        elif isinstance(leaf, torch.Tensor):
            described.append(("same", id(leaf)))  # type: ignore[arg-type]
        else:
            described.append((type(leaf), leaf))
    form = (str(spec), first.shape[0], *described)
    try:
        hash(form)
    except TypeError:
        return None
    return Sliced(leaves, spec, cut, first.shape[0], form)


def merged(calls: Sequence[Sliced]) -> Call:
    """One call of the rows of all, which have the same form."""
    one = calls[0]
    leaves = [
        torch.cat([call.leaves[place] for call in calls]) if place in one.cut else leaf for place, leaf in enumerate(one.leaves)
    ]
    args, kwargs = pytree.tree_unflatten(leaves, one.spec)
    return args, kwargs


def shapes(result: Any) -> Shapes:
    return [tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else None for leaf in pytree.tree_leaves(result)]


def parted(result: Any, count: int, alone: Shapes) -> list[Any] | None:
    """The result of each of ``count`` merged requests; ``alone``: shapes of the result of one. None where they do not follow.

    What is no tensor is the same for all.
    """
    leaves, spec = pytree.tree_flatten(result)
    if len(leaves) != len(alone):
        return None
    columns: list[Sequence[Any]] = []
    for leaf, shape in zip(leaves, alone, strict=True):
        if not isinstance(leaf, torch.Tensor):
            columns.append([leaf] * count)
        elif shape and tuple(leaf.shape) == (count * shape[0], *shape[1:]):
            columns.append([part.clone() for part in leaf.split(shape[0])])  # else each would keep the whole in memory
        else:
            return None
    return [pytree.tree_unflatten([column[number] for column in columns], spec) for number in range(count)]

"""What calls of a model change in it, seen by running it: nothing, what it makes at its first call and then keeps, or more.

A table that is made at the first call is a constant of the program, so the model is traced as it is after that. Tensors that go on
changing are state, which a program reads and leaves (``capture/state.py``). Anything else is no part of a program: where the result
depends on it, the model can't be captured; where it does not, it is named.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from drystone.capture.alone import own_random_numbers
from drystone.capture.caches import Watched
from drystone.capture.isolated import Isolated, cloned_call, state, tensors_of, version_of
from drystone.capture.state import Explicit, Path, assign, fetch, is_plain, root_of
from drystone.errors import UnsupportedError
from drystone.graph.tape import Tape

_MISSING = object()
# Results that differ by less are equal within the rounding of one operator.
SAME = 1e-5


@dataclass
class Settled:
    """``model``: a copy to trace, with the model's own weights. ``changed``: the names of what each call changes and no program can
    keep; ``matters``: the result depends on it. ``explicit``: makes the copy a function of its state, where it has any."""

    model: nn.Module
    changed: list[str] = field(default_factory=list)
    matters: bool = False
    explicit: Explicit | None = None


def settle(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Settled:
    """Run copies of the model: once, and where that changes anything, again with other numbers, after the first call and afresh."""
    first = Isolated(model)
    before = state(first.model)
    try:
        _, inputs = _run(first.model, args, kwargs)
    except UnsupportedError:  # of what the call does to a cache
        raise
    except Exception:  # the capture meets it too, and says on which line
        return Settled(Isolated(model).for_tracing())
    after = state(first.model)
    touched = [path for path in {**before, **after} if _differs(before.get(path), after.get(path))]
    settled = first.for_tracing()
    if not touched:
        return Settled(settled, explicit=Explicit(settled, [], inputs, []) if inputs else None)
    kept = {path: _value(after.get(path)) for path in touched}
    fresh = Isolated(model)
    try:
        other_args, other_kwargs = _other_numbers(args, kwargs)
        (later, _), (alone, _) = (_run(tried.model, other_args, other_kwargs) for tried in (first, fresh))
    except Exception:  # it does not take other numbers
        first, fresh = Isolated(model), Isolated(model)
        _run(first.model, args, kwargs)
        after = state(first.model)
        (later, _), (alone, _) = (_run(tried.model, args, kwargs) for tried in (first, fresh))
    again, once = state(first.model), state(fresh.model)
    for path in again:
        if path not in kept and _differs(after.get(path), again[path]):
            kept[path] = _MISSING
    changed = [path for path, value in kept.items() if not (_same(value, again.get(path)) and _same(value, once.get(path)))]
    tensors = [path for path in changed if _is_state(after.get(path), again.get(path))]
    names = list(dict.fromkeys(str(path[0]) for path in changed if path not in tensors))
    numbers = [path for path in changed if path in after and isinstance(after[path][0], (int, float))]
    matters = bool(names) and (not _equal(later, alone) or _decides(model, numbers, args, kwargs))
    if matters:
        names = list(dict.fromkeys(str(path[0]) for path in changed))
    if matters or not (tensors or inputs):
        return Settled(settled, names, matters)
    # Numbers and switches that are set in calls, and stay as they are: what a method resets may be among them.
    numbers = [path for path in kept if path not in changed and _is_number(settled, path)] if tensors else []
    roots = list(dict.fromkeys(root_of(settled, path) for path in [*tensors, *numbers]))
    for root in roots:
        if pytree.tree_structure(fetch(settled, root)) != pytree.tree_structure(fetch(first.model, root)):
            raise UnsupportedError(f"each call of the model changes the length of {root[0]!r}")
    written = {id(value) for path, (value, version) in after.items() if path in again and again[path][1] != version}
    leaves = pytree.tree_leaves([fetch(first.model, root) for root in roots])
    hidden = [id(leaf) in written for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return Settled(settled, names, False, Explicit(settled, roots, inputs, hidden))


def _decides(model: nn.Module, paths: list[Path], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call decides on what lies at ``paths``: numbers, which are others in later calls."""
    tried = Isolated(model).model
    try:
        _run(tried, args, kwargs)
        tape = Tape([fetch(tried, path) for path in paths])
        for path, number in zip(paths, tape.numbers, strict=True):
            assign(tried, path, number)
        _run(tried, args, kwargs)
    except Exception:  # it needs plain ones
        return True
    return tape.decides


def _is_number(model: nn.Module, path: Path) -> bool:
    """Whether it is a number, a string or their like, and not inside a container."""
    return is_plain(fetch(model, path)) and root_of(model, path) == path


def _is_state(now: tuple[Any, int] | None, later: tuple[Any, int] | None) -> bool:
    """Whether it is a tensor after one call and after two, of the same form."""
    if now is None or later is None:
        return False
    a, b = now[0], later[0]
    if type(a) is not torch.Tensor or type(b) is not torch.Tensor:
        return False
    return a.shape == b.shape and a.dtype == b.dtype


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[int]]:
    """The result, and which of the tensors among the inputs the model has changed in place."""
    args, kwargs = cloned_call(args, kwargs)
    tensors = tensors_of(args, kwargs)
    versions, caches = list(map(version_of, tensors)), Watched(args, kwargs)
    before = _containers([args, kwargs])
    with own_random_numbers():
        result = model(*args, **kwargs)
    caches.check()
    for container, held in before:
        now = _contents(container)
        if len(now) != len(held) or any(map(operator.is_not, now, held)):
            raise UnsupportedError(
                f"a call changes which entries a {type(container).__name__} among its inputs has, and a program would not; "
                "give them back as an output"
            )
    return result, [i for i, tensor in enumerate(tensors) if version_of(tensor) != versions[i]]


def _containers(item: Any) -> list[tuple[Any, list[Any]]]:
    """The lists and dicts inside, and what is in each."""
    inside = list(item.values()) if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else []
    found = [] if isinstance(item, tuple) or not isinstance(item, (list, dict)) else [(item, _contents(item))]
    return [*found, *(entry for each in inside for entry in _containers(each))]


def _contents(container: Any) -> list[Any]:
    """Its entries, and the keys of a dict."""
    return [*container.values(), *container] if isinstance(container, dict) else [*container]


def _other_numbers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The call with numbers that an input of this kind may have: its own in another order, fractions smaller as well."""

    def other(tensor: torch.Tensor) -> torch.Tensor:
        turned = tensor.flip(tuple(range(tensor.dim())))
        return turned * 0.75 + 0.125 if tensor.is_floating_point() else turned

    changed: tuple[Any, Any] = pytree.tree_map_only(torch.Tensor, other, (args, kwargs))
    return changed


def _differs(old: tuple[Any, int] | None, new: tuple[Any, int] | None) -> bool:
    if old is None or new is None:
        return True
    (a, before), (b, after) = old, new
    return before != after or not (a is b or (_plain(a) and _plain(b) and type(a) is type(b) and a == b))


def _plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device))


def _value(entry: tuple[Any, int] | None) -> Any:
    """What is kept of a value to compare it later."""
    if entry is None:
        return _MISSING
    value = entry[0]
    return value.detach().clone() if isinstance(value, torch.Tensor) else value if _plain(value) or value is None else type(value)


def _same(value: Any, entry: tuple[Any, int] | None) -> bool:
    now = _value(entry)
    if isinstance(value, torch.Tensor) and isinstance(now, torch.Tensor):
        return _close(value, now, 0.0)
    return type(value) is type(now) and (value is now or (not isinstance(value, torch.Tensor) and bool(value == now)))


def _close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if a.layout is not torch.strided or a.is_quantized:
        return a is b
    if not tolerance or not a.is_floating_point() or not a.numel():
        return torch.allclose(a, b, 0.0, 0.0, equal_nan=True) if a.dtype is not torch.bool else torch.equal(a, b)
    scale = float(torch.nan_to_num(a.detach()).abs().max())
    return torch.allclose(a, b, tolerance, tolerance * scale, equal_nan=True)


def _equal(a: Any, b: Any) -> bool:
    first, second = pytree.tree_leaves(a), pytree.tree_leaves(b)
    pairs = zip(first, second, strict=False)
    return len(first) == len(second) and all(
        _close(x, y, SAME)
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)
        else type(x) is type(y) and (not _plain(x) or x == y)
        for x, y in pairs
    )

"""State between calls, and inputs that a call changes, as further inputs and outputs of the traced function.

    self.h = torch.tanh(x + self.h)      f(x, h)      → y, h'        set: self.h becomes h'
    self.h.mul_(0.9).add_(x)             f(x, h)      → y, h'        written: the memory of self.h becomes h'
    cache.index_copy_(1, at, x)          f(cache, x)  → y, cache'    written: the input's memory

A call reads the state from the model and leaves it there, so eager calls and methods that reset it find it as eager would.
"""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from drystone.capture.isolated import storage
from drystone.errors import UnsupportedError

# Where a model keeps something: a module's qualified name and attribute, then attributes of objects, keys and indices.
Path = tuple[Any, ...]

# The hidden inputs are buffers of the traced module.
HIDDEN = "_drystone_state_"
_CONTAINERS = (dict, list, tuple, deque)


@dataclass(frozen=True)
class Form:
    """A tensor, whatever its numbers."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Tensor:
    """One of the tensors that a call reads: the inputs, then the hidden ones."""

    index: int


@dataclass(frozen=True)
class Result:
    """One of the tensors that a call gives for its state."""

    index: int


@dataclass(frozen=True)
class _Content:
    """A tree of values at ``path``."""

    path: Path
    spec: pytree.TreeSpec
    leaves: tuple[Any, ...]


class Held(_Content):
    """What is there before a call: ``leaves`` are a ``Form`` for a tensor, which is a hidden input, else the values."""

    @property
    def forms(self) -> list[Form]:
        return [leaf for leaf in self.leaves if isinstance(leaf, Form)]


class Set(_Content):
    """What is put there after a call. ``leaves`` may be ``Tensor`` and ``Result``."""


@dataclass
class State:
    """What a call reads and changes beside its inputs and its result."""

    held: list[Held] = field(default_factory=list)
    sets: list[Set] = field(default_factory=list)
    written: dict[int, int] = field(default_factory=dict)  # of the tensors read, what becomes of their memory: a result's index
    results: int = 0
    same: dict[int, int] = field(default_factory=dict)  # leaves of the call's result that are the very tensors of the state

    def renamed(self, names: dict[str, str]) -> State:
        """For a model that has other names for the attributes."""

        def path(item: Held | Set) -> Path:
            return (names.get(item.path[0], item.path[0]), *item.path[1:])

        held = [replace(item, path=path(item)) for item in self.held]
        return replace(self, held=held, sets=[replace(item, path=path(item)) for item in self.sets])

    @property
    def hidden(self) -> list[Form]:
        return [form for held in self.held for form in held.forms]

    @property
    def names(self) -> set[str]:
        """The attributes, by qualified name."""
        return {item.path[0] for item in [*self.held, *self.sets]}

    def keeping(self, live: set[int], inputs: int) -> tuple[State, list[int], list[int]]:
        """With these of ``held`` alone to be read, and which of the hidden inputs and of the results stay. ``inputs``: of the call.

        Without any, nothing is set.
        """
        owners = [index for index, held in enumerate(self.held) for _ in held.forms]
        hidden = [index for index, owner in enumerate(owners) if owner in live]
        tensors = {index: number for number, index in enumerate([*range(inputs), *(inputs + index for index in hidden)])}
        held = [self.held[index] for index in sorted(live)]
        sets = self.sets if held else []
        written = {index: result for index, result in self.written.items() if index in tensors}
        used = {leaf.index for put in sets for leaf in put.leaves if isinstance(leaf, Result)}
        results = sorted(used | {*written.values(), *self.same.values()})
        number = {result: index for index, result in enumerate(results)}

        def again(leaf: Any) -> Any:
            if isinstance(leaf, Result):
                return Result(number[leaf.index])
            return Tensor(tensors[leaf.index]) if isinstance(leaf, Tensor) else leaf

        state = State(
            held,
            [Set(put.path, put.spec, tuple(map(again, put.leaves))) for put in sets],
            {tensors[index]: number[result] for index, result in written.items()},
            len(results),
            {place: number[result] for place, result in self.same.items()},
        )
        return state, hidden, results

    def read(self, model: nn.Module, inputs: list[torch.Tensor]) -> list[torch.Tensor] | None:
        """The tensors that the program reads. None where the state is of another form, or lies in memory of another tensor."""
        tensors = list(inputs)
        for held in self.held:
            try:
                leaves, spec = pytree.tree_flatten(fetch(model, held.path))
            except (AttributeError, LookupError, TypeError):
                return None
            if spec != held.spec or not all(map(_fits, leaves, held.leaves)):
                return None
            tensors += [leaf for leaf, want in zip(leaves, held.leaves, strict=True) if isinstance(want, Form)]
        if self.written:
            memory = list(map(storage, tensors))
            if any(memory.count(memory[index]) > 1 or _overlaps_itself(tensors[index]) for index in self.written):
                return None
        return tensors

    def write(self, tensors: Sequence[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        """Write to the tensors that a call changes in place. In ``outputs`` they take the places of their new values."""
        first = len(outputs) - self.results
        for index, result in self.written.items():
            if outputs[first + result] is not tensors[index]:
                tensors[index].copy_(outputs[first + result])
            elif not tensors[index].is_inference():  # the program has written there, which torch is to count
                torch.autograd.graph.increment_version(tensors[index])
            outputs[first + result] = tensors[index]

    def leave(self, model: nn.Module, tensors: Sequence[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        """Put the state where the model has it."""
        self.write(tensors, outputs)
        first = len(outputs) - self.results

        def value(leaf: Any) -> Any:
            if isinstance(leaf, Result):
                return outputs[first + leaf.index]
            return tensors[leaf.index] if isinstance(leaf, Tensor) else leaf

        for put in self.sets:
            assign(model, put.path, pytree.tree_unflatten(list(map(value, put.leaves)), put.spec))


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether two of its elements may be one, as after ``expand``."""
    return not tensor.is_contiguous() and any(
        stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def _fits(value: Any, want: Any) -> bool:
    if not isinstance(want, Form):
        return value is want or (is_plain(want) and type(value) is type(want) and value == want)
    return (
        type(value) is torch.Tensor
        and value.shape == want.shape
        and value.dtype is want.dtype
        and value.layout is torch.strided
        and value.is_cpu
        and not value.requires_grad
    )


def is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device))


# -- paths


def _step(holder: Any, key: Any) -> Any:
    return holder[key] if isinstance(holder, _CONTAINERS) else getattr(holder, key)


def _first(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has the attribute, and its name there."""
    if name in vars(model):  # of a TorchScript module's interpreter, which has all attributes itself
        return model, name
    *modules, attribute = name.split(".")
    return functools.reduce(getattr, modules, model), attribute


def fetch(model: nn.Module, path: Path) -> Any:
    owner, attribute = _first(model, path[0])
    return functools.reduce(_step, path[1:], getattr(owner, attribute))


def assign(model: nn.Module, path: Path, value: Any) -> None:
    holder: Any
    holder, key = _first(model, path[0])
    for next_key in path[1:]:
        holder, key = _step(holder, key), next_key
    if isinstance(holder, _CONTAINERS):
        holder[key] = value  # type: ignore[index]
    elif isinstance(holder, nn.Module) and not isinstance(holder, torch.jit.ScriptModule):
        # As the model itself has done it: past a __setattr__ that is there for users.
        (holder._buffers if key in holder._buffers else vars(holder))[key] = value
    else:
        setattr(holder, key, value)


def root_of(model: nn.Module, path: Path) -> Path:
    """The part of ``path`` that leads to a tensor, a plain value or a container with all that is in it."""
    end = 1
    while end < len(path) and not isinstance(fetch(model, path[:end]), _CONTAINERS):
        end += 1
    return path[:end]


# -- tracing


class Explicit:
    """Makes the forward of ``model`` (a copy, to be traced) a function of its state: what is at the paths ``held``.

    ``state`` says what the hidden inputs and the further outputs are, once the function has run.
    """

    def __init__(self, model: nn.Module, held: Sequence[Path], inputs: Sequence[int], written: Sequence[bool]) -> None:
        """``inputs``: the tensors among the inputs that a call changes in place, by number. ``written``: whether it so changes a
        hidden input, for each."""
        self.model, self.inputs, self.written, self.state = model, inputs, written, State()
        hidden: list[torch.Tensor] = []
        for path in held:
            owner, attribute = _first(model, path[0])
            if attribute in owner._buffers:  # torch has its own way with buffers
                vars(owner)[attribute] = owner._buffers.pop(attribute)
            leaves, spec = pytree.tree_flatten(fetch(model, path))
            hidden += [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
            forms = [Form(tuple(leaf.shape), leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
            self.state.held.append(Held(path, spec, tuple(forms)))
        if not all(map(_is_plain_tensor, hidden)):
            raise UnsupportedError(f"a tensor in {', '.join(map(repr, sorted(self.state.names)))} is none that a program can keep")
        for index, tensor in enumerate(hidden):  # clones, as torch takes one tensor in two places for one input
            model.register_buffer(f"{HIDDEN}{index}", tensor.detach().clone(), persistent=False)
        own = model.forward

        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._call(own, args, kwargs)

        forward.__signature__ = inspect.signature(own)  # type: ignore[attr-defined]
        vars(model)["forward"] = forward

    def _call(self, own: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result, and the tensors of the state after it."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        count = len(tensors)
        # What is changed in place is a copy, and its last value an output: the graph needs neither.
        for index in self.inputs:
            tensors[index] = tensors[index].clone()
        given = iter(tensors)
        args, kwargs = pytree.tree_unflatten([next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec)
        tensors += [getattr(self.model, f"{HIDDEN}{index}").clone() for index in range(len(self.written))]
        hidden = iter(tensors[count:])
        traced = [fetch(self.model, held.path) for held in self.state.held]
        try:
            before = []
            for held in self.state.held:
                items = [next(hidden) if isinstance(leaf, Form) else leaf for leaf in held.leaves]
                value = pytree.tree_unflatten(items, held.spec)
                before.append(_Snapshot(value))
                assign(self.model, held.path, value)
            result = own(*args, **kwargs)
            after = [fetch(self.model, held.path) for held in self.state.held]
        finally:
            for held, value in zip(self.state.held, traced, strict=True):
                assign(self.model, held.path, value)
        changes = _Changes(tensors)
        for index in [*self.inputs, *(count + index for index, written in enumerate(self.written) if written)]:
            changes.written[index] = changes.number(tensors[index])
        for held, snapshot, value in zip(self.state.held, before, after, strict=True):
            changes.compare(held.path, snapshot, value)
        self.state.sets, self.state.written, self.state.results = changes.sets, changes.written, len(changes.results)
        places = enumerate(pytree.tree_leaves(result))
        known = {id(tensor): index for index, tensor in enumerate(changes.results)}
        self.state.same = {place: known[id(leaf)] for place, leaf in places if id(leaf) in known}
        return result, tuple(changes.results)


def _is_plain_tensor(tensor: torch.Tensor) -> bool:
    return type(tensor) is torch.Tensor and tensor.layout is torch.strided and tensor.is_cpu


class _Snapshot:
    """What is in a container before a call, which may change it."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.items = {key: _Snapshot(item) for key, item in _items(value)}


def _items(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items() if isinstance(value, dict) else enumerate(value)) if isinstance(value, _CONTAINERS) else []


class _Changes:
    """Gathers what a call has made of its state."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self.tensors, self.results = tensors, list[torch.Tensor]()
        self.sets: list[Set] = []
        self.written: dict[int, int] = {}

    def number(self, tensor: torch.Tensor) -> int:
        """Of the tensor among the results."""
        for index, known in enumerate(self.results):
            if known is tensor:
                return index
        self.results.append(tensor)
        return len(self.results) - 1

    def compare(self, path: Path, before: _Snapshot, value: Any) -> None:
        """Note what the call has put at ``path`` and inside of it."""
        if value is before.value:
            items = dict(_items(value))
            if items.keys() != before.items.keys():
                raise UnsupportedError(f"each call of the model changes the length of {path[0]!r}")
            for key, item in items.items():
                self.compare((*path, key), before.items[key], item)
        elif not (is_plain(value) and type(value) is type(before.value) and value == before.value):
            leaves, spec = pytree.tree_flatten(value)
            self.sets.append(Set(path, spec, tuple([self.reference(path, leaf) for leaf in leaves])))

    def reference(self, path: Path, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            known = next((index for index, tensor in enumerate(self.tensors) if tensor is leaf), None)
            return Result(self.number(leaf)) if known is None else Tensor(known)
        if not is_plain(leaf):
            raise UnsupportedError(
                f"each call of the model sets {path[0]!r} to a {type(leaf).__name__}, which a program can't keep"
            )
        return leaf

"""How a captured model is called: from its arguments to tensors, and from tensors to its result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch.utils import _pytree as pytree

from drystone.capture.state import State
from drystone.errors import InputError

_TENSOR = frozenset((torch.Tensor,))


# Of a call: all but the sizes of tensors.
Form = tuple[Any, ...]


class OtherCall(InputError):
    """A call of another form than the example's, which the model may take: it would be another graph."""


@dataclass(frozen=True)
class InputLeaf:
    """One leaf of the flattened inputs: a tensor, or (where ``tensor`` is False) the constant that the model was captured with."""

    name: str
    tensor: bool
    constant: Any = None


@dataclass(frozen=True)
class OutputLeaf:
    """One leaf of the flattened outputs: ``graph.outputs[index]``, or a constant where ``index`` is None."""

    index: int | None
    constant: Any = None


@dataclass
class Signature:
    """How the model is called and what it gives back: from arguments to the graph's tensors, and from those to the result."""

    inputs: list[InputLeaf]
    outputs: list[OutputLeaf]
    in_spec: pytree.TreeSpec  # of (args, kwargs)
    out_spec: pytree.TreeSpec
    parameters: inspect.Signature  # of the module's forward
    state: State | None = None  # what a call reads and changes besides; its tensors are the graph's last inputs and outputs

    def __post_init__(self) -> None:
        args_spec, kwargs_spec = inner_specs(self.in_spec)
        self.count = sum(leaf.tensor for leaf in self.inputs)  # the graph's inputs that come from the call
        # The common cases, made cheap: f(tensor, …) → tensor, or tuples of tensors.
        self._plain_inputs = not kwargs_spec.num_leaves and all(spec.is_leaf() for spec in inner_specs(args_spec))
        self._plain_inputs &= all(leaf.tensor for leaf in self.inputs)
        self._assemble = _tuples(self.out_spec, iter(self.outputs))

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """The tensors for the graph's inputs. Raises ``InputError`` where the structure or a constant is not the captured one."""
        plain = self._plain_inputs and not kwargs and len(args) == len(self.inputs)
        if plain and _TENSOR.issuperset(map(type, args)):
            return list(args)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec != self.in_spec:
            leaves, spec = pytree.tree_flatten(_ordered(self._arranged(args, kwargs), self.in_spec))
        if spec != self.in_spec:
            raise self._other_structure(args, kwargs)
        tensors = []
        for leaf, given in zip(self.inputs, leaves, strict=True):
            if leaf.tensor:
                if not isinstance(given, torch.Tensor):
                    raise no_tensor(repr(leaf.name), given)
                tensors.append(given)
            elif type(given) is not type(leaf.constant) or given != leaf.constant:
                # One number may be any: each would be a graph of its own.
                a_number = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (leaf.constant, given))
                raise (InputError if a_number else OtherCall)(
                    f"input {leaf.name!r}: the model was captured with {leaf.constant!r}, got {given!r}; "
                    "prepare it again with the other value"
                )
        return tensors

    def unflatten(self, tensors: Sequence[torch.Tensor]) -> Any:
        """The model's result, in its own structure, from the graph's outputs."""
        if self._assemble:
            return self._assemble(tensors)
        leaves = [leaf.constant if leaf.index is None else tensors[leaf.index] for leaf in self.outputs]
        return pytree.tree_unflatten(leaves, self.out_spec)

    def _arranged(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same call with arguments by position or by name as in the example, and named ones in its order."""
        args_spec, kwargs_spec = inner_specs(self.in_spec)
        try:
            given = self.parameters.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(f"the inputs do not fit the model's forward{self.parameters}: {error}") from None
        named = dict(given.arguments)
        for parameter in self.parameters.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL and parameter.name in named:
                return args, kwargs
            if parameter.kind is parameter.VAR_KEYWORD:
                named.update(named.pop(parameter.name, {}))
        order = [name for name in self.parameters.parameters if name in named]
        by_position = order[: args_spec.num_children]
        by_name = [name for name in kwargs_spec.context or [] if name in named]
        rest = {name: value for name, value in named.items() if name not in by_position and name not in by_name}
        # What the example left to its default may be given if it is the default.
        defaults = {name: parameter.default for name, parameter in self.parameters.parameters.items()}
        rest = {name: value for name, value in rest.items() if not (name in defaults and _same(value, defaults[name]))}
        return tuple(named[name] for name in by_position), {name: named[name] for name in by_name} | rest

    def _other_structure(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> InputError:
        """What is missing, what was not in the example, and what is inside of it another."""
        for label, leaf in labelled_leaves(args, kwargs):
            if is_array(leaf):
                return no_tensor(label, leaf)
        args_spec, kwargs_spec = inner_specs(self.in_spec)
        by_position, by_name = self._arranged(args, kwargs)
        names = list(self.parameters.parameters)
        given = dict(zip(names, by_position, strict=False)) | by_name
        expected = dict(zip(names, inner_specs(args_spec), strict=False))
        expected |= dict(zip(kwargs_spec.context or [], inner_specs(kwargs_spec), strict=True))
        differences = [f"{name!r} is missing" for name in expected if name not in given]
        differences += [f"{name!r} was not in the example" for name in given if name not in expected]
        for name in expected:
            if name in given and (spec := pytree.tree_structure(given[name])) != expected[name]:
                differences.append(f"{name!r} is {spec}, was {expected[name]}")
        return OtherCall(
            f"the inputs must be structured as the example inputs were: {'; '.join(differences) or 'they are not'}. "
            f"Expected {self._shown()}"
        )

    def _shown(self) -> str:
        return ", ".join(leaf.name for leaf in self.inputs) + f" as {self.in_spec}"


def form_of(*items: Any) -> Form:
    """The form of a call: all but the sizes of tensors."""
    return tuple(map(_form_of, items))


def _form_of(item: Any) -> Any:
    if isinstance(item, torch.Tensor):
        return item.dtype, item.dim()
    if isinstance(item, dict):
        return (dict, *((key if isinstance(key, str) else repr(key), _form_of(entry)) for key, entry in item.items()))
    if isinstance(item, (tuple, list)):
        return (type(item), *map(_form_of, item))
    return (type(item), item if isinstance(item, (bool, int, str)) else repr(item) if isinstance(item, float) else None)


def labelled_leaves(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    """Each leaf of a call with its place in it: by number, where a container tells torch no names, as transformers 4's outputs."""
    try:
        return [(pytree.keystr(path[1:]), leaf) for path, leaf in pytree.tree_flatten_with_path((args, kwargs))[0]]
    except ValueError:
        return [(str(number), leaf) for number, leaf in enumerate(pytree.tree_leaves((args, kwargs)))]


def is_array(value: Any) -> bool:
    """Whether it is one of NumPy's, which need not be there."""
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"


def no_tensor(label: str, given: Any) -> InputError:
    """The error for an input that should be a tensor."""
    mend = ", a NumPy array; convert it with torch.from_numpy" if is_array(given) else ""
    return InputError(f"input {label}: expected a tensor, got {type(given).__name__}{mend}")


def inner_specs(spec: pytree.TreeSpec) -> list[pytree.TreeSpec]:
    """The structures inside ``spec``. torch has the method from 2.10 on, before that an attribute."""
    return spec.children() if hasattr(spec, "children") else spec.children_specs


def _ordered(item: Any, spec: pytree.TreeSpec) -> Any:
    """``item`` with the keys of its dicts in the order that ``spec`` has them."""
    if spec.type is dict and type(item) is dict and item.keys() == set(spec.context):
        return {key: _ordered(item[key], part) for key, part in zip(spec.context, inner_specs(spec), strict=True)}
    if spec.type in (tuple, list) and type(item) is spec.type and len(item) == spec.num_children:
        return spec.type(map(_ordered, item, inner_specs(spec)))
    return item


def _tuples(spec: pytree.TreeSpec, outputs: Iterator[OutputLeaf]) -> Callable[[Sequence[torch.Tensor]], Any] | None:
    """Puts a result together that is a tensor or tuples of tensors, in a third of pytree's time; None for any other."""
    if spec.is_leaf():
        index = next(outputs).index
        return None if index is None else itemgetter(index)
    parts = [_tuples(part, outputs) for part in inner_specs(spec)]
    if spec.type is not tuple or None in parts:
        return None
    return lambda tensors: tuple([part(tensors) for part in parts])  # type: ignore[misc]


def _same(given: Any, default: Any) -> bool:
    """Whether an argument is its default: the very object, or an equal plain value of the same type."""
    if given is default:
        return True
    if type(given) is not type(default):
        return False
    if isinstance(default, tuple):
        return len(given) == len(default) and all(map(_same, given, default))
    return isinstance(default, (bool, int, float, str)) and repr(given) == repr(default)  # -0.0 == 0.0, but is another number

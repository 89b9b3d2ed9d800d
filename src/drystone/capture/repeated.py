"""A stack of layers of one kind, of which a few are traced: the calls of the others are written out after them.

torch.export takes some tenths of a second a layer. So the model is traced with two of the units that its stack repeats (a layer, or
several that take turns). Where the second does what the first did, with its own weights and on what the first gave, so do the
others.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputSpec, TensorArgument
from torch.utils import _pytree as pytree

from drystone.capture.export import Captured, describe
from drystone.capture.module_tree import MACHINERY, unchanged
from drystone.capture.mutation import mutates
from drystone.graph.traced import storage

NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool)

# The arguments of a call, where a number of its layer among them is so much higher.
Arguments = Callable[[fx.Node, int], tuple[Any, ...]]


@dataclass(frozen=True)
class Stack:
    """Layers ``first`` to ``count`` of the ``nn.ModuleList`` at ``path`` repeat in units of ``period``."""

    path: str
    first: int
    period: int
    count: int

    @property
    def traced(self) -> int:
        return self.first + 2 * self.period

    def like(self, layer: int) -> int:
        """The traced layer that ``layer`` is like."""
        return layer if layer < self.traced else self.first + self.period + (layer - self.first) % self.period


def stack_of(model: nn.Module, count: int) -> Stack | None:
    """The stack of ``count`` layers in ``model``, if it has one, and some of it need no tracing."""
    found = [(path, list(module)) for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    found = [(path, layers) for path, layers in found if len(layers) == count]
    if len(found) != 1:
        return None
    path, layers = found[0]
    kinds: list[int] = []
    for index, layer in enumerate(layers):
        kinds.append(next((kind for kind in dict.fromkeys(kinds) if _alike(layers[kind], layer, kind, index)), index))
    for traced in range(2, count):
        for period in range(1, traced // 2 + 1):
            first = traced - 2 * period
            if (count - first) % period == 0 and kinds[first:-period] == kinds[first + period :]:
                return Stack(path, first, period, count)
    return None


def shorten(model: nn.Module, stack: Stack) -> None:
    """Leave no more of the stack of a copied tree than what is traced."""
    layers: Any = model.get_submodule(stack.path)
    del layers[stack.traced :]


def written_out(captured: Captured, stack: Stack, model: nn.Module, within: str, arguments: Arguments) -> Captured | None:
    """A capture of a module that has ``model``, shortened, at ``within``, as one of all layers.

    None where the second unit does not do what the first does.
    """
    writer = _Writer(captured, stack, model, within, arguments)
    if not writer.repeats():
        return None
    try:
        writer.write()
    except AttributeError:  # a tensor that the model has nowhere
        return None
    full = describe(captured.program, captured.signature.parameters, captured.state)
    return replace(full, changed=captured.changed, declared=captured.declared)


class _Writer:
    def __init__(self, captured: Captured, stack: Stack, model: nn.Module, within: str, arguments: Arguments) -> None:
        self.program, self.stack, self.model, self.arguments = captured.program, stack, model, arguments
        self.within, self.path = f"{within}.", f"{within}.{stack.path}."
        targets = {name: target for name, (target, _) in captured.constants.items()}
        self.targets = {node: targets[node.name] for node in self.program.graph.nodes if node.name in targets}  # of placeholders
        self.tensors = {target: node for node, target in self.targets.items()}
        starts = stack.first, stack.first + stack.period
        layers = {node: self.layer(node) for node in self.program.graph.nodes}
        self.first, self.second = (
            [node for node, layer in layers.items() if start <= layer < start + stack.period] for start in starts
        )
        self.names = {node.name for node in self.program.graph.nodes}
        self.kin: dict[fx.Node, fx.Node] = {}  # what the second unit has in the place of what the first one reads or does

    def layer(self, node: fx.Node) -> int:
        """The layer that a call is made in, or -1. Arithmetic on sizes is of none: layers share it."""
        if node.op != "call_function" or isinstance(node.meta.get("val"), NUMBERS):
            return -1
        names = [str(entry[0]) for entry in (node.meta.get("nn_module_stack") or {}).values()]
        return max(map(self.number, names), default=-1)

    def number(self, name: str) -> int:
        """Of the layer that has the module or tensor of this name, or -1."""
        number = name.removeprefix(self.path).split(".")[0]
        return int(number) if name.startswith(self.path) and number.isdigit() else -1

    def owner(self, node: fx.Node) -> int:
        """The layer that has the tensor which a placeholder stands for, or -1."""
        return self.number(self.targets.get(node, ""))

    def renamed(self, name: str, further: int) -> str:
        """The same of a layer that is so much further on."""
        number = self.number(name)
        return name if number < 0 else name.replace(f"{self.path}{number}", f"{self.path}{number + further}", 1)

    def repeats(self) -> bool:
        """Whether the second unit does what the first does, of what the first gives."""
        if not self.first or len(self.first) != len(self.second):
            return False
        own, both = set(self.first), {*self.first, *self.second}
        for one, other in zip(self.first, self.second, strict=True):
            if one.target is not other.target or not _of_one_shape(one, other):
                return False
            leaves, spec = pytree.tree_flatten((self.arguments(one, self.stack.period), one.kwargs))
            others, spec_of_others = pytree.tree_flatten((self.arguments(other, 0), other.kwargs))
            if spec != spec_of_others or not all(self.matches(*pair, own) for pair in zip(leaves, others, strict=True)):
                return False
            self.kin[one] = other
        return all(user in both for node in self.first for user in node.users) and not self.changes_what_is_given_on()

    def changes_what_is_given_on(self) -> bool:
        """Whether an in-place operator of the unit changes memory that others see. Copies have the traced one's names of memory."""
        own = set(self.second)
        given = {*self.kin, *(node for node in self.second if any(user not in own for user in node.users))} - set(self.first)
        seen = {storage(node) for node in given if isinstance(node.meta.get("val"), torch.Tensor)}
        return any(storage(node.args[0]) in seen for node in (*self.first, *self.second) if mutates(node))  # type: ignore[arg-type]

    def matches(self, one: Any, other: Any, own: set[fx.Node]) -> bool:
        if not isinstance(one, fx.Node) or not isinstance(other, fx.Node):
            return type(one) is type(other) and bool(one == other)
        if one in self.kin:
            return self.kin[one] is other
        owned = self.owner(one) >= 0
        if one is other:
            return not owned
        if isinstance(one.meta.get("val"), NUMBERS):
            return str(one.meta["val"]) == str(other.meta.get("val"))
        if owned:
            as_expected = self.targets.get(other) == self.renamed(self.targets[one], self.stack.period)
        else:
            as_expected = one not in own and other in own  # what the unit before gives
        if as_expected and _of_one_shape(one, other):
            self.kin[one] = other
            return True
        return False

    def write(self) -> None:
        graph, stack = self.program.graph, self.stack
        own, now = set(self.first), {node: node for node in self.second}
        after = [(node, user) for node in self.second for user in node.users if user not in now]
        end = self.second[-1].next
        for further in range(stack.period, stack.count - stack.traced + 1, stack.period):
            made: dict[fx.Node, fx.Node] = {}

            def of_copy(node: fx.Node, made: Any = made, before: Any = now, further: int = further) -> Any:
                if node in made:
                    return made[node]
                if node in own:
                    return before[self.kin[node]]
                return self.tensor(node, further) if self.owner(node) >= 0 else node

            for node in self.second:
                with graph.inserting_before(end):
                    made[node] = graph.node_copy(node, of_copy)
                made[node].name = self.name_of(node, further)
                made[node].args = self.arguments(made[node], further)
                stacked = (node.meta.get("nn_module_stack") or {}).items()
                made[node].meta["nn_module_stack"] = {key: (self.renamed(name, further), kind) for key, (name, kind) in stacked}
            now = made
        for node, user in after:
            user.replace_input_with(node, now[node])
        graph.lint()

    def name_of(self, node: fx.Node, further: int) -> str:
        """Of its copy. torch.export names nodes past the graph, which then gives names that are taken."""
        name = f"{node.name}_further_{further}"
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name

    def tensor(self, placeholder: fx.Node, further: int) -> fx.Node:
        """The placeholder of the same tensor of a layer that is so much further on."""
        program, target = self.program, self.renamed(self.targets[placeholder], further)
        if target in self.tensors:
            return self.tensors[target]
        with program.graph.inserting_after(placeholder):
            made = program.graph.node_copy(placeholder)
        made.name = made.target = self.name_of(placeholder, further)
        self.targets[made], self.tensors[target] = target, made
        specs = program.graph_signature.input_specs
        index = next(i for i, spec in enumerate(specs) if getattr(spec.arg, "name", "") == placeholder.name)
        spec = specs[index]
        specs.insert(index + 1, InputSpec(spec.kind, TensorArgument(made.name), target, spec.persistent))
        tensors = program.state_dict if spec.target in program.state_dict else program.constants
        tensors[target] = operator.attrgetter(target.removeprefix(self.within))(self.model)
        return made


def _of_one_shape(one: fx.Node, other: fx.Node) -> bool:
    values = one.meta.get("val"), other.meta.get("val")
    (leaves, spec), (others, spec_of_others) = map(pytree.tree_flatten, values)
    return spec == spec_of_others and [*map(_shape, leaves)] == [*map(_shape, others)]


def _shape(value: Any) -> str:
    """Also of symbols, which may not be compared: that would bind them."""
    return f"{value.dtype}{tuple(value.shape)}{value.stride()}" if isinstance(value, torch.Tensor) else str(value)


def _alike(one: nn.Module, other: nn.Module, index: int, other_index: int) -> bool:
    """Whether layers ``index`` and ``other_index`` differ in the numbers of their tensors alone, and in knowing their index."""

    def same(mine: Any, others: Any) -> bool:
        if unchanged(mine, others) or (type(mine) is type(others) is int and (mine, others) == (index, other_index)):
            return True
        if type(mine) is not type(others):
            return False
        if isinstance(mine, (list, tuple)):
            return len(mine) == len(others) and all(map(same, mine, others))
        if isinstance(mine, functools.partial):
            parts = ((each.func, each.args, each.keywords) for each in (mine, others))
            return same(*parts)
        if isinstance(mine, dict):
            return list(mine) == list(others) and all(map(same, mine.values(), others.values()))
        return isinstance(mine, (torch.dtype, torch.device)) and mine == others

    def same_tensor(mine: Any, others: Any) -> bool:
        if not isinstance(mine, torch.Tensor) or type(mine) is not type(others):
            return mine is others
        return mine.shape == others.shape and mine.dtype == others.dtype and mine.stride() == others.stride()

    if type(one) is not type(other) or vars(one).keys() != vars(other).keys():
        return False
    for held in ("_parameters", "_buffers"):
        mine, others = getattr(one, held), getattr(other, held)
        if list(mine) != list(others) or not all(map(same_tensor, mine.values(), others.values())):
            return False
    children, of_other = one._modules, other._modules
    if list(children) != list(of_other) or one._non_persistent_buffers_set != other._non_persistent_buffers_set:
        return False
    for mine, others in zip(children.values(), of_other.values(), strict=True):
        if mine is None or others is None:
            if mine is not others:
                return False
        elif not _alike(mine, others, index, other_index):
            return False
    rest = [name for name in vars(one) if name not in MACHINERY]
    hooks = [name for name in MACHINERY if "hook" in name]
    return all(same(vars(one)[name], vars(other)[name]) for name in rest) and not any(
        vars(module)[name] for module in (one, other) for name in hooks if name in vars(module)
    )

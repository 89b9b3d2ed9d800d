"""torch's own operators as nodes: what torch itself runs, because nothing here computes it natively."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from drystone.graph.graph import Node, Value
from drystone.graph.ops.operator import Operator, Shape, Tensor

__all__ = ["Aten"]


@dataclass(frozen=True)
class Ref:
    """Stands for input ``index`` of an ``aten`` node wherever a tensor goes in its ``args`` and ``kwargs``."""

    index: int


@dataclass(frozen=True)
class Aten(Operator):
    """``target(*args, **kwargs)``, an OpOverload or a ``ControlFlow``, with ``Ref(i)`` where input i goes.

    ``reason``: why nothing here computes it.
    """

    name: ClassVar[str] = "aten"

    target: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    reason: str = field(default="", compare=False, repr=False)

    def shape(self, inputs: Sequence[Value]) -> Shape:
        raise NotImplementedError("torch says what shapes its operators give")

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        """One tensor for each output. Of several results in order; those that are no tensors have none."""
        if is_strided(self.target):  # its offset counts from the beginning of memory that must be the tensor's alone
            inputs = [tensor.clone() for tensor in inputs]

        def resolve(leaf: Any) -> Any:
            return inputs[leaf.index] if isinstance(leaf, Ref) else leaf

        return _tensors(self.target(*map_structure(resolve, self.args), **map_structure(resolve, self.kwargs)))

    def prepared(self) -> Callable[[list[Tensor]], list[Tensor]]:
        """``run``, with less to do in each call where no list among the arguments holds tensors."""
        target, kwargs = self.target, self.kwargs
        nested: list[Ref] = []
        others = [arg for arg in self.args if not isinstance(arg, Ref)]
        map_structure(lambda leaf: nested.append(leaf) if isinstance(leaf, Ref) else None, [others, kwargs])
        if nested or is_strided(target):
            return self.run
        args = [(arg.index, None) if isinstance(arg, Ref) else (-1, arg) for arg in self.args]
        return lambda inputs: _tensors(target(*[arg if index < 0 else inputs[index] for index, arg in args], **kwargs))


def _tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [item for item in result if isinstance(item, torch.Tensor)]


def map_structure(function: Callable[[Any], Any], item: Any) -> Any:
    """``function`` on every leaf of nested lists, tuples and dicts."""
    if isinstance(item, (list, tuple)):
        return type(item)([map_structure(function, entry) for entry in item])
    if isinstance(item, dict):
        return {key: map_structure(function, entry) for key, entry in item.items()}
    return function(item)


def aten_node(
    target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Value], reason: str, name: str = ""
) -> Node:
    """A node that calls ``target(*args, **kwargs)``, where tensors in the arguments are ``Value``s."""
    inputs: list[Value] = []
    index: dict[int, Ref] = {}

    def refer(leaf: Any) -> Any:
        if not isinstance(leaf, Value):
            return leaf
        if leaf.id not in index:
            index[leaf.id] = Ref(len(inputs))
            inputs.append(leaf)
        return index[leaf.id]

    node = Node(Aten(target, map_structure(refer, args), map_structure(refer, kwargs), reason), inputs, outputs, name=name)
    for value in outputs:
        value.producer = node
    return node


def is_strided(target: Any) -> bool:
    """Whether the operator looks at its operand's memory, not at the tensor that lies in it: ``as_strided`` and its kin."""
    return getattr(target, "__name__", "").startswith("as_strided")

"""ATen operators as graph nodes: what torch itself runs, because nothing here computes it natively."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from drystone.graph.graph import Node, Value


@dataclass(frozen=True)
class Ref:
    """Stands for input ``index`` of an ``aten`` node wherever a tensor goes in its ``args`` and ``kwargs``."""

    index: int


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
    """An ``aten`` node calling ``target(*args, **kwargs)``, where tensors in the arguments are ``Value``s."""
    inputs: list[Value] = []
    index: dict[int, Ref] = {}

    def refer(leaf: Any) -> Any:
        if not isinstance(leaf, Value):
            return leaf
        if leaf.id not in index:
            index[leaf.id] = Ref(len(inputs))
            inputs.append(leaf)
        return index[leaf.id]

    attrs = {"target": target, "args": map_structure(refer, args), "kwargs": map_structure(refer, kwargs), "_reason": reason}
    node = Node("aten", inputs, outputs, attrs, name=name)
    for value in outputs:
        value.producer = node
    return node


def is_strided(target: Any) -> bool:
    """Whether the operator looks at its operand's memory, not at the tensor that lies in it: ``as_strided`` and its kin."""
    return getattr(target, "__name__", "").startswith("as_strided")


def call(node: Node, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Run an ``aten`` node on tensors; one tensor for each of its outputs.

    Operators that give several tensors give them in order; the entries that are not tensors have no output.
    """

    if is_strided(node.attrs["target"]):  # its offset counts from the beginning of memory that must be the tensor's alone
        inputs = [tensor.clone() for tensor in inputs]

    def resolve(leaf: Any) -> Any:
        return inputs[leaf.index] if isinstance(leaf, Ref) else leaf

    args = map_structure(resolve, node.attrs["args"])
    kwargs = map_structure(resolve, node.attrs["kwargs"])
    result = node.attrs["target"](*args, **kwargs)
    if isinstance(result, torch.Tensor):
        return [result]
    return [item for item in result if isinstance(item, torch.Tensor)]

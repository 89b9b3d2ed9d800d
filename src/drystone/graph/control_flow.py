"""Control flow on the numbers in a tensor: the higher order operators that ``torch.cond`` and its kin leave in a program.

Each becomes the callable of an ``aten`` node. Its subgraphs run on whatever tensors they are given, and what they read of the
model is among these, so a node serves every size that the shapes of its results allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

REASON = "control flow runs on ATen"

Function = Callable[..., Sequence[Any]]


@dataclass(frozen=True)
class ControlFlow:
    """``function`` with its subgraphs; called with the operator's other arguments, in order."""

    name: str
    function: Function
    subgraphs: tuple[fx.GraphModule, ...]

    def __call__(self, *args: Any) -> Sequence[Any]:
        return self.function(self.subgraphs, *args)

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


def control_flow(node: fx.Node) -> tuple[ControlFlow, tuple[Any, ...]] | None:
    """What runs a call of a higher order operator, and its arguments without the subgraphs; None where that is not known."""
    name = getattr(node.target, "__name__", "")
    if name not in _FUNCTIONS:
        return None
    subgraphs = [_eager(_subgraph(arg)) for arg in node.args if _is_subgraph(arg)]
    args = tuple(arg for arg in node.args if not _is_subgraph(arg))
    return ControlFlow(name.removesuffix("_impl"), _FUNCTIONS[name], tuple(subgraphs)), args


def _subgraph(node: Any) -> Any:
    """What a ``get_attr`` node names."""
    return getattr(node.graph.owning_module, str(node.target))


def _is_subgraph(arg: Any) -> bool:
    return isinstance(arg, fx.Node) and arg.op == "get_attr" and isinstance(_subgraph(arg), fx.GraphModule)


def _eager(module: fx.GraphModule) -> fx.GraphModule:
    """A copy without the trace's metadata, in which control flow calls the functions below."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    eager = fx.GraphModule(module, graph)
    for node in graph.nodes:
        node.meta.clear()
        if _is_subgraph(node):
            setattr(eager, node.target, _eager(_subgraph(node)))
        elif node.op == "call_function" and getattr(node.target, "__name__", "") in _FUNCTIONS:
            subgraphs = tuple(arg for arg in node.args if _is_subgraph(arg))
            node.target = _FUNCTIONS[node.target.__name__]
            node.args = (subgraphs, *(arg for arg in node.args if arg not in subgraphs))
    eager.recompile()
    return eager


def _cond(branches: Sequence[Function], condition: Any, operands: Sequence[Any]) -> Sequence[Any]:
    on_true, on_false = branches
    return on_true(*operands) if condition else on_false(*operands)


def _while_loop(subgraphs: Sequence[Function], carried: Sequence[Any], operands: Sequence[Any]) -> Sequence[Any]:
    condition, body = subgraphs
    while condition(*carried, *operands):
        carried = body(*carried, *operands)
    return carried


def _map(subgraphs: Sequence[Function], mapped: Sequence[Any], operands: Sequence[Any]) -> Sequence[Any]:
    (body,) = subgraphs
    return _stacked([body(*entries, *operands) for entries in zip(*mapped, strict=True)])


def _scan(subgraphs: Sequence[Function], carried: Sequence[Any], scanned: Sequence[Any], operands: Sequence[Any]) -> Sequence[Any]:
    (body,) = subgraphs
    results = []
    for entries in zip(*scanned, strict=True):
        given = body(*carried, *entries, *operands)
        carried = given[: len(carried)]
        results.append(given[len(carried) :])
    return [*carried, *_stacked(results)]


def _stacked(results: Sequence[Sequence[Any]]) -> list[Any]:
    return [torch.stack(entries) if isinstance(entries[0], torch.Tensor) else None for entries in zip(*results, strict=True)]


_FUNCTIONS: dict[str, Function] = {"cond": _cond, "while_loop": _while_loop, "map_impl": _map, "scan": _scan}

"""Drop what moves no data and changes no number.

before:  reshape → reshape → permute → permute⁻¹ → pad by 0 → conv
after:   reshape → conv
"""

from __future__ import annotations

import math
from collections.abc import Callable

from drystone.graph.graph import Graph, Node, Value
from drystone.passes.instructions import bypass, may_bypass


def remove_noops(graph: Graph) -> Graph:
    """Until nothing changes. A tensor that the graph gives out and takes in (or holds) as it is keeps its node."""
    changed = True
    while changed:
        changed = False
        for node in list(graph.nodes):
            if _shorten(node):
                changed = True
            source = _same(node)
            if source is not None and may_bypass(graph, node, source):
                bypass(graph, node, source)
                changed = True
        graph.prune()
    return graph


def _shorten(node: Node) -> bool:
    """Let a reshape, permute or pad-free chain read past a producer of its own kind."""
    if not node.inputs or (before := node.inputs[0].producer) is None:
        return False
    if node.op == "reshape" and before.op == "reshape":
        node.inputs = [before.inputs[0]]
        return True
    if node.op == "permute" and before.op == "permute":
        node.attrs["dims"] = _like(node.attrs["dims"], [before.attrs["dims"][dim] for dim in node.attrs["dims"]])
        node.inputs = [before.inputs[0]]
        return True
    return False


def _like(old: object, dims: list[int]) -> list[int] | tuple[int, ...]:
    return tuple(dims) if isinstance(old, tuple) else dims


def _same(node: Node) -> Value | None:
    """The input that the output equals, element by element and in shape and dtype."""
    if len(node.outputs) != 1 or not node.inputs:
        return None
    source, check = node.inputs[0], _CHECKS.get(node.op)
    if check is None or source.shape != node.output.shape or source.dtype != node.output.dtype or not check(node):
        return None
    return source


def _is_identity_permute(node: Node) -> bool:
    # An axis of length 1 may go anywhere: the order of the others decides. Equal shapes are given.
    moved = [dim for dim in node.attrs["dims"] if node.inputs[0].shape[dim] != 1]
    return moved == sorted(moved)


def _is_whole_slice(node: Node) -> bool:
    return node.output.numel == 0 or node.output.shape[node.attrs["dim"]] == 1 or node.attrs["step"] == 1


def _pads_nothing(node: Node) -> bool:
    return not any(node.attrs["before"]) and not any(node.attrs["after"])


def _is_identity_pool(node: Node) -> bool:
    windows = [window for axis in node.attrs["windows"] for window in enumerate(axis)]
    alone = all((start, stop) == (index, index + 1) for index, (start, stop, _) in windows)
    if not alone or node.attrs["kind"] == "max":
        return alone
    override = node.attrs.get("divisor_override")
    if override is not None:
        return bool(override == 1)
    return all(divisor == 1 for axis in node.attrs["divisors"] for divisor in axis)


def _is_identity_pointwise(node: Node) -> bool:
    # x + 0.0 is not always x: -0.0 becomes 0.0.
    idle = (op.kind == "linear" and op.alpha == 1 and op.beta == 0 and math.copysign(1, op.beta) < 0 for op in node.attrs["ops"])
    return len(node.inputs) == 1 and all(idle)


def _sums_single_elements(node: Node) -> bool:
    return math.prod(node.inputs[0].shape[dim] for dim in node.attrs["dims"]) == 1


_CHECKS: dict[str, Callable[[Node], bool]] = {
    "reshape": lambda node: True,
    "permute": _is_identity_permute,
    "expand": lambda node: True,
    "slice": _is_whole_slice,
    "pad": _pads_nothing,
    "convert": lambda node: True,
    "cat": lambda node: len(node.inputs) == 1,
    "pool": _is_identity_pool,
    "reduce": _sums_single_elements,
    "pointwise": _is_identity_pointwise,
}

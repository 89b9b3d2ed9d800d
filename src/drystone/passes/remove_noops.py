"""Drop what moves no data and changes no number.

before:  reshape → reshape → permute → permute⁻¹ → pad by 0 → conv
after:   reshape → conv
"""

from __future__ import annotations

import math
from collections.abc import Callable

from drystone.graph.graph import Graph, Node, Value
from drystone.graph.ops import Cat, Convert, Expand, Operator, Pad, Permute, Pointwise, Pool, Reduce, Reshape, Slice
from drystone.graph.tape import decided
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
    if isinstance(node.op, Reshape) and isinstance(before.op, Reshape):
        node.inputs = [before.inputs[0]]
        return True
    if isinstance(node.op, Permute) and isinstance(before.op, Permute):
        node.op = Permute(tuple(before.op.dims[dim] for dim in node.op.dims))
        node.inputs = [before.inputs[0]]
        return True
    return False


def _same(node: Node) -> Value | None:
    """The input that the output equals, element by element and in shape and dtype."""
    if len(node.outputs) != 1 or not node.inputs:
        return None
    source, check = node.inputs[0], _CHECKS.get(type(node.op))
    if check is None or source.shape != node.output.shape or source.dtype != node.output.dtype or not check(node):
        return None
    return source


def _is_identity_permute(node: Node) -> bool:
    # An axis of length 1 may go anywhere: the order of the others decides. Equal shapes are given.
    moved = [dim for dim in node.of(Permute).dims if node.inputs[0].shape[dim] != 1]
    return moved == sorted(moved)


def _is_whole_slice(node: Node) -> bool:
    op = node.of(Slice)
    return node.output.numel == 0 or op.length == 1 or op.step == 1


def _pads_nothing(node: Node) -> bool:
    return not any((*node.of(Pad).before, *node.of(Pad).after))


def _is_identity_pool(node: Node) -> bool:
    return decided(_pools_nothing, node.of(Pool))


def _pools_nothing(op: Pool) -> bool:
    windows = [window for axis in op.windows for window in enumerate(axis)]
    alone = all((start, stop) == (index, index + 1) for index, (start, stop, _) in windows)
    if not alone or op.kind == "max":
        return alone
    if op.divisor_override is not None:
        return op.divisor_override == 1
    return all(divisor == 1 for axis in op.divisors or () for divisor in axis)


def _is_identity_pointwise(node: Node) -> bool:
    # x + 0.0 is not always x: -0.0 becomes 0.0.
    idle = (
        op.kind == "affine" and op.alpha == 1 and op.beta == 0 and math.copysign(1, op.beta) < 0 for op in node.of(Pointwise).ops
    )
    return len(node.inputs) == 1 and all(idle)


def _sums_single_elements(node: Node) -> bool:
    return math.prod(node.inputs[0].shape[dim] for dim in node.of(Reduce).dims) == 1


_CHECKS: dict[type[Operator], Callable[[Node], bool]] = {
    Reshape: lambda node: True,
    Permute: _is_identity_permute,
    Expand: lambda node: True,
    Slice: _is_whole_slice,
    Pad: _pads_nothing,
    Convert: lambda node: True,
    Cat: lambda node: len(node.inputs) == 1,
    Pool: _is_identity_pool,
    Reduce: _sums_single_elements,
    Pointwise: _is_identity_pointwise,
}

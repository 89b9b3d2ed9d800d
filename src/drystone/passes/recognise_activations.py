"""Activations that a model spells out become single instructions.

before:  sigmoid(x) → mul(x, ·)        affine(x; 1, 3) → clamp(·; 0, 6) → mul(x, ·) → affine(·; 1/6, 0)
after:   silu(x)                       hardswish(x)
They are recognised by what they compute, not by how they are written: a part of a node's instructions that depends on one
operand only is evaluated at sample points in float64 and compared with each activation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F

from drystone.graph.graph import Graph, Node, Value
from drystone.graph.instructions import PointwiseOp
from drystone.graph.interpreter import run
from drystone.graph.ops import Pointwise
from drystone.passes.instructions import Arg, Ops, renamed, set_instructions, trimmed

MAX_SPELLING = 12  # instructions

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "gelu_erf": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
}
# Every activation has one of these in it; without them an expression is not worth sampling.
_TELLTALE = {"sigmoid", "clamp", "hardsigmoid", "erf", "tanh", "exp", "relu", "minimum", "maximum"}
# The spellings' own constants come in about 8 digits (0.7978845608, 0.044715), so they differ from the exact by 1e-8 or so;
# the activations differ from one another by 1e-4 and more.
_TOLERANCE = 1e-7


def recognise_activations(graph: Graph) -> Graph:
    """Run after ``fuse_pointwise``: an activation's instructions have to be in one node."""
    for node in graph.nodes:
        if isinstance(node.op, Pointwise) and node.output.dtype.is_floating_point:
            while _replace_one(node):
                pass
    return graph


def _replace_one(node: Node) -> bool:
    """Replace the largest expression that is an activation."""
    ops = list(node.of(Pointwise).ops)
    operands: list[Arg] = [("in", index) for index in range(len(node.inputs))] + [("reg", index) for index in range(len(ops))]
    for last in range(len(ops) - 1, 0, -1):
        for operand in operands[: len(node.inputs) + last]:
            if _is_variable(node, operand) and (spelling := _expression(ops, operand, last)) is not None:
                kind = _activation(spelling)
                if kind is not None:
                    set_instructions(node, [*ops[:last], PointwiseOp(kind, (operand,)), *ops[last + 1 :]], node.inputs)
                    return True
    return False


def _is_variable(node: Node, operand: Arg) -> bool:
    return operand[0] == "reg" or not node.inputs[operand[1]].is_constant


def _expression(ops: Ops, operand: Arg, last: int) -> tuple[PointwiseOp, ...] | None:
    """``ops[last]`` as a function of ``operand``, now ("in", 0), where it depends on nothing else."""
    wanted, parts = [last], set()
    while wanted:
        index = wanted.pop()
        if index in parts:
            continue
        parts.add(index)
        for arg in ops[index].args:
            if arg == operand:
                continue
            if arg[0] == "in":
                return None
            wanted.append(arg[1])
    if not 2 <= len(parts) <= MAX_SPELLING or not any(ops[index].kind in _TELLTALE for index in parts):
        return None
    number = {old: new for new, old in enumerate(sorted(parts))}

    def rename(arg: Arg) -> Arg:
        return ("in", 0) if arg == operand else ("reg", number[arg[1]])

    expression = renamed([ops[index] for index in sorted(parts)], rename)
    return tuple(trimmed(expression, ("reg", len(expression) - 1)))


@lru_cache(maxsize=4096)
def _activation(spelling: tuple[PointwiseOp, ...]) -> str | None:
    """The activation that the instructions compute, if any."""
    points = _points()
    x, y = Value(tuple(points.shape), points.dtype), Value(tuple(points.shape), points.dtype)
    node = Node(Pointwise(spelling), [x], [y])
    y.producer = node
    (result,) = run(Graph([x], [y], [node]), [points])
    for kind, activation in _ACTIVATIONS.items():
        if torch.allclose(result, activation(points), rtol=_TOLERANCE, atol=_TOLERANCE):
            return kind
    return None


@lru_cache(maxsize=1)
def _points() -> torch.Tensor:
    # The range in which activations bend, finely; then far out, where they have become straight.
    far = torch.tensor([16.0, 25.0, 60.0, 600.0], dtype=torch.float64)
    return torch.cat([torch.linspace(-9, 9, 289, dtype=torch.float64), far, -far])

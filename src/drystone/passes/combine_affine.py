"""Put changes of sign into the affine instructions beside them, and scalars into instructions instead of tensors.

before:  neg(x) → mul(·, s) → neg(·) → add(·, t)        add(x, constant of one element)
after:   mul(x, s) → add(·, t)                           affine(x; 1, c)
Nothing else is put together: x - mean is exact where the two are close, (x - mean) / std as one product and sum loses what they
have in common; and a product of two constants overflows where x times either does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from drystone.graph.graph import Graph, Node, Value, constant
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Pointwise
from drystone.passes.instructions import (
    Affine,
    Arg,
    Ops,
    as_affine,
    bypass,
    may_bypass,
    readers,
    remove_instruction,
    renamed,
    set_instructions,
    shapes,
)

MAX_COMBINED_ELEMENTS = 1 << 16  # combined coefficients are new constants: vectors over channels, not whole tensors


def combine_affine(graph: Graph) -> Graph:
    """Within each floating-point pointwise node; nodes that do nothing go."""
    for node in [node for node in graph.nodes if isinstance(node.op, Pointwise) and node.output.dtype.is_floating_point]:
        set_instructions(node, node.of(Pointwise).ops, node.inputs)
        while (run := _find_run(node)) is not None:
            if not _rewrite(graph, node, run):
                break
    return graph


@dataclass
class _Run:
    first: int  # instructions first … last (not all those between) are one affine function of ``arg``
    last: int
    arg: Arg
    instructions: Ops  # what computes the same: over ("in", 0) = arg and ("in", 1 …) = ``constants``
    constants: list[Value]


def _find_run(node: Node) -> _Run | None:
    """The first run of affine instructions that fewer instructions, or as many with fewer tensors, can do."""
    ops, inputs = node.of(Pointwise).ops, node.inputs
    results = shapes(ops, inputs)
    for first, op in enumerate(ops):
        for arg in dict.fromkeys(op.args):
            shape = inputs[arg[1]].shape if arg[0] == "in" else results[arg[1]]
            if (run := _run_from(ops, inputs, first, arg, shape, results, node.output.dtype)) is not None:
                return run
    return None


def _run_from(
    ops: Sequence[PointwiseOp],
    inputs: list[Value],
    first: int,
    arg: Arg,
    shape: tuple[int, ...],
    results: list[tuple[int, ...]],
    dtype: torch.dtype,
) -> _Run | None:
    """The longest run that starts with ``ops[first]`` on ``arg`` and is worth rewriting."""
    if arg[0] == "in" and inputs[arg[1]].is_constant:
        return None
    total: Affine | None = None
    best: _Run | None = None
    index, operand, length, tensors = first, arg, 0, 0
    while results[index] == shape and not _is_large(ops[index], inputs):
        step = as_affine(ops[index], inputs, operand)
        total = step if step is None or total is None else _joined(total, step)
        if total is None or max(total.scale.numel(), total.shift.numel()) > MAX_COMBINED_ELEMENTS:
            break
        length += 1
        tensors += len(ops[index].args) - 1
        instructions, constants = _instructions(total, dtype)
        if (len(instructions), len(constants)) < (length, tensors):
            best = _Run(first, index, arg, instructions, constants)
        operand = ("reg", index)
        reading = readers(ops, operand)
        if len(reading) != 1:
            break
        index = reading[0]
    return best


def _is_large(op: PointwiseOp, inputs: list[Value]) -> bool:
    """Whether a constant of it is too large to be combined, or looked at."""
    read = [inputs[number] for where, number in op.args if where == "in"]
    return any(value.is_constant and value.numel > MAX_COMBINED_ELEMENTS for value in read)


def _joined(first: Affine, second: Affine) -> Affine | None:
    """One after the other, where that gives the same bits."""
    if _is_sign(first) or (_is_sign(second) and first.adds_nothing):  # not after a sum: c - x is 0.0 where x is c, as x - c is
        return Affine(first.scale * second.scale, second.shift)
    return None


def _is_sign(affine: Affine) -> bool:
    return affine.adds_nothing and bool((affine.scale.abs() == 1).all())


def _instructions(affine: Affine, dtype: torch.dtype) -> tuple[Ops, list[Value]]:
    """``affine`` over ("in", 0) with the fewest instructions; its constants are ("in", 1) on."""
    scale, shift = _uniform(affine.scale), _uniform(affine.shift)
    running: Arg = ("in", 0)
    if scale is not None and shift is not None:
        return ([] if scale == 1 and affine.adds_nothing else [PointwiseOp("affine", (running,), scale, shift)]), []
    ops: Ops = []
    constants: list[Value] = []
    for kind, data, value, idle in (
        ("mul", affine.scale, scale, scale == 1),
        ("add", affine.shift, shift, affine.adds_nothing),
    ):
        if idle:
            continue
        if value is not None:
            ops.append(PointwiseOp("affine", (running,), value if kind == "mul" else 1.0, value if kind == "add" else -0.0))
        else:
            constants.append(constant(data.to(dtype)))
            ops.append(PointwiseOp(kind, (running, ("in", len(constants)))))
        running = ("reg", len(ops) - 1)
    return ops, constants


def _uniform(data: torch.Tensor) -> float | None:
    """The one value that all elements have."""
    if data.numel() == 1:
        value = data.item()
        return None if math.isnan(value) else value
    flat = data.reshape(-1)
    first, second = flat[:2].tolist()  # most differ from the first on
    if first != second:
        return None
    return first if bool(((flat == first) & (flat.signbit() == (math.copysign(1.0, first) < 0))).all()) else None


def _rewrite(graph: Graph, node: Node, run: _Run) -> bool:
    """Whether the node can be looked at again."""
    ops, inputs = list(node.of(Pointwise).ops), list(node.inputs)
    if not run.instructions:
        left, result = remove_instruction(ops, run.last, run.arg)
        if left:
            set_instructions(node, left, inputs)
            return True
        source = inputs[result[1]]
        if source.shape == node.output.shape and source.dtype == node.output.dtype and may_bypass(graph, node, source):
            bypass(graph, node, source)
        return False
    # The new instructions stand before the last of the run; what it gave, the last of them gives now.
    base = len(inputs)

    def inner(arg: Arg) -> Arg:
        if arg[0] == "reg":
            return ("reg", run.last + arg[1])
        return run.arg if arg[1] == 0 else ("in", base + arg[1] - 1)

    extra = len(run.instructions) - 1

    def outer(arg: Arg) -> Arg:
        return ("reg", arg[1] + extra) if arg[0] == "reg" and arg[1] >= run.last else arg

    rewritten = ops[: run.last] + renamed(run.instructions, inner) + renamed(ops[run.last + 1 :], outer)
    set_instructions(node, rewritten, inputs + run.constants)
    return True

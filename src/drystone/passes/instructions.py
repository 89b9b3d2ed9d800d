"""What the passes share: who reads a value, and surgery on the instructions of a ``pointwise``.

An operand of an instruction (an ``Arg``) is ``("in", i)``, input i of the node, or ``("reg", j)``, the result of instruction j.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from drystone.graph.graph import Graph, Node, Value, is_invertible
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Pointwise
from drystone.graph.ops.operator import together

Arg = tuple[str, int]
Ops = list[PointwiseOp]


def is_moderate(factor: float) -> bool:
    """A few of such factors together stay far inside the range of float32, 2^-126 to 2^128."""
    return 2.0**-40 <= abs(factor) <= 2.0**40


def reading_counts(graph: Graph) -> Counter[int]:
    """Value id → how often it is read; being an output of the graph is a reading."""
    counts = Counter(value.id for node in graph.nodes for value in node.inputs)
    counts.update(value.id for value in graph.outputs)
    return counts


def readers(ops: Sequence[PointwiseOp], arg: Arg) -> list[int]:
    """The instructions that read ``arg``, each once a reading."""
    return [index for index, op in enumerate(ops) for other in op.args if other == arg]


def renamed(ops: Sequence[PointwiseOp], rename: Callable[[Arg], Arg]) -> Ops:
    args = [tuple([rename(arg) for arg in op.args]) for op in ops]
    return [op if op.args == new else replace(op, args=new) for op, new in zip(ops, args, strict=True)]


def trimmed(ops: Sequence[PointwiseOp], result: Arg) -> Ops:
    """The instructions that ``result``, a register, depends on; it becomes the last."""
    live = {result[1]}
    for index in range(result[1], -1, -1):
        if index in live:
            live.update(number for where, number in ops[index].args if where == "reg")
    number = {old: new for new, old in enumerate(sorted(live))}
    kept = [ops[index] for index in sorted(live)]
    return renamed(kept, lambda arg: ("reg", number[arg[1]]) if arg[0] == "reg" else arg)


def without(ops: Sequence[PointwiseOp], index: int, arg: Arg) -> Ops:
    """The instructions without the one at ``index``, whose readers read ``arg`` (an input or an earlier register) instead."""

    def rename(other: Arg) -> Arg:
        if other == ("reg", index):
            return arg
        return ("reg", other[1] - 1) if other[0] == "reg" and other[1] > index else other

    return renamed([op for position, op in enumerate(ops) if position != index], rename)


def remove_instruction(ops: Sequence[PointwiseOp], index: int, arg: Arg) -> tuple[Ops, Arg]:
    """``without`` and ``trimmed``: the instructions left, and what holds their result now (an input where none is left)."""
    last = len(ops) - 1
    left = without(ops, index, arg)
    result = arg if index == last else ("reg", last - 1)
    return (trimmed(left, result), result) if result[0] == "reg" else ([], result)


def set_instructions(node: Node, ops: Sequence[PointwiseOp], inputs: Sequence[Value]) -> None:
    """Give ``node`` these instructions over ``inputs``: dead ones and unread inputs go, an input given twice becomes one."""
    ops = trimmed(ops, ("reg", len(ops) - 1))
    read = sorted({number for op in ops for where, number in op.args if where == "in"})
    kept: list[Value] = []
    number: dict[int, int] = {}
    for old in read:
        if inputs[old] not in kept:
            kept.append(inputs[old])
        number[old] = kept.index(inputs[old])
    node.op = Pointwise(tuple(renamed(ops, lambda arg: ("in", number[arg[1]]) if arg[0] == "in" else arg)))
    node.inputs = kept


def bypass(graph: Graph, node: Node, source: Value) -> None:
    """Take ``node`` out of the graph: what read its output reads ``source``."""
    graph.replace(node.output, source)
    graph.remove([node])


def may_bypass(graph: Graph, node: Node, source: Value) -> bool:
    """Not where an output of the graph would become an input, a constant or another output: each keeps a tensor of its own."""
    is_output = any(value is node.output for value in graph.outputs)
    return not is_output or not (source.producer is None or any(value is source for value in graph.outputs))


def shapes(ops: Sequence[PointwiseOp], inputs: Sequence[Value]) -> list[tuple[int, ...]]:
    """The shape of each instruction's result."""
    results: list[tuple[int, ...]] = []
    for op in ops:
        operands = [inputs[number].shape if where == "in" else results[number] for where, number in op.args]
        alike = all(shape == operands[0] for shape in operands)
        results.append(operands[0] if alike else together(operands))
    return results


# The scale and the shift of what has none.
_ONE = torch.ones((), dtype=torch.float64, device="cpu")
_NOTHING = torch.full((), -0.0, dtype=torch.float64, device="cpu")


@dataclass(frozen=True)
class Affine:
    """``scale * x + shift``, both float64, of any shape that broadcasts against x."""

    scale: torch.Tensor
    shift: torch.Tensor

    def then(self, other: Affine) -> Affine:
        return Affine(other.scale * self.scale, other.scale * self.shift + other.shift)

    @property
    def finite(self) -> bool:
        """In float32."""
        return _finite(self.scale) and _finite(self.shift)

    @cached_property
    def adds_nothing(self) -> bool:
        """x + -0.0 is x; x + 0.0 makes a 0.0 of a -0.0."""
        return self.shift is _NOTHING or bool(((self.shift == 0) & self.shift.signbit()).all())

    @property
    def is_moderate(self) -> bool:
        """Whether weights may take the scale: nothing leaves the range of float32 that without it does not, or the other way
        round. Single channels may be scaled to nothing, as batch norms do."""
        # A NaN among the scales is their maximum, and no factor is moderate then.
        return is_moderate(float(self.scale.abs().max())) and _finite(self.shift)


def _finite(data: torch.Tensor) -> bool:
    return data is _ONE or data is _NOTHING or bool(data.to(torch.float32).isfinite().all())


def as_affine(op: PointwiseOp, inputs: Sequence[Value], arg: Arg) -> Affine | None:
    """What ``op`` does to ``arg``, where that is affine with constant coefficients (computed in float64)."""
    one, nothing = _ONE, _NOTHING
    if op.args == (arg,):
        if op.kind == "affine":
            return Affine(one * op.alpha, one * op.beta)
        return Affine(-one, nothing) if op.kind == "neg" else None
    if op.kind not in ("add", "sub", "mul", "div") or op.args.count(arg) != 1:
        return None
    first = op.args[0] == arg
    where, number = op.args[1 if first else 0]
    if where != "in" or not inputs[number].is_constant or not inputs[number].dtype.is_floating_point:
        return None
    if inputs[number].is_computed:  # weights that take it would be others for each size
        return None
    other = inputs[number].constant.detach().to(torch.float64)
    if op.kind == "add":
        affine = Affine(one, other)
    elif op.kind == "sub":
        affine = Affine(one, -other) if first else Affine(-one, other)
    elif op.kind == "mul":
        affine = Affine(other, nothing)
    elif first and is_invertible(other):
        affine = Affine(one / other, nothing)
    else:
        return None
    return affine if affine.finite else None


def along_axis(data: torch.Tensor, rank: int, axis: int, size: int) -> torch.Tensor | None:
    """``data``, which broadcasts against a tensor of ``rank`` axes, as a vector over ``axis`` of ``size``; None where it varies
    over another axis as well (or would make the tensor larger)."""
    if data.dim() > rank:
        return None
    full = data.reshape((1,) * (rank - data.dim()) + tuple(data.shape))
    if any(length != 1 for index, length in enumerate(full.shape) if index != axis) or full.shape[axis] not in (1, size):
        return None
    return full.reshape(-1).expand(size)

"""Values as expressions: equal numbers for what is computed in the same way, however it is spread over nodes.

``(x - mean(x)).pow(2)`` and a second ``x - mean(x)`` further on share their parts here, though they share no node.
"""

from __future__ import annotations

import torch

from drystone.graph.graph import Node, Value
from drystone.graph.instructions import INSTRUCTIONS, PointwiseOp
from drystone.graph.ops import Aten, Pointwise, Reduce, Reshape
from drystone.graph.ops.aten import Ref

# Of an expression: its kind, its scalars (or axes), the numbers of its operands.
Expression = tuple[str, tuple[float, ...], tuple[int, ...]]

_POWERS = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}
_VARIANCES = (torch.ops.aten.var.dim, torch.ops.aten.var.correction)


class Expressions:
    """Numbers expressions as it meets them. ``leaf`` is the kind of what it does not look into."""

    def __init__(self) -> None:
        self._numbers: dict[Expression, int] = {}
        self._expressions: list[Expression] = []
        self._of_value: dict[int, int] = {}
        self._values: dict[int, Value] = {}

    def __getitem__(self, number: int) -> Expression:
        return self._expressions[number]

    def value(self, number: int) -> Value | None:
        """A value of the graph that holds the expression."""
        return self._values.get(number)

    def add(self, node: Node) -> list[int]:
        """Enter the outputs of ``node``; of a pointwise node, the number of each instruction."""
        operands = [self.of(value) for value in node.inputs]
        results: list[int] = []
        if isinstance(node.op, Pointwise):
            for op in node.op.ops:
                args = tuple(operands[index] if where == "in" else results[index] for where, index in op.args)
                results.append(self._instruction(op, args))
            self._enter(node.output, results[-1])
        elif isinstance(node.op, Reduce) and node.op.kind == "mean" and node.op.keepdim:
            self._enter(node.output, self._number("mean", node.op.dims, (operands[0],)))
        elif isinstance(node.op, Reshape) and (mean := _mean_with_kept_axes(node)) is not None:
            self._enter(node.output, self._number("mean", mean.of(Reduce).dims, (self.of(mean.inputs[0]),)))
        elif isinstance(node.op, Aten) and (dims := _axes_of_variance(node)) is not None:
            self._enter(node.output, self._number("variance", dims, (operands[0],)))
        else:
            for value in node.outputs:
                self.of(value)
        return results

    def of(self, value: Value) -> int:
        if value.id not in self._of_value:
            self._enter(value, self._number("leaf", (value.id,), ()))
        return self._of_value[value.id]

    def _enter(self, value: Value, number: int) -> None:
        self._of_value[value.id] = number
        self._values.setdefault(number, value)

    def _number(self, kind: str, scalars: tuple[float, ...], operands: tuple[int, ...]) -> int:
        expression = (kind, scalars, operands)
        if expression not in self._numbers:
            self._numbers[expression] = len(self._expressions)
            self._expressions.append(expression)
        return self._numbers[expression]

    def _instruction(self, op: PointwiseOp, args: tuple[int, ...]) -> int:
        """In one spelling where there are several."""
        if op.kind == "mul" and args[0] == args[1]:
            return self._number("square", (), args[:1])
        if op.kind == "pow" and op.alpha in _POWERS:
            return self._number(_POWERS[op.alpha], (), args)
        if op.kind in ("affine", "neg"):
            alpha, beta = (op.alpha, op.beta) if op.kind == "affine" else (-1.0, 0.0)
            return self._linear(alpha, beta, args[0])
        if INSTRUCTIONS[op.kind].commutes:
            args = tuple(sorted(args))
        return self._number(op.kind, (op.alpha, op.beta) if op.alpha or op.beta else (), args)

    def _linear(self, alpha: float, beta: float, operand: int) -> int:
        kind, scalars, inner = self[operand]
        if kind == "affine":
            alpha, beta, operand = alpha * scalars[0], alpha * scalars[1] + beta, inner[0]
        return operand if (alpha, beta) == (1.0, 0.0) else self._number("affine", (alpha, beta), (operand,))


def _mean_with_kept_axes(reshape: Node) -> Node | None:
    """The mean without keepdim that ``reshape`` gives its axes back."""
    mean = reshape.inputs[0].producer
    if mean is None or not isinstance(mean.op, Reduce) or mean.op.kind != "mean":
        return None
    kept = tuple(1 if axis in mean.op.dims else size for axis, size in enumerate(mean.inputs[0].shape))
    return mean if reshape.output.shape == kept else None


def _axes_of_variance(node: Node) -> tuple[int, ...] | None:
    """Of an ATen variance without Bessel's correction, with keepdim."""
    call = node.of(Aten)
    target, args, kwargs = call.target, list(call.args), dict(call.kwargs)
    if target not in _VARIANCES or args[0] != Ref(0) or len(args) < 2 or args[1] is None:
        return None
    third = {torch.ops.aten.var.dim: "unbiased", torch.ops.aten.var.correction: "correction"}[target]
    kwargs.update(zip((third, "keepdim"), args[2:], strict=False))
    if kwargs.get("keepdim") is not True or kwargs.get(third, 1) not in (0, False) or kwargs.get(third) is None:
        return None
    rank = len(node.inputs[0].shape)
    return tuple(sorted(axis % rank for axis in args[1]))

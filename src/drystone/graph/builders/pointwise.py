"""Elementwise operators. Python numbers become scalars of an instruction, not operands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from drystone.graph.builders.registry import Built, Declined, Emitter, axis, builds, scalar
from drystone.graph.graph import Value, is_invertible
from drystone.graph.instructions import INSTRUCTIONS, PointwiseOp
from drystone.graph.ops import Slice

IN0 = ("in", 0)
IN1 = ("in", 1)
Scalar: TypeAlias = float | Value


def op(kind: str, *args: tuple[str, int], alpha: float = 0.0, beta: float = -0.0) -> PointwiseOp:
    return PointwiseOp(kind, args, alpha, beta)


def reg(index: int) -> tuple[str, int]:
    return ("reg", index)


def _unary(kind: str, names: Sequence[str]) -> None:
    @builds(*names)
    def unary(b: Emitter, x: Value) -> Built:
        return b.pointwise([x], [op(kind, IN0)])


for _kind, _instruction in INSTRUCTIONS.items():
    _unary(_kind, _instruction.aten)


def affine(b: Emitter, x: Value, alpha: float, beta: float = -0.0) -> Value:
    """alpha * x + beta."""
    return b.pointwise([x], [op("affine", IN0, alpha=alpha, beta=beta)])


@builds("gelu")
def gelu(b: Emitter, x: Value, approximate: str = "none") -> Built:
    return b.pointwise([x], [op("gelu_tanh" if approximate == "tanh" else "gelu_erf", IN0)])


@builds("leaky_relu")
def leaky_relu(b: Emitter, x: Value, negative_slope: float = 0.01) -> Built:
    return b.pointwise([x], [op("leaky_relu", IN0, alpha=float(negative_slope))])


@builds("rrelu")
def rrelu(b: Emitter, x: Value, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None) -> Built:
    if training:
        raise Declined("a random slope")
    return leaky_relu(b, x, (lower + upper) / 2)


@builds("prelu", "_prelu_kernel")
def prelu(b: Emitter, x: Value, weight: Value) -> Built:
    if weight.is_constant and weight.numel == 1:
        return leaky_relu(b, x, float(weight.constant))
    slope = b.reshape(weight, (weight.numel,) + (1,) * (len(x.shape) - 2))  # one a channel
    return b.pointwise([x, slope], [op("prelu", IN0, IN1)])


@builds("elu")
def elu(b: Emitter, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Built:
    """scale * (x if x > 0 else alpha * (exp(x * input_scale) - 1))"""
    if input_scale <= 0 or scale <= 0:
        raise Declined("an ELU with a negative scale")
    ops = []
    last = IN0
    if input_scale != 1:
        ops.append(op("affine", last, alpha=input_scale))
        last = reg(len(ops) - 1)
    ops.append(op("elu", last, alpha=alpha * input_scale))
    if scale != input_scale:
        ops.append(op("affine", reg(len(ops) - 1), alpha=scale / input_scale))
    return b.pointwise([x], ops)


@builds("selu")
def selu(b: Emitter, x: Value) -> Built:
    return elu(b, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@builds("celu")
def celu(b: Emitter, x: Value, alpha: float = 1.0) -> Built:
    return elu(b, x, alpha, 1.0, 1.0 / alpha)


def _logarithm(name: str, base: float) -> None:
    @builds(name)
    def logarithm(b: Emitter, x: Value) -> Built:
        return b.pointwise([x], [op("log", IN0), op("affine", reg(0), alpha=1 / math.log(base))])


_logarithm("log2", 2)
_logarithm("log10", 10)


@builds("softplus")
def softplus(b: Emitter, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Built:
    """max(x, 0) + log(1 + exp(-beta * |x|)) / beta: no overflow, so no threshold.

    torch gives x itself from ``threshold`` on; from 15 on, float32 does not tell the two apart.
    """
    if beta <= 0 or threshold < 15:
        raise Declined("a softplus with a negative beta or a low threshold")
    ops = [
        op("abs", IN0),
        op("affine", reg(0), alpha=-float(beta)),
        op("exp", reg(1)),
        op("log1p", reg(2)),
        op("affine", reg(3), alpha=1.0 / beta),
        op("relu", IN0),
        op("add", reg(5), reg(4)),
    ]
    return b.pointwise([x], ops)


@builds("log_sigmoid")
def log_sigmoid(b: Emitter, x: Value) -> Built:
    """-softplus(-x), without a threshold."""
    ops = [
        op("abs", IN0),
        op("neg", reg(0)),
        op("exp", reg(1)),
        op("log1p", reg(2)),
        op("neg", IN0),
        op("relu", reg(4)),
        op("add", reg(5), reg(3)),
        op("neg", reg(6)),
    ]
    return b.pointwise([x], ops)


@builds("glu")
def glu(b: Emitter, x: Value, dim: int = -1) -> Built:
    dim = axis(dim, len(x.shape))
    half = b.shape[dim]
    value, gate = (b.emit(Slice(dim, start, half), [x]) for start in (0, half))
    return b.pointwise([value, gate], [op("sigmoid", IN1), op("mul", IN0, reg(0))])


@builds("hardtanh")
def hardtanh(b: Emitter, x: Value, min_val: float = -1.0, max_val: float = 1.0) -> Built:
    return clamp(b, x, min_val, max_val)


@builds("relu6")
def relu6(b: Emitter, x: Value) -> Built:
    return clamp(b, x, 0.0, 6.0)


@builds("clamp", "clip")
def clamp(b: Emitter, x: Value, min: Scalar | None = None, max: Scalar | None = None) -> Built:
    low = -math.inf if min is None else scalar(min)
    high = math.inf if max is None else scalar(max)
    if low is not None and high is not None:
        return b.pointwise([x], [op("clamp", IN0, alpha=low, beta=high)])
    for bound, kind in ((min, "maximum"), (max, "minimum")):
        if bound is not None:
            x = binary(b, kind, x, bound)
    return x


@builds("clamp_min")
def clamp_min(b: Emitter, x: Value, min: Scalar) -> Built:
    return clamp(b, x, min=min)


@builds("clamp_max")
def clamp_max(b: Emitter, x: Value, max: Scalar) -> Built:
    return clamp(b, x, max=max)


@builds("nan_to_num")
def nan_to_num(b: Emitter, x: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Built:
    limits = torch.finfo(x.dtype)
    high, low = limits.max if posinf is None else posinf, limits.min if neginf is None else neginf
    if math.isnan(high) or math.isnan(low):
        raise Declined("NaN in the place of infinity")
    return b.pointwise([x], [op("replace_inf", IN0, alpha=high, beta=low), op("replace_nan", reg(0), alpha=nan or 0.0)])


@builds("threshold")
def threshold(b: Emitter, x: Value, threshold: float, value: float) -> Built:
    if threshold != 0 or value != 0:
        raise Declined("a threshold other than zero")
    return b.pointwise([x], [op("relu", IN0)])


def operand(b: Emitter, item: Scalar, rank: int) -> Value:
    """The operand of a binary instruction; a number becomes a constant of one element."""
    number = scalar(item)
    if number is not None:
        return b.constant(torch.full((1,) * rank, number, dtype=b.dtype))
    assert isinstance(item, Value)
    return item


def binary(b: Emitter, kind: str, x: Scalar, y: Scalar) -> Value:
    rank = max(len(item.shape) for item in (x, y) if isinstance(item, Value))
    return b.pointwise([operand(b, x, rank), operand(b, y, rank)], [op(kind, IN0, IN1)])


def _sum(b: Emitter, x: Scalar, y: Scalar, sign: float) -> Value:
    """x + sign * y, where one of them may be a number."""
    left, right = scalar(x), scalar(y)
    if right is not None:
        assert isinstance(x, Value)
        return affine(b, x, 1.0, sign * right)
    assert isinstance(y, Value)
    if left is not None:
        return affine(b, y, sign, left)
    assert isinstance(x, Value)
    if abs(sign) == 1:
        return b.pointwise([x, y], [op("add" if sign > 0 else "sub", IN0, IN1)])
    return b.pointwise([x, y], [op("affine", IN1, alpha=sign), op("add", IN0, reg(0))])


@builds("add")
def add(b: Emitter, x: Scalar, other: Scalar, alpha: float = 1) -> Built:
    return _sum(b, x, other, float(alpha))


@builds("sub", "subtract")
def sub(b: Emitter, x: Scalar, other: Scalar, alpha: float = 1) -> Built:
    return _sum(b, x, other, -float(alpha))


@builds("rsub")
def rsub(b: Emitter, x: Value, other: Scalar, alpha: float = 1) -> Built:
    number = scalar(other)
    if number is not None:
        return affine(b, x, -float(alpha), number)
    return _sum(b, other, x, -float(alpha))


@builds("mul", "multiply")
def mul(b: Emitter, x: Scalar, other: Scalar) -> Built:
    for one, two in ((x, other), (other, x)):
        number = scalar(two)
        if number is not None:
            assert isinstance(one, Value)
            return affine(b, one, number)
    return binary(b, "mul", x, other)


@builds("div", "divide", "true_divide")
def div(b: Emitter, x: Scalar, other: Scalar, rounding_mode: str | None = None) -> Built:
    if rounding_mode is not None:
        raise Declined("a rounding division")
    number = scalar(other)
    if number is not None and is_invertible(torch.tensor(number)):
        assert isinstance(x, Value)
        return affine(b, x, 1.0 / number)
    return binary(b, "div", x, other)


@builds("maximum", "max.other")
def maximum(b: Emitter, x: Value, other: Value) -> Built:
    return binary(b, "maximum", x, other)


@builds("minimum", "min.other")
def minimum(b: Emitter, x: Value, other: Value) -> Built:
    return binary(b, "minimum", x, other)


_POWERS = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}


@builds("pow")
def pow(b: Emitter, x: Scalar, exponent: Scalar) -> Built:
    number = scalar(exponent)
    if number is None:
        return binary(b, "pow2", x, exponent)
    assert isinstance(x, Value)
    if number == 1:
        return x
    if number in _POWERS:
        return b.pointwise([x], [op(_POWERS[number], IN0)])
    return b.pointwise([x], [op("pow", IN0, alpha=number)])


@builds("addcmul")
def addcmul(b: Emitter, x: Value, one: Value, two: Value, value: float = 1) -> Built:
    ops = [op("mul", IN1, ("in", 2)), op("affine", reg(0), alpha=float(value)), op("add", IN0, reg(1))]
    return b.pointwise([x, one, two], ops)

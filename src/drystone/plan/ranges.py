"""Between which numbers a value of a graph lies, if those that it is computed from lie between theirs.

A range also says that there is no NaN. It holds for what kernels compute, roundings included. An operator without a rule here,
or whose result may overflow or be NaN, gives ``UNKNOWN``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Node, Value
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import (
    Aggregate,
    Attention,
    Cat,
    Convert,
    Dequantise,
    Elementwise,
    GroupNorm,
    Index,
    LayerNorm,
    LocalResponseNorm,
    Matmul,
    Norm,
    Pad,
    Pointwise,
    Pool,
    Recurrent,
    Reduce,
    Resize,
    Rotary,
    Softmax,
    Topk,
    WeightProduct,
)


class Range(NamedTuple):
    low: float
    high: float

    @property
    def bound(self) -> float:
        """What no absolute value exceeds; infinite where it is unknown."""
        return max(-self.low, self.high)


UNKNOWN = Range(-math.inf, math.inf)

# Gives the range of an input of a node: ``(its index) → range``.
Inputs = Callable[[int], Range]

# Sums that are taken in another order, or by Winograd's method, exceed the sum of absolute values by no more than this.
_SUMMED = 1.01
# No square of it overflows, nor the sum of 10 million such squares.
_SQUARABLE = 1e15

# By dtype: the largest number, the least that rounds to infinity, and what rounding adds to a number, relatively.
_ROUNDING = {
    torch.float32: (torch.finfo(torch.float32).max, 3.4028235677973366e38, 2.0**-22),
    torch.bfloat16: (torch.finfo(torch.bfloat16).max, 3.3961775292304957e38, 2.0**-7),
}


def _rounded(found: Range, dtype: torch.dtype) -> Range:
    """``found`` after a rounding to ``dtype``; ``UNKNOWN`` where it may overflow."""
    largest, overflow, relative = _ROUNDING[dtype]
    if not found.bound < overflow:  # NaN among them
        return UNKNOWN
    low, high = found
    return Range(max(low - abs(low) * relative, -largest), min(high + abs(high) * relative, largest))


def symmetric(bound: float) -> Range:
    return Range(-bound, bound) if bound < math.inf else UNKNOWN


def hull(*ranges: Range) -> Range:
    return Range(min(r.low for r in ranges), max(r.high for r in ranges))


def within(found: Range, limit: float) -> Range:
    """``found`` where it is also known that no absolute value exceeds ``limit``."""
    return Range(max(found.low, -limit), min(found.high, limit))


def range_of_tensor(data: torch.Tensor) -> Range:
    if data.numel() == 0 or not data.dtype.is_floating_point:
        return _of_dtype(data.dtype)
    low, high = (float(end) for end in torch.aminmax(data.detach()))
    return Range(low, high) if math.isfinite(low) and math.isfinite(high) else UNKNOWN


def largest_gain(weight: torch.Tensor) -> float:
    """How many times the largest |x| a product of x with ``weight`` (outputs first) can be; infinite where it holds no number."""
    if weight.numel() == 0:
        return 0.0
    gain = float(torch.linalg.vector_norm(weight.detach().flatten(1), 1, dim=1, dtype=torch.float32).max())
    return gain if math.isfinite(gain) else math.inf


def _of_value(value: Value) -> Range:
    """What is known of any value like it."""
    return _of_dtype(value.dtype) if value.quantisation is None else Range(*value.quantisation.range(value.dtype))


def _of_dtype(dtype: torch.dtype) -> Range:
    if dtype == torch.bool:
        return Range(0.0, 1.0)
    if dtype.is_floating_point or dtype.is_complex:
        return UNKNOWN
    limits = torch.iinfo(dtype)
    return Range(float(limits.min), float(limits.max))


# -- instructions ----------------------------------------------------------------------------------------------------------


def _products(a: Range, b: Range) -> Range:
    ends = [x * y for x in a for y in b]
    return Range(min(ends), max(ends))


def _quotients(a: Range, b: Range) -> Range:
    return UNKNOWN if b.low <= 0 <= b.high else _products(a, Range(1 / b.high, 1 / b.low))


def _power(a: Range, exponent: float) -> Range:
    if exponent >= 0 and exponent == int(exponent):
        return symmetric(max(a.bound, 1.0) ** exponent)
    if a.low <= 0:
        return UNKNOWN
    ends = a.low**exponent, a.high**exponent
    return Range(min(ends), max(ends))


# How far below 0 gelu, silu, mish and hardswish go, at most.
_DIP = 0.4
# Far enough above what float32 has as its smallest normal number.
_POSITIVE = 1e-37


def _instruction(op: PointwiseOp, a: Range, b: Range) -> Range:
    alpha, beta = op.alpha, op.beta
    match op.kind:
        case "relu":
            return Range(max(a.low, 0.0), max(a.high, 0.0))
        case "leaky_relu":
            return hull(a, _products(a, Range(alpha, alpha)))
        case "prelu":
            return hull(a, _products(a, b))
        case "elu":
            return Range(-abs(alpha), max(a.high, abs(alpha)))
        case "gelu_erf" | "gelu_tanh" | "silu" | "mish" | "hardswish":
            return Range(-_DIP, max(a.high, 0.0))
        case "sigmoid" | "hardsigmoid":
            return Range(0.0, 1.0)
        case "tanh" | "erf" | "sin" | "cos" | "sign":
            return Range(-1.0, 1.0)
        case "clamp":
            return Range(min(max(a.low, alpha), beta), min(max(a.high, alpha), beta))
        case "exp":
            return Range(0.0, math.exp(a.high)) if a.high < 88 else UNKNOWN
        case "log":
            return Range(math.log(a.low), math.log(a.high)) if a.low > _POSITIVE else UNKNOWN
        case "log1p":
            return Range(math.log1p(a.low), math.log1p(a.high)) if a.low > -0.9 else UNKNOWN
        case "sqrt":
            return Range(0.0, math.sqrt(a.high)) if a.low >= 0 else UNKNOWN
        case "rsqrt":
            return Range(0.0, 1 / math.sqrt(a.low)) if a.low > _POSITIVE else UNKNOWN
        case "reciprocal":
            return _quotients(Range(1.0, 1.0), a)
        case "abs":
            return Range(0.0, a.bound)
        case "neg":
            return Range(-a.high, -a.low)
        case "square":
            return Range(0.0, a.bound * a.bound)
        case "affine":
            scaled = _products(a, Range(alpha, alpha))
            return Range(scaled.low + beta, scaled.high + beta)
        case "pow":
            return _power(a, alpha)
        case "floor" | "round":
            return Range(math.floor(a.low), math.ceil(a.high))
        case "add":
            return Range(a.low + b.low, a.high + b.high)
        case "sub":
            return Range(a.low - b.high, a.high - b.low)
        case "mul":
            return _products(a, b)
        case "div":
            return _quotients(a, b)
        case "maximum":
            return Range(max(a.low, b.low), max(a.high, b.high))
        case "minimum":
            return Range(min(a.low, b.low), min(a.high, b.high))
    return UNKNOWN


def after(op: PointwiseOp, operands: list[Range]) -> Range:
    """The range of the result of ``op`` on ``operands``, in float32."""
    if any(operand.bound == math.inf for operand in operands):
        return UNKNOWN
    try:
        return _rounded(_instruction(op, operands[0], operands[-1]), torch.float32)
    except (OverflowError, ZeroDivisionError):
        return UNKNOWN


def chain(ops: Sequence[PointwiseOp], operand: Callable[[int], Range]) -> list[Range]:
    """The ranges of the results of ``ops``, whose ``("in", i)`` is ``operand(i)``."""
    results: list[Range] = []
    for op in ops:
        results.append(after(op, [operand(index) if where == "in" else results[index] for where, index in op.args]))
    return results


# -- operators -------------------------------------------------------------------------------------------------------------


def product(x: Range, gain: float, bias: Range) -> Range:
    """Of a conv, a conv_transpose or a linear before its epilogue."""
    if x.bound == math.inf:
        return UNKNOWN
    return _rounded(symmetric(x.bound * gain * _SUMMED + bias.bound), torch.float32)


def _norm(op: Norm, x: Range, elements: int) -> Range:
    """Of what is normalised over so many elements, then scaled and shifted."""
    if x.bound > _SQUARABLE or op.eps < _POSITIVE:
        return UNKNOWN
    return symmetric(_SUMMED * math.sqrt(elements))


def _scaled(op: Norm, x: Range, at: Inputs) -> Range:
    place = 1
    if op.has_weight:
        x = _products(x, at(place)) if x.bound < math.inf > at(place).bound else UNKNOWN
        place += 1
    if op.has_bias:
        x = Range(x.low + at(place).low, x.high + at(place).high)
    return x


def _operator(node: Node, at: Inputs) -> Range:
    x = node.inputs[0] if node.inputs else node.output
    match node.op:
        case Pointwise(ops=ops):
            return chain(ops, at)[-1]
        case Cat():
            return hull(*(at(i) for i in range(len(node.inputs))))
        case Pad(value=value):
            return hull(at(0), Range(value, value)) if math.isfinite(value) else UNKNOWN
        case Resize(mode=mode) if mode.startswith("cubic"):
            return symmetric(4 * at(0).bound)  # its weights are of both signs; their sizes add up to less, over both axes
        case Convert() | Dequantise() | Resize() | Index() | Topk():
            return at(0)
        case op if op.moves:
            return at(0)
        case Pool(kind="max"):
            return at(0)
        case Pool(divisor_override=None):
            return hull(at(0), Range(0.0, 0.0))
        case Pool(divisor_override=int(override)):
            return symmetric(at(0).bound * (x.numel / max(override, 1)))
        case Reduce(kind="mean"):
            return at(0)
        case Reduce():
            return symmetric(at(0).bound * (x.numel / max(node.output.numel, 1)) * _SUMMED)
        case Softmax():
            return Range(0.0, 1.0) if at(0).bound < math.inf else UNKNOWN
        case LayerNorm(dims=dims) as op:
            return _scaled(op, _norm(op, at(0), math.prod(x.shape[d] for d in dims)), at)
        case GroupNorm(groups=groups) as op:
            return _scaled(op, _norm(op, at(0), x.numel // max(x.shape[0] * groups, 1)), at)
        case LocalResponseNorm(k=k, alpha=alpha):
            return at(0) if k >= 1 and alpha >= 0 and at(0).bound < _SQUARABLE else UNKNOWN
        case Rotary():
            return symmetric(2 * at(0).bound * max(at(1).bound, at(2).bound))
        case Matmul(dims=(first, _)):
            return symmetric(at(0).bound * at(1).bound * x.shape[first[-1]] * _SUMMED)
        case Attention() as op:
            return _attention(node, op, at)
        case Elementwise(kind="where"):
            return hull(at(1), at(2))
        case Aggregate(kind="cumsum"):
            return symmetric(at(0).bound * x.numel)
        case Aggregate(kind="amax" | "amin" | "cummax" | "cummin"):
            return at(0)
    return UNKNOWN


def _attention(node: Node, op: Attention, at: Inputs) -> Range:
    """Results are means of rows of v, or 0 where all keys are hidden."""
    if not at(0).bound * at(1).bound * node.inputs[0].shape[-1] * abs(op.scale) < 1e30:
        return UNKNOWN
    hides = op.has_mask and node.inputs[3].dtype == torch.bool
    if op.has_mask and (op.nan_if_hidden if hides else at(3).bound == math.inf):
        return UNKNOWN
    return hull(at(2), Range(0.0, 0.0))


def _recurrent(node: Node, op: Recurrent, at: Inputs) -> list[Range]:
    """An LSTM's and a GRU's outputs are as tame as tanh, and so are those of an RNN of it."""
    tame = op.kind != "rnn_relu" and not op.projects and not op.has_state
    if not tame or any(at(i).bound > 1e8 for i in range(len(node.inputs))):
        return [UNKNOWN] * len(node.outputs)
    steps = float(max(node.inputs[0].shape[:2]))
    return [Range(-1.0, 1.0), Range(-1.0, 1.0), symmetric(steps)][: len(node.outputs)]


def ranges_of(node: Node, at: Inputs, gain: Callable[[Value], float]) -> list[Range]:
    """The ranges of the outputs of ``node``. ``gain``: ``largest_gain`` of a constant."""
    if isinstance(node.op, Recurrent):
        return _recurrent(node, node.op, at)
    found = epilogue(node, at, gain)[-1] if isinstance(node.op, WeightProduct) else _operator(node, at)
    outputs = [found, *[UNKNOWN] * (len(node.outputs) - 1)]
    return [
        _rounded(result, value.dtype) if value.dtype in FLOATS else _of_value(value)
        for result, value in zip(outputs, node.outputs, strict=True)
    ]


def epilogue(node: Node, at: Inputs, gain: Callable[[Value], float]) -> list[Range]:
    """Of a product: its own range, and those after each instruction of its epilogue."""
    bias = at(node.op.operands - 1) if node.of(WeightProduct).has_bias else Range(0.0, 0.0)
    weight = node.inputs[1]
    own = product(at(0), gain(weight), bias) if weight.is_constant and weight.dtype in FLOATS else UNKNOWN
    return [own, *chain(node.epilogue, lambda i: own if i == 0 else at(node.epilogue_start + i - 1))]


def known(ranges: Mapping[int, Range], constant: Callable[[Value], Range]) -> Callable[[Node], Inputs]:
    """Of a node the ranges of its inputs, from those of values by id; inputs of a graph are unknown unless they are there."""

    def inputs(node: Node) -> Inputs:
        def at(index: int) -> Range:
            value = node.inputs[index]
            if value.quantisation is not None:
                return _of_value(value)
            if value.is_constant:
                return constant(value)
            return ranges[value.id] if value.id in ranges else _of_value(value)

        return at

    return inputs

"""A slow interpreter of a graph, plainly right: what tests hold builders, passes and programs against."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from drystone.graph.aten import call
from drystone.graph.graph import Graph, Node, PointwiseOp, Value
from drystone.graph.recurrent import recurrent

Tensor = torch.Tensor


def run(graph: Graph, inputs: Sequence[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """The graph's outputs for ``inputs``, each value in its own dtype, or all floats in ``dtype`` (float64 for an oracle)."""

    def cast(tensor: Tensor, own: torch.dtype) -> Tensor:
        if dtype is not None:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor
        return tensor.to(own)

    values = {value.id: cast(tensor, value.dtype) for value, tensor in zip(graph.inputs, inputs, strict=True)}

    def read(value: Value) -> Tensor:
        return cast(value.constant.detach(), value.dtype) if value.is_constant else values[value.id]

    with torch.no_grad():
        for node in graph:
            operands = [read(value) for value in node.inputs]
            results = call(node, operands) if node.op == "aten" else evaluate(node, operands)
            for value, result in zip(node.outputs, results, strict=True):
                assert tuple(result.shape) == value.shape, f"{list(result.shape)} instead of {value}, from: {node}"
                values[value.id] = cast(result, value.dtype)
    return [read(value) for value in graph.outputs]


def evaluate(node: Node, inputs: list[Tensor]) -> list[Tensor]:
    """The outputs of a node that is not ``aten``. Low precision is computed in float32 and not yet rounded back."""
    inputs = [x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in inputs]
    result = _OPERATORS[node.op](node, inputs)
    if isinstance(result, list):
        return result
    if node.epilogue:
        result = pointwise(node.epilogue, [result, *inputs[node.epilogue_start :]])
    return [result]


def pointwise(ops: Sequence[PointwiseOp], operands: Sequence[Tensor]) -> Tensor:
    """A chain of instructions: the result of the last one."""
    registers: list[Tensor] = []
    for op in ops:
        args = [operands[index] if where == "in" else registers[index] for where, index in op.args]
        registers.append(INSTRUCTIONS[op.kind](op, *args))
    shape = torch.broadcast_shapes(*(operand.shape for operand in operands))
    return registers[-1].expand(shape)


INSTRUCTIONS: dict[str, Callable[..., Tensor]] = {
    "relu": lambda op, x: x.relu(),
    "leaky_relu": lambda op, x: F.leaky_relu(x, op.alpha),
    "elu": lambda op, x: F.elu(x, op.alpha),
    "gelu_erf": lambda op, x: F.gelu(x),
    "gelu_tanh": lambda op, x: F.gelu(x, approximate="tanh"),
    "silu": lambda op, x: F.silu(x),
    "mish": lambda op, x: F.mish(x),
    "hardswish": lambda op, x: F.hardswish(x),
    "hardsigmoid": lambda op, x: F.hardsigmoid(x),
    "sigmoid": lambda op, x: x.sigmoid(),
    "tanh": lambda op, x: x.tanh(),
    "clamp": lambda op, x: x.clamp(op.alpha, op.beta),
    "exp": lambda op, x: x.exp(),
    "log": lambda op, x: x.log(),
    "sqrt": lambda op, x: x.sqrt(),
    "log1p": lambda op, x: x.log1p(),
    "rsqrt": lambda op, x: x.rsqrt(),
    "abs": lambda op, x: x.abs(),
    "neg": lambda op, x: -x,
    "square": lambda op, x: x * x,
    "reciprocal": lambda op, x: x.reciprocal(),
    "erf": lambda op, x: x.erf(),
    "sin": lambda op, x: x.sin(),
    "cos": lambda op, x: x.cos(),
    "linear": lambda op, x: op.alpha * x + op.beta,
    "pow": lambda op, x: x**op.alpha,
    "floor": lambda op, x: x.floor(),
    "round": lambda op, x: x.round(),
    "sign": lambda op, x: x.sign(),
    "add": lambda op, x, y: x + y,
    "sub": lambda op, x, y: x - y,
    "mul": lambda op, x, y: x * y,
    "div": lambda op, x, y: x / y,
    "maximum": lambda op, x, y: torch.maximum(x, y),
    "minimum": lambda op, x, y: torch.minimum(x, y),
    "pow2": lambda op, x, y: x**y,
    "prelu": lambda op, x, y: torch.where(x > 0, x, x * y),
}


def _conv(node: Node, inputs: list[Tensor]) -> Tensor:
    x, weight, *rest = inputs
    attrs = node.attrs
    pads = zip(reversed(attrs["padding_l"]), reversed(attrs["padding_r"]), strict=True)
    x = F.pad(x, list(itertools.chain.from_iterable(pads)))
    function = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
    bias = rest[0] if attrs["has_bias"] else None
    return function(x, weight, bias, attrs["stride"], 0, attrs["dilation"], attrs["groups"])


def _conv_transpose(node: Node, inputs: list[Tensor]) -> Tensor:
    x, weight, *rest = inputs
    attrs, groups = node.attrs, node.attrs["groups"]
    weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.ndim - 3]
    whole = function(x, weight, None, attrs["stride"], 0, 0, groups, attrs["dilation"])
    cuts = zip(reversed(attrs["padding_l"]), reversed(attrs["padding_r"]), strict=True)
    result = F.pad(whole, [-cut for cut in itertools.chain.from_iterable(cuts)])
    return result + rest[0].reshape(-1, *(1,) * (x.ndim - 2)) if attrs["has_bias"] else result


def _matmul(node: Node, inputs: list[Tensor]) -> Tensor:
    return F.linear(inputs[0], inputs[1], inputs[2] if node.attrs["has_bias"] else None)


def _everywhere(*index: int | slice) -> tuple[Any, ...]:
    """An index into the last axes."""
    return (..., *index)


def _pool(node: Node, inputs: list[Tensor]) -> Tensor:
    (x,), attrs = inputs, node.attrs
    out = x.new_empty(node.output.shape)
    windows = attrs["windows"]
    dims = tuple(range(2, x.ndim))
    for index in itertools.product(*(range(len(axis)) for axis in windows)):
        window = x[_everywhere(*(slice(*axis[i]) for axis, i in zip(windows, index, strict=True)))]
        if attrs["kind"] == "max":
            out[_everywhere(*index)] = window.amax(dims)
        else:
            override = attrs["divisor_override"]
            divisor = override or math.prod(axis[i] for axis, i in zip(attrs["divisors"], index, strict=True))
            out[_everywhere(*index)] = window.sum(dims) / divisor
    return out


def _reduce(node: Node, inputs: list[Tensor]) -> Tensor:
    function = torch.mean if node.attrs["kind"] == "mean" else torch.sum
    return function(inputs[0], dim=node.attrs["dims"], keepdim=node.attrs["keepdim"])


def _layer_norm(node: Node, inputs: list[Tensor]) -> Tensor:
    x, *rest = inputs
    dims = node.attrs["dims"]
    mean = x.mean(dims, keepdim=True) if node.attrs.get("centred", True) else 0
    var = (x - mean).square().mean(dims, keepdim=True)
    x = (x - mean) / (var + node.attrs["eps"]).sqrt()
    # Weight and bias have the sizes of the normalised axes: put them there.
    placed = [size if dim in dims else 1 for dim, size in enumerate(x.shape)]
    rest = [tensor.reshape(placed) for tensor in rest]
    if node.attrs["has_weight"]:
        x = x * rest.pop(0)
    return x + rest.pop(0) if node.attrs["has_bias"] else x


def _group_norm(node: Node, inputs: list[Tensor]) -> Tensor:
    x, *rest = inputs
    weight = rest.pop(0) if node.attrs["has_weight"] else None
    bias = rest.pop(0) if node.attrs["has_bias"] else None
    return F.group_norm(x, node.attrs["groups"], weight, bias, node.attrs["eps"])


def _attention(node: Node, inputs: list[Tensor]) -> Tensor:
    attrs = node.attrs
    q, k, v = (x if first else x.transpose(1, 2) for x, first in zip(inputs[:3], attrs["heads_first"], strict=False))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(2, 3) * attrs["scale"]
    if attrs["has_mask"]:
        mask = inputs[3]
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    if attrs["causal"]:
        scores = scores.masked_fill(torch.ones(scores.shape[2:], dtype=torch.bool).triu(1), -math.inf)
    weights = scores.softmax(3)
    if not attrs["nan_if_hidden"]:
        weights = weights.masked_fill((scores == -math.inf).all(3, keepdim=True), 0)
    result = weights @ v
    return result if attrs["heads_first"][3] else result.transpose(1, 2)


def _lrn(node: Node, inputs: list[Tensor]) -> Tensor:
    attrs = node.attrs
    return F.local_response_norm(inputs[0], attrs["size"], attrs["alpha"], attrs["beta"], attrs["k"])


def _resize(node: Node, inputs: list[Tensor]) -> Tensor:
    """Axis by axis: both modes are separable."""
    x = inputs[0]
    for axis, scale in enumerate(node.attrs["scales"], start=2):
        size = x.shape[axis]
        out = torch.arange(node.output.shape[axis], dtype=torch.float64)
        if node.attrs["mode"] == "nearest":
            x = x.index_select(axis, (out * scale).floor().long().clamp(max=size - 1))
            continue
        at = out * scale if node.attrs["align_corners"] else ((out + 0.5) * scale - 0.5).clamp(min=0)
        low = at.floor().long().clamp(max=size - 1)
        high = (low + 1).clamp(max=size - 1)
        share = (at - low).to(x.dtype).view([-1] + [1] * (x.ndim - 1 - axis))
        x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
    return x


def _slice(node: Node, inputs: list[Tensor]) -> Tensor:
    attrs, dim = node.attrs, node.attrs["dim"]
    stop = attrs["start"] + (node.output.shape[dim] - 1) * attrs["step"] + 1
    return inputs[0][(slice(None),) * dim + (slice(attrs["start"], stop, attrs["step"]),)]


def _pad(node: Node, inputs: list[Tensor]) -> Tensor:
    """By index along each axis, for any rank."""
    x, attrs = inputs[0], node.attrs
    for axis, (before, after) in enumerate(zip(attrs["before"], attrs["after"], strict=True)):
        size = x.shape[axis]
        index = torch.arange(-before, size + after)
        inside = index.clamp(0, size - 1)
        if attrs["mode"] == "reflect":
            inside = (size - 1 - (size - 1 - index.abs()).abs()).clamp(0, size - 1)
        outside = (index < 0) | (index >= size)
        x = x.index_select(axis, inside)
        if attrs["mode"] == "constant":
            x = x.masked_fill(outside.view([-1] + [1] * (x.ndim - 1 - axis)), attrs["value"])
    return x


_ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "invert": torch.bitwise_not,
    "floor_div": torch.floor_divide,
    "remainder": torch.remainder,
    "bit_and": torch.bitwise_and,
    "bit_or": torch.bitwise_or,
    "bit_xor": torch.bitwise_xor,
    **{kind: getattr(torch, kind) for kind in ("add", "sub", "mul", "maximum", "minimum", "where")},
    **{kind: getattr(torch, kind) for kind in ("eq", "ne", "lt", "le", "gt", "ge")},
}


def _fold(node: Node, inputs: list[Tensor]) -> Tensor:
    (x,), kind, dims = inputs, node.attrs["kind"], list(node.attrs["dims"])
    if kind == "cumsum":
        return x.cumsum(dims[0])
    if kind in ("argmax", "argmin"):
        x = x.flatten(dims[0], dims[-1])
        dims = dims[:1]
        return getattr(torch, kind)(x, dims[0]).reshape(node.output.shape)
    return getattr(torch, kind)(x, dim=dims).reshape(node.output.shape)


def _index(node: Node, inputs: list[Tensor]) -> Tensor:
    x, *indices = inputs
    if node.attrs["caller"] == "gather":
        return x.gather(node.attrs["dim"], indices[0].long())
    if not node.attrs["wraps"] and any(bool((index < 0).any()) for index in indices):
        raise IndexError("index out of range in self")
    return x[(slice(None),) * node.attrs["dim"] + tuple(index.long() for index in indices)]


def _batch_matmul(node: Node, inputs: list[Tensor]) -> Tensor:
    a, b = (x.permute(dims) for x, dims in zip(inputs, node.attrs["dims"], strict=True))
    return a @ b


def _rotary(node: Node, inputs: list[Tensor]) -> Tensor:
    x, cosines, sines = inputs
    first, second = (x := x.permute(node.attrs["dims"])).chunk(2, -1)
    return x * cosines + torch.cat([-second, first], -1) * sines


_OPERATORS: dict[str, Callable[[Node, list[Tensor]], Tensor | list[Tensor]]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "matmul": _matmul,
    "pointwise": lambda node, inputs: pointwise(node.attrs["ops"], inputs),
    "pool": _pool,
    "reduce": _reduce,
    "softmax": lambda node, inputs: inputs[0].softmax(node.attrs["dim"]),
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "attention": _attention,
    "lrn": _lrn,
    "resize": _resize,
    "cat": lambda node, inputs: torch.cat(inputs, node.attrs["dim"]),
    "slice": _slice,
    "gather": lambda node, x: x[0].index_select(node.attrs["dim"], torch.tensor(node.attrs["indices"], dtype=torch.int64)),
    "permute": lambda node, inputs: inputs[0].permute(node.attrs["dims"]),
    "reshape": lambda node, inputs: inputs[0].reshape(node.output.shape),
    "expand": lambda node, inputs: inputs[0].expand(node.output.shape),
    "pad": _pad,
    "convert": lambda node, inputs: inputs[0],
    "elementwise": lambda node, inputs: _ELEMENTWISE[node.attrs["kind"]](*inputs),
    "fold": _fold,
    "index": _index,
    "batch_matmul": _batch_matmul,
    "rotary": _rotary,
    "recurrent": recurrent,
}

"""Fold affine pointwise operations with constants per channel into the weights beside them; batch norm is one of these.

before:  conv(x, w, b) → mul(·, s) → add(·, t) → relu        sub(x, t) → mul(·, s) → conv(·, w, b)
after:   conv(x, s * w, s * b + t) → relu                    sub(x, t) → conv(·, w * s, b)
conv, conv_transpose, linear and the norms take what follows them (across a permute too): their results are sums, rounded at their
own size, so that eager has lost by then what a shift would cancel. What comes before a product is exact, and stays so: the product
takes a scale only. (x - t is close to zero where x is close to t; w · x - w · t is the difference of two large sums.)
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from drystone.graph.graph import Graph, Node, Value, constant
from drystone.graph.ops import (
    Convolution,
    GroupNorm,
    LayerNorm,
    Linear,
    Norm,
    Permute,
    Pointwise,
    WeightProduct,
)
from drystone.graph.transposed import stays_bare
from drystone.passes.instructions import (
    Affine,
    along_axis,
    as_affine,
    bypass,
    may_bypass,
    readers,
    reading_counts,
    remove_instruction,
    set_instructions,
)

CHUNK_ELEMENTS = 1 << 15


def fold_batch_norm(graph: Graph) -> Graph:
    """Both directions: into the producers first, into the consumers what is left."""
    return fold_into_consumers(fold_into_producers(graph))


def fold_into_producers(graph: Graph) -> Graph:
    """The affine instructions that a pointwise node begins with go into the op that makes their operand."""
    counts = reading_counts(graph)
    for node in [node for node in graph.nodes if isinstance(node.op, Pointwise)]:
        for value in list(node.inputs):
            if value in node.inputs and _fold_leading(graph, node, value, counts):
                break
    return graph


def fold_into_consumers(graph: Graph) -> Graph:
    """The affine instructions that a pointwise node ends with go into the conv or linear that alone reads its result."""
    counts = reading_counts(graph)
    consumers = graph.consumers()
    for node in [node for node in graph.nodes if isinstance(node.op, Pointwise)]:
        if counts[node.output.id] == 1 and node.output.id in consumers:
            _fold_trailing(graph, node, consumers[node.output.id][0])
    return graph


def _fold_leading(graph: Graph, node: Node, value: Value, counts: Counter[int]) -> bool:
    """Whether that was all that ``node`` did, and it is gone."""
    found = _foldable_producer(value, counts)
    if found is None or node.output.dtype != value.dtype:
        return False
    producer, axis = found
    ops, inputs = list(node.of(Pointwise).ops), node.inputs
    arg = ("in", inputs.index(value))
    total = Affine(torch.ones(value.shape[axis], dtype=torch.float64), torch.zeros(value.shape[axis], dtype=torch.float64))
    start = len(ops)
    result = ("reg", start - 1)
    while len(reading := readers(ops, arg)) == 1:
        step = _per_channel(as_affine(ops[reading[0]], inputs, arg), value.shape, axis)
        if step is None or not step.is_moderate or not (extended := total.then(step)).is_moderate:
            break
        total = extended
        ops, result = remove_instruction(ops, reading[0], arg)
    if len(ops) == start:
        return False
    if not ops and not may_bypass(graph, node, value):
        return False
    _scale_outputs(producer, total)
    if ops:
        set_instructions(node, ops, inputs)
        return False
    assert inputs[result[1]] is value
    bypass(graph, node, value)
    counts[value.id] = counts[node.output.id]
    return True


def _fold_trailing(graph: Graph, node: Node, consumer: Node) -> None:
    if not isinstance(consumer.op, WeightProduct) or consumer.inputs[0] is not node.output or not _has_constant_weight(consumer):
        return
    axis = len(node.output.shape) - 1 if isinstance(consumer.op, Linear) else 1
    while True:
        ops, shape = node.of(Pointwise).ops, node.output.shape
        last = ops[-1]
        variable = [arg for arg in last.args if arg[0] == "reg" or not node.inputs[arg[1]].is_constant]
        if len(variable) != 1:
            return
        arg = variable[0]
        step = _per_channel(as_affine(last, node.inputs, arg), shape, axis)
        if step is None or not step.is_moderate or step.shift.any():
            return
        left, result = remove_instruction(ops, len(ops) - 1, arg)
        if left:
            _scale_inputs(consumer, step.scale)
            set_instructions(node, left, node.inputs)
            continue
        source = node.inputs[result[1]]
        if source.shape == shape and source.dtype == node.output.dtype:
            _scale_inputs(consumer, step.scale)
            bypass(graph, node, source)
        return


def _foldable_producer(value: Value, counts: Counter[int]) -> tuple[Node, int] | None:
    """The op that makes ``value`` and which axis of ``value`` its output channels are, where nothing else sees its result."""
    permutes: list[Node] = []
    while value.producer is not None and counts[value.id] == 1:
        producer = value.producer
        if isinstance(producer.op, Permute):
            permutes.append(producer)
            value = producer.inputs[0]
            continue
        axis = _channel_axis(producer)
        if axis is None or producer.epilogue or stays_bare(producer) or not _has_constant_weight(producer):
            return None
        for permute in reversed(permutes):
            axis = permute.of(Permute).dims.index(axis)
        return producer, axis
    return None


def _channel_axis(node: Node) -> int | None:
    rank = len(node.output.shape)
    if isinstance(node.op, (Convolution, GroupNorm)):
        return 1
    if isinstance(node.op, Linear):
        return rank - 1
    if isinstance(node.op, LayerNorm) and len(node.op.dims) == 1:
        return int(node.op.dims[0])
    return None


def _has_constant_weight(node: Node) -> bool:
    parameters = node.inputs[1 : node.epilogue_start] if node.epilogue else node.inputs[1:]
    # Weights that are made of codes keep them.
    return all(value.is_constant and value.dtype.is_floating_point and value.codes is None for value in parameters)


def _per_channel(affine: Affine | None, shape: Sequence[int], axis: int) -> Affine | None:
    if affine is None:
        return None
    scale = along_axis(affine.scale, len(shape), axis, shape[axis])
    shift = along_axis(affine.shift, len(shape), axis, shape[axis])
    return None if scale is None or shift is None else Affine(scale, shift)


def _scale_outputs(node: Node, affine: Affine) -> None:
    """Fold ``affine``, two vectors over the channels of the output, into the weight and bias of ``node``."""
    if isinstance(node.op, Norm):
        _scale_norm(node, affine)
        return
    weight = node.inputs[1]
    if (affine.scale != 1).any():
        node.inputs[1] = _scaled(weight, affine.scale[:, None])
    has_bias = node.of(WeightProduct).has_bias
    if has_bias or affine.shift.any():
        old = node.inputs[2].constant if has_bias else None
        scaled = affine.scale * old.detach().to(torch.float64) if old is not None else 0.0
        _set_bias(node, scaled + affine.shift)


def _scale_norm(node: Node, affine: Affine) -> None:
    dtype = node.output.dtype
    parameters = [value.constant.detach().to(torch.float64) for value in node.inputs[1:] if value.is_constant]
    op = node.of(Norm)
    weight = parameters.pop(0) if op.has_weight else torch.ones_like(affine.scale)
    bias = parameters.pop(0) if op.has_bias else torch.zeros_like(affine.shift)
    node.inputs = [
        node.inputs[0],
        _stored(affine.scale * weight, dtype, "weight"),
        _stored(affine.scale * bias + affine.shift, dtype, "bias"),
    ]
    node.op = replace(op, has_weight=True, has_bias=True)


def _scale_inputs(node: Node, scale: torch.Tensor) -> None:
    """Fold ``scale``, a vector over the channels of the input, into the weight of ``node``."""
    if not (scale != 1).any():
        return
    weight = node.inputs[1]
    groups = node.op.groups if isinstance(node.op, Convolution) else 1
    # (O, C / groups): the entries of the input channels that each output channel sees.
    outputs = weight.shape[0]
    node.inputs[1] = _scaled(weight, scale.reshape(groups, 1, -1).expand(groups, outputs // groups, -1).reshape(outputs, -1))


def _scaled(weight: Value, scale: torch.Tensor) -> Value:
    """``weight`` times ``scale``, (O, 1) or (O, C / groups): some rows at a time, as float64 copies of all of it cost more
    than the arithmetic. Made when it is packed."""

    def scaled() -> torch.Tensor:
        data = weight.constant.detach()
        result = torch.empty(weight.shape, dtype=weight.dtype)
        rows = max(1, CHUNK_ELEMENTS // max(1, math.prod(weight.shape[1:])))
        for first in range(0, len(data), rows):
            part = slice(first, first + rows)
            factor = scale[part].reshape(-1, scale.shape[1], *(1,) * (data.dim() - 2))
            torch.mul(data[part].to(torch.float64), factor, out=result[part])
        return result

    identity = ("scaled", weight.key, hashlib.sha256(scale.numpy().tobytes()).digest())
    return Value(weight.shape, weight.dtype, weight.name, data=scaled, identity=identity)


def _set_bias(node: Node, data: torch.Tensor) -> None:
    op = node.op
    assert isinstance(op, (Convolution, Linear))
    if op.has_bias:
        node.inputs[2] = _stored(data, node.inputs[2].dtype, node.inputs[2].name)
        return
    node.inputs.insert(2, _stored(data, node.inputs[1].dtype, "bias"))
    node.op = replace(op, has_bias=True)


def _stored(data: torch.Tensor, dtype: torch.dtype, name: str) -> Value:
    return constant(data.to(dtype).contiguous(), name)

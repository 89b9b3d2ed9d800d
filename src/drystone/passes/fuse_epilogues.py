"""conv, conv_transpose and linear do what follows to each result before it is stored.

before:  conv(x, w) → add(·, residual) → relu
after:   conv(x, w, residual) | add(in0, in1), relu(reg0)
An epilogue is a chain: each instruction takes the running result and at most one operand more, which is of the output's shape
or one value a channel.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from drystone.graph.graph import Graph, Node, Value
from drystone.graph.instructions import INSTRUCTIONS, PointwiseOp
from drystone.graph.ops import Convolution, Linear, Pointwise
from drystone.graph.transposed import stays_bare
from drystone.passes.instructions import Arg, readers, reading_counts, renamed, set_instructions, without

MAX_INSTRUCTIONS = 4


def fuse_epilogues(graph: Graph) -> Graph:
    """Move as much of each pointwise node as an epilogue can hold into the ops that make its operands.

    Only where the pointwise node is the sole reader. Of several operands the one that is computed last takes the operation
    that joins them, as the others are there by then.
    """
    counts = reading_counts(graph)
    position = {id(node): index for index, node in enumerate(graph.nodes)}
    emptied: list[Node] = []
    for node in [node for node in graph.nodes if isinstance(node.op, Pointwise)]:
        while (fused := _fuse_once(node, counts, position)) is not None:
            if fused.sunk:
                graph.remove([fused.into])
                graph.nodes.insert(graph.nodes.index(node), fused.into)
                position = {id(other): index for index, other in enumerate(graph.nodes)}
            if fused.whole:
                emptied.append(node)
                break
    graph.remove(emptied)
    return graph


@dataclass
class _Fused:
    into: Node
    whole: bool  # nothing of the pointwise node is left
    sunk: bool  # an operand is computed after the op, which has to move behind it


def _fuse_once(node: Node, counts: Counter[int], position: dict[int, int]) -> _Fused | None:
    """Move one instruction of ``node``."""
    ops = node.of(Pointwise).ops
    candidates = [value for value in node.inputs if _takes_epilogue(value, node, counts)]
    candidates.sort(key=lambda value: position[id(value.producer)], reverse=True)
    for value in candidates:
        into = value.producer
        assert into is not None
        arg: Arg = ("in", node.inputs.index(value))
        reading = readers(ops, arg)
        if len(reading) != 1:
            continue
        op = ops[reading[0]]
        operand = _operand(op, arg, node)
        steps = _as_epilogue(op, arg, operand, into)
        if steps is None or len(into.epilogue) + len(steps) > MAX_INSTRUCTIONS:
            continue
        late = operand is not None and operand.producer is not None and position[id(operand.producer)] > position[id(into)]
        _append(into, steps, operand)
        whole = len(ops) == 1
        if whole:
            into.outputs = [node.output]
            node.output.producer = into
        else:
            last = len(ops) - 1
            assert reading[0] != last, "an instruction before the last that nothing reads"
            set_instructions(node, without(ops, reading[0], arg), node.inputs)
            if operand is not None and operand in node.inputs:
                counts[operand.id] += 1  # ``into`` reads it as well from now on
        return _Fused(into, whole, late)
    return None


def _takes_epilogue(value: Value, node: Node, counts: Counter[int]) -> bool:
    producer = value.producer
    return (
        producer is not None
        and producer.op.takes_epilogue
        and not stays_bare(producer)
        and counts[value.id] == 1
        and value.dtype == node.output.dtype
        and value.dtype.is_floating_point
    )


def _operand(op: PointwiseOp, arg: Arg, node: Node) -> Value | None:
    others = [other for other in op.args if other != arg]
    return node.inputs[others[0][1]] if len(others) == 1 and others[0][0] == "in" else None


def _as_epilogue(op: PointwiseOp, arg: Arg, operand: Value | None, into: Node) -> list[PointwiseOp] | None:
    """``op`` as instructions over ("in", 0), the running result, and ("in", 1), ``operand``; None where it can't be."""
    running: Arg = ("in", 0)
    if op.args == (arg,):
        if op.kind == "neg":
            return [PointwiseOp("affine", (running,), -1.0)]
        return [PointwiseOp(op.kind, (running,), op.alpha, op.beta)] if INSTRUCTIONS[op.kind].fuses else None
    instruction = INSTRUCTIONS[op.kind]
    if operand is None or len(op.args) != 2 or not instruction.fuses or not _broadcasts(operand, into):
        return None
    if op.args[0] == arg or instruction.commutes:
        return [PointwiseOp(op.kind, (running, ("in", 1)))]
    if op.kind == "sub":
        return [PointwiseOp("affine", (running,), -1.0), PointwiseOp("add", (("reg", 0), ("in", 1)))]
    return None


def _broadcasts(operand: Value, into: Node) -> bool:
    """Whether an epilogue of ``into`` can read ``operand``: one value a channel, or the one operand of the output's shape."""
    shape = into.output.shape
    if not operand.dtype.is_floating_point:
        return False
    if operand.shape == shape and math.prod(shape) > 1:
        if operand.is_constant and isinstance(into.op, Convolution):
            return False  # it lies in plain order, the result in any: oneDNN has its reference implementation for that
        residuals = [value for value in into.inputs[into.epilogue_start :] if value.shape == shape] if into.epilogue else []
        return not residuals
    if len(operand.shape) > len(shape):
        return False
    aligned = (1,) * (len(shape) - len(operand.shape)) + operand.shape
    channel = len(shape) - 1 if isinstance(into.op, Linear) else 1
    # Not one value an image and channel: oneDNN would compute the whole operator by its reference implementation.
    return all(length == 1 or (axis == channel and length == shape[axis]) for axis, length in enumerate(aligned))


def _append(into: Node, steps: list[PointwiseOp], operand: Value | None) -> None:
    slot = 0
    if operand is not None:
        into.inputs.append(operand)
        slot = len(into.inputs) - into.epilogue_start
    base = len(into.epilogue)
    running: Arg = ("reg", base - 1) if base else ("in", 0)

    def rename(arg: Arg) -> Arg:
        if arg[0] == "reg":
            return ("reg", base + arg[1])
        return running if arg[1] == 0 else ("in", slot)

    into.epilogue += renamed(steps, rename)

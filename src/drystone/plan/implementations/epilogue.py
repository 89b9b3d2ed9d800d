"""The epilogue of a conv or a linear as post-ops, or a part of it as a pointwise chain."""

from __future__ import annotations

import math

from drystone import native
from drystone.graph.graph import Node
from drystone.plan.formats import PLAIN, densely, quantised
from drystone.plan.implementations.base import Operand

# Of a pointwise step, as the native side takes it: kind, arguments, alpha and beta.
Instruction = tuple[str, list[tuple[str, int]], float, float]


def post_ops(
    node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, free_inputs: frozenset[int]
) -> tuple[list[native.PostOp], list[Operand], int | None]:
    """(post-ops, the extra operands of the step, the input that the output overwrites).

    A residual of the output's shape that nobody reads later is added where it lies ("sum"); it is then no operand. Not after an
    instruction that oneDNN may leave to a second pass, when the output's memory holds the product already.
    Raises ``ValueError`` for an instruction that has no post-op.
    """
    chain: list[native.PostOp] = []
    operands: list[Operand] = []
    overwrites: int | None = None
    for position, op in enumerate(node.epilogue):
        running = ("in", 0) if position == 0 else ("reg", position - 1)
        others = [(place, index) for place, index in op.args if (place, index) != running]
        if not others:
            if len(op.args) != 1:
                raise ValueError(f"no post-op computes {op}")
            chain.append((op.kind, op.alpha, op.beta, None))
            continue
        place, index = others[0]
        if place != "in":
            raise ValueError(f"the epilogue is not a chain: {op}")
        source = node.epilogue_start + index - 1
        kind = op.kind
        if op.args[0] != running:  # the running result is the second operand
            if kind == "sub":
                chain.append(("affine", -1.0, -0.0, None))
                kind = "add"
            elif kind not in ("add", "mul", "maximum", "minimum"):
                raise ValueError(f"no post-op computes {op}")
        desc = inputs[source]
        same = desc.shape == output.shape and desc.dtype == output.dtype and desc.strides == output.strides
        whole = all(native.post_op_limit(kind, alpha) == math.inf for kind, alpha, *_ in chain)
        if kind == "add" and same and source in free_inputs and overwrites is None and whole:
            chain.append(("sum", desc.scale, float(desc.zero_point), None) if quantised(desc) else ("sum", 0.0, 0.0, None))
            overwrites = source
        else:
            chain.append((kind, 0.0, 0.0, _aligned(desc, output)))
            operands.append(("in", source))
    return chain, operands, overwrites


def rest_of_epilogue(node: Node, first: int) -> tuple[list[Instruction], list[int]]:
    """The epilogue from instruction ``first`` on, as a chain whose first input is the result until there; and which inputs of the
    node are its others."""
    chain, read = list[Instruction](), list[int]()
    running = ("reg", first - 1) if first else ("in", 0)

    def renamed(arg: tuple[str, int]) -> tuple[str, int]:
        where, index = arg
        if arg == running:
            return "in", 0
        if where == "reg":
            return where, index - first
        read.append(node.epilogue_start + index - 1)
        return where, len(read)

    for op in node.epilogue[first:]:
        chain.append((op.kind, [*map(renamed, op.args)], op.alpha, op.beta))
    return chain, read


def _aligned(desc: native.TensorDesc, output: native.TensorDesc) -> native.TensorDesc:
    """The operand with the output's rank: a (C, 1, 1) constant becomes (1, C, 1, 1), in an order that oneDNN takes."""
    missing = len(output.shape) - len(desc.shape)
    shape = [1] * missing + list(desc.shape)
    per_channel = all(size == 1 for axis, size in enumerate(shape) if axis != 1)
    if shape == list(output.shape):
        # An output of one position: oneDNN wants the operand in the output's own format, which here is the same memory.
        own = densely(desc, shape, output.format.name)
        return own if desc.same_memory(own) else desc
    if missing or per_channel:
        return densely(desc, shape, PLAIN)
    return desc

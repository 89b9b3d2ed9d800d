"""Pointwise nodes that feed one another become one node with several instructions.

before:  a = sigmoid(x);  b = mul(x, a);  c = add(b, y)
after:   c = pointwise(x, y): sigmoid(in0), mul(in0, reg0), add(reg1, in1)
"""

from __future__ import annotations

from collections import Counter

from drystone.graph.graph import Graph, Node, Value
from drystone.graph.ops import Pointwise
from drystone.passes.instructions import Arg, reading_counts, renamed, set_instructions

MAX_INPUTS = 8
MAX_INSTRUCTIONS = 24
RECOMPUTED_ELEMENTS = 1024  # up to here, computing a smaller operand anew for each element costs less than a node of its own


def fuse_pointwise(graph: Graph) -> Graph:
    """Merge each pointwise node into the one that alone reads it, where both have the same shape and dtype."""
    counts = reading_counts(graph)
    for node in graph.nodes:
        if isinstance(node.op, Pointwise):
            set_instructions(node, node.op.ops, node.inputs)
    counts = reading_counts(graph)
    gone: set[int] = set()
    for node in reversed(graph.nodes):
        if not isinstance(node.op, Pointwise) or id(node) in gone:
            continue
        while (producer := _mergeable(node, counts)) is not None:
            _merge(producer, node, counts)
            gone.add(id(producer))
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]
    return graph


def _mergeable(node: Node, counts: Counter[int]) -> Node | None:
    """A producer of an input of ``node`` that may become part of it; the latest one first."""
    for value in reversed(node.inputs):
        producer = value.producer
        if producer is None or not isinstance(producer.op, Pointwise) or counts[value.id] != 1 or value.dtype != node.output.dtype:
            continue
        if value.shape != node.output.shape and node.output.numel > RECOMPUTED_ELEMENTS:
            continue
        inputs = {id(other) for other in (*node.inputs, *producer.inputs)} - {id(value)}
        if len(inputs) <= MAX_INPUTS and len(node.of(Pointwise).ops) + len(producer.op.ops) <= MAX_INSTRUCTIONS:
            return producer
    return None


def _merge(producer: Node, node: Node, counts: Counter[int]) -> None:
    """``node`` computes what ``producer`` did first, then its own."""
    first = producer.of(Pointwise).ops
    offset = len(producer.inputs)
    merged_inputs: list[Value] = [*producer.inputs, *node.inputs]

    def rename(arg: Arg) -> Arg:
        if arg[0] == "reg":
            return ("reg", arg[1] + len(first))
        if node.inputs[arg[1]] is producer.output:
            return ("reg", len(first) - 1)
        return ("in", arg[1] + offset)

    before = [*producer.inputs, *node.inputs]
    set_instructions(node, [*first, *renamed(node.of(Pointwise).ops, rename)], merged_inputs)
    for value in before:
        counts[value.id] -= 1
    for value in node.inputs:
        counts[value.id] += 1

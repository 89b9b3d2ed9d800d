"""What lies between dequantise and quantise computes on codes.

before:  dequantise(q) → conv(·, w: float32) → add(·, dequantise(r)) → relu → max pool → quantise
after:   conv(q, w: int8, r) | add(in0, in1), relu(reg0) → max pool, all of codes
Rounding to codes rises monotonically, and so it may as well come before what only moves numbers or takes the largest of them: these
work on codes, and what makes their operands writes them.
"""

from __future__ import annotations

from drystone.graph.graph import Graph, Node, Value, make_node
from drystone.graph.ops import (
    Cat,
    Dequantise,
    DynamicLinear,
    Linear,
    Operator,
    Permute,
    Pointwise,
    Pool,
    Quantise,
    Reduce,
    Reshape,
    Resize,
    RoundDynamically,
    Slice,
    WeightProduct,
)
from drystone.passes.instructions import bypass, may_bypass, reading_counts


def absorb_quantisation(graph: Graph) -> Graph:
    """After ``simplify``, so that epilogues are complete."""
    _multiply_dynamically(graph)
    if not any(isinstance(node.op, (Quantise, Dequantise)) for node in graph):
        return graph
    _share(graph)
    _raise_quantise(graph)
    _sink_dequantise(graph)
    _join(graph)
    _share(graph)
    _absorb(graph)
    _share(graph)
    return graph.prune()


def _multiply_dynamically(graph: Graph) -> None:
    """round_dynamically(x) → linear(·, w: float32) becomes dynamic_linear(x, w: int8)."""
    for node in graph:
        maker = node.inputs[0].producer if node.inputs else None
        if not isinstance(node.op, Linear) or maker is None or not isinstance(maker.op, RoundDynamically):
            continue
        if (weight := _symmetric(node.inputs[1])) is not None:
            op = maker.op
            node.op = DynamicLinear(op.low, op.high, op.eps, op.symmetric, node.op.has_bias)
            node.inputs[:2] = [maker.inputs[0], weight]
    graph.prune()


def _symmetric(weight: Value) -> Value | None:
    """The codes that a weight of floats is made of, where they are around 0."""
    codes = weight.codes
    return None if codes is None or codes.quantisation is None or codes.quantisation.zero_point else codes


def _share(graph: Graph) -> None:
    """Of several equal conversions of one value the first serves all."""
    known: dict[object, Node] = {}
    for node in list(graph.nodes):
        if not isinstance(node.op, (Quantise, Dequantise)):
            continue
        key = (node.inputs[0].id, node.output.dtype, node.output.quantisation)
        first = known.setdefault(key, node)
        if first is not node and may_bypass(graph, node, first.output):
            bypass(graph, node, first.output)


def _orders(op: Operator) -> bool:
    """Whether it gives numbers of its operands, those of codes where the operands are codes."""
    if isinstance(op, Pool):
        return op.kind == "max" and not op.places
    return op.moves or (isinstance(op, Resize) and op.mode.startswith("nearest"))


def _raise_quantise(graph: Graph) -> None:
    """Each quantise goes before what makes its operand, where that only orders numbers that nothing else reads."""
    waiting = [node for node in graph.nodes if isinstance(node.op, Quantise)]
    counts = reading_counts(graph)
    while waiting:
        node = waiting.pop()
        source = node.inputs[0]
        maker = source.producer
        if maker is None or not _orders(maker.op) or counts[source.id] != 1 or any(v.is_constant for v in maker.inputs):
            continue
        made = {value.id: _quantise(value, node) for value in maker.inputs if value.quantisation is None}
        place = graph.nodes.index(maker)
        graph.nodes[place:place] = made.values()
        counts.subtract(value.id for value in maker.inputs)
        maker.inputs = [made[value.id].output if value.id in made else value for value in maker.inputs]
        counts.update(value.id for value in maker.inputs)
        counts.update(n.inputs[0].id for n in made.values())
        _give(graph, maker, node)
        waiting += made.values()


def _quantise(value: Value, like: Node) -> Node:
    node = make_node(Quantise(), [value], like.output.dtype, like.name, instead_of=like)
    node.output.quantisation = like.output.quantisation
    return node


def _give(graph: Graph, maker: Node, converter: Node) -> None:
    """``maker`` makes what ``converter`` made of its result."""
    maker.outputs = [converter.output]
    converter.output.producer = maker
    graph.remove([converter])


_SINKS = (Reshape, Permute, Slice, Cat, Pool, Resize)


def _sink_dequantise(graph: Graph) -> None:
    """What only orders numbers works on codes: fewer bytes, and a product behind it reads them."""
    for node in list(graph.nodes):
        if not isinstance(node.op, _SINKS) or not _orders(node.op) or node.output.quantisation is not None:
            continue
        codes = [_codes(value) for value in node.inputs]
        first = codes[0]
        if first is None or any(c is None or (c.dtype, c.quantisation) != (first.dtype, first.quantisation) for c in codes):
            continue
        real = node.output
        node.inputs = [value for value in codes if value is not None]
        moved = Value(real.shape, first.dtype, real.name, producer=node, quantisation=first.quantisation)
        node.outputs = [moved]
        after = make_node(Dequantise(), [moved], real.dtype, real.name, instead_of=node)
        after.outputs, real.producer = [real], after
        graph.nodes.insert(graph.nodes.index(node) + 1, after)


def _codes(value: Value) -> Value | None:
    """What ``value`` is dequantised from."""
    maker = value.producer
    return maker.inputs[0] if maker is not None and isinstance(maker.op, Dequantise) else None


def _join(graph: Graph) -> None:
    """A quantise after a dequantise makes codes of codes, the same ones where the quantisation is."""
    for node in list(graph.nodes):
        if isinstance(node.op, Quantise) and (source := _codes(node.inputs[0])) is not None:
            same = (source.dtype, source.quantisation) == (node.output.dtype, node.output.quantisation)
            if not same:
                node.inputs = [source]
            elif may_bypass(graph, node, source):
                bypass(graph, node, source)


def _absorb(graph: Graph) -> None:
    counts = reading_counts(graph)
    readers = graph.consumers()
    for node in list(graph.nodes):
        if isinstance(node.op, WeightProduct):
            if not _take_factors(node):
                continue
        elif not isinstance(node.op, (Pointwise, Pool, Reduce, Resize)) or node.op.places:
            continue
        node.inputs = [_codes(value) or value for value in node.inputs]
        result = node.output
        if result.quantisation is None and counts[result.id] == 1 and len(readers.get(result.id, ())) == 1:
            (reader,) = readers[result.id]
            if isinstance(reader.op, Quantise) and any(value.quantisation is not None for value in node.inputs):
                _give(graph, node, reader)


def _take_factors(node: Node) -> bool:
    """Whether a product multiplies codes: by symmetric weights of int8."""
    x, weight = _codes(node.inputs[0]), _symmetric(node.inputs[1])
    if x is None or weight is None:
        return False
    node.inputs[:2] = [x, weight]
    return True

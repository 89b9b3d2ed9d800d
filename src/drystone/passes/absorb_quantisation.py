"""What lies between dequantise and quantise computes on codes.

before:  dequantise(q) → conv(·, w: float32) → add(·, dequantise(r)) → relu → max pool → quantise
after:   conv(q, w: int8, r) | add(in0, in1), relu(reg0) → max pool, all of codes
Rounding to codes rises monotonically, and so it may as well come before what only moves numbers or takes the largest of them: these
work on codes, and what makes their operands writes them.
"""

from __future__ import annotations

import torch

from drystone.graph.graph import Graph, Node, Value, make_node
from drystone.graph.ops import (
    Aten,
    Cat,
    Dequantise,
    DynamicLinear,
    LayerNorm,
    Linear,
    Operator,
    Permute,
    Pointwise,
    Pool,
    Quantise,
    Reduce,
    Reshape,
    Resize,
    Slice,
    WeightProduct,
)
from drystone.graph.quantisation import CODES, Dynamic
from drystone.passes.instructions import bypass, may_bypass, reading_counts


def absorb_quantisation(graph: Graph) -> Graph:
    """After ``simplify``, so that epilogues are complete."""
    _multiply_dynamically(graph)
    if not any(isinstance(node.op, (Quantise, Dequantise)) for node in graph):
        return graph
    share_conversions(graph)
    _raise_quantise(graph)
    _sink_dequantise(graph)
    _join(graph)
    share_conversions(graph)
    _absorb(graph)
    share_conversions(graph)
    return graph.prune()


def _multiply_dynamically(graph: Graph) -> None:
    """What is quantised by its own range, by torch's operators, and multiplied by codes: choose_qparams(x), quantize, dequantize →
    linear(·, w: float32) becomes dynamic_linear(x, w: int8)."""
    for node in graph:
        found = _dynamic(node.inputs[0]) if isinstance(node.op, Linear) else None
        if found is not None and (weight := _symmetric(node.inputs[1])) is not None:
            x, dynamic = found
            node.op = DynamicLinear(**vars(dynamic), has_bias=node.of(Linear).has_bias)
            node.inputs[:2] = [x, weight]
    graph.prune()


_CHOICES = {"choose_qparams": False, "choose_qparams_symmetric": True}


def _dynamic(value: Value) -> tuple[Value, Dynamic] | None:
    """What ``value`` is rounded from, and how, where the three calls are of one another."""
    back = _call(value, "dequantize_per_tensor")
    there = _call(back.inputs[0], "quantize_per_tensor") if back is not None else None
    if back is None or there is None or back.inputs[1:] != there.inputs[1:]:
        return None
    x, scale, zero_point = there.inputs
    choice = next((found for name in _CHOICES if (found := _call(scale, name)) is not None), None)
    if choice is None or choice.inputs != [x] or choice.outputs != [scale, zero_point]:
        return None
    _, low, high, eps, dtype = choice.of(Aten).args
    same = {back.of(Aten).args[3:], there.of(Aten).args[3:]} == {(low, high, dtype)}
    symmetric = _CHOICES[_name(choice)]
    if not same or dtype not in CODES or (symmetric and dtype != torch.int8):  # of uint8 the middle is another
        return None
    return x, Dynamic(low, high, float(eps), symmetric)


def _call(value: Value, name: str) -> Node | None:
    maker = value.producer
    return maker if maker is not None and isinstance(maker.op, Aten) and _name(maker) == name else None


def _name(node: Node) -> str:
    schema = getattr(node.of(Aten).target, "_schema", None)
    return str(getattr(schema, "name", "")).removeprefix("quantized_decomposed::")


def _symmetric(weight: Value) -> Value | None:
    """The codes that a weight of floats is made of, where they are around 0."""
    codes = weight.codes
    return None if codes is None or codes.quantisation is None or codes.quantisation.zero_point else codes


def share_conversions(graph: Graph) -> Graph:
    """Of several equal conversions of one value the first serves all: those of one tensor are one operand."""
    known: dict[object, Node] = {}
    for node in list(graph.nodes):
        if not isinstance(node.op, (Quantise, Dequantise)):
            continue
        key = (node.inputs[0].id, node.output.dtype, node.output.quantisation)
        first = known.setdefault(key, node)
        if first is not node and may_bypass(graph, node, first.output):
            bypass(graph, node, first.output)
    return graph


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
        elif not isinstance(node.op, (LayerNorm, Pointwise, Pool, Reduce, Resize)) or node.op.places:
            continue
        if not isinstance(node.op, LayerNorm):
            node.inputs = [_codes(value) or value for value in node.inputs]
        result = node.output
        if result.quantisation is None and counts[result.id] == 1 and len(readers.get(result.id, ())) == 1:
            (reader,) = readers[result.id]
            rounds = isinstance(node.op, (LayerNorm, Pointwise)) or any(value.quantisation is not None for value in node.inputs)
            if isinstance(reader.op, Quantise) and rounds:
                _give(graph, node, reader)


def _take_factors(node: Node) -> bool:
    """Whether a product multiplies codes: by symmetric weights of int8."""
    x, weight = _codes(node.inputs[0]), _symmetric(node.inputs[1])
    if x is None or weight is None:
        return False
    node.inputs[:2] = [x, weight]
    return True

"""Which operators are native on this CPU, in which dtype: asked of the implementations, with a small node of each kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from drystone import native
from drystone.graph.codes import coded
from drystone.graph.graph import Graph, Node, Value, constant, make_node
from drystone.graph.ops import (
    OPERATORS,
    Aten,
    Conv,
    Convert,
    Dequantise,
    DynamicLinear,
    Elementwise,
    Operator,
    OperatorError,
    Quantise,
    Recurrent,
)
from drystone.graph.ops.operator import IMAGE, Sample
from drystone.graph.quantisation import Quantisation
from drystone.passes.in_precision import in_precision
from drystone.passes.lower_precision import rounded
from drystone.plan.autotune import Planner
from drystone.plan.environment import instructions
from drystone.plan.implementations.base import WeightStore
from drystone.plan.implementations.quantisation import InFloats, is_of_codes
from drystone.plan.tuning_cache import TuningCache

BF16, F32, I64 = torch.bfloat16, torch.float32, torch.int64
HEADING = ("operator", "float32", "bfloat16", "int8", "int64", "dtype=torch.bfloat16 of a float32 model")


def _node(kind: type[Operator], sample: Sample | None) -> Node:
    assert sample, f"{kind.name} has no sample"
    fields, shapes, constants = sample
    inputs = [Value(shape, dtype) for dtype, shape in map(_described, shapes)]
    inputs += [constant(torch.zeros(shape, dtype=dtype)) for dtype, shape in map(_described, constants)]
    node = make_node(kind(*fields), inputs, F32)
    if kind in (Quantise, Dequantise):
        codes = node.output if kind is Quantise else node.inputs[0]
        codes.dtype, codes.quantisation = torch.uint8, Quantisation((0.1,), 128)
    if kind is DynamicLinear:
        node.inputs[1] = coded(node.inputs[1], Quantisation((0.1,)), torch.int8, -128, 127)
    node.outputs += [Value(shape, F32, producer=node) for shape in node.op.further(node.inputs)[len(node.outputs) - 1 :]]
    return node


def _described(shape: tuple[Any, ...]) -> tuple[torch.dtype, tuple[int, ...]]:
    return (shape[0], shape[1:]) if isinstance(shape[0], torch.dtype) else (F32, shape)


def _conv(shape: tuple[int, ...], weight: tuple[int, ...], groups: int = 1) -> Node:
    ones = (1,) * (len(shape) - 2)
    return _node(Conv, ((ones, ones, ones, ones, groups, False), [shape], [weight]))


# A small node of each operator, in float32 (where it has floats).
SAMPLES: dict[str, Callable[[], Node]] = {
    **{name: partial(_node, kind, kind.sample) for name, kind in OPERATORS.items() if kind is not Aten},
    "conv, depthwise": lambda: _conv(IMAGE, (16, 1, 3, 3), groups=16),
    "conv, one axis": lambda: _conv((1, 16, 9), (16, 16, 3)),
    "conv, three axes": lambda: _conv((1, 16, 4, 5, 5), (16, 16, 3, 3, 3)),
}


def graph_of(name: str, dtype: torch.dtype) -> Graph:
    """The operator alone, on operands of ``dtype``."""
    node = SAMPLES[name]()
    if dtype != I64 and isinstance(node.op, Elementwise):  # which takes floats for comparisons and choices alone
        node.op = Elementwise("ge")
        node.output.dtype = torch.bool
    for value in [*node.inputs, *node.outputs]:
        # The gates of recurrent layers are float32 always, a convert is to the other dtype.
        if value.dtype == F32 and not (isinstance(node.op, Recurrent) and value is node.inputs[0]) and not value.is_constant:
            value.dtype = dtype
    if isinstance(node.op, Convert):
        node.output.dtype = F32 if dtype != F32 else BF16
    node.inputs = [
        rounded(value) if value.is_constant and value.dtype == F32 and dtype == BF16 and value.quantisation is None else value
        for value in node.inputs
    ]
    return Graph([value for value in node.inputs if not value.is_constant], list(node.outputs), [node])


def _computed(graph: Graph, op: Operator) -> tuple[Node, bool]:
    """The node of ``op``, and whether all of the graph is native."""
    planner = Planner(graph, WeightStore(), TuningCache.in_memory())
    assembled = planner.assemble(planner.best())
    return next(node for node in graph if type(node.op) is type(op)), not assembled.segments


def _takes_integers(name: str) -> bool:
    (node,) = graph_of(name, I64)
    if I64 not in node.op.dtypes:
        return False
    try:
        node.op.check_dtypes(node.inputs, node.output)
    except OperatorError:  # which has integers, as indices, and computes floats
        return False
    return True


def _cell(name: str, dtype: torch.dtype) -> str:
    op = SAMPLES[name]().op
    if dtype == I64 and (op.factors or not _takes_integers(name)):  # products of floats may have tables
        return ""
    node, whole = _computed(in_precision(graph_of(name, dtype), None), SAMPLES[name]().op)
    if not whole:
        return "ATen"
    return (
        "native, in float32" if dtype == BF16 and node.inputs[0].dtype == F32 and not isinstance(node.op, Recurrent) else "native"
    )


def _of_codes(name: str) -> str:
    """The operator on uint8 with a scale, weights of int8 with one."""
    node = SAMPLES[name]()
    if not node.op.quantises:
        return ""
    if not is_of_codes(node):
        node.inputs = [_coded(value) for value in node.inputs]
        node.output.dtype, node.output.quantisation = torch.uint8, Quantisation((0.1,), 128)
    planner = Planner(
        Graph([v for v in node.inputs if not v.is_constant], [node.output], [node]), WeightStore(), TuningCache.in_memory()
    )
    direct = [option for option in planner.options[node] if not isinstance(option[0], InFloats)]
    assembled = planner.assemble({node: direct[0]} if direct else planner.best())
    if assembled.segments:
        return "ATen"
    return "native, in float32" if isinstance(assembled.choice[node][0], InFloats) else "native"


def _coded(value: Value) -> Value:
    if value.is_constant:
        return coded(value, Quantisation((0.1,)), torch.int8, -128, 127) if len(value.shape) > 1 else value
    value.dtype, value.quantisation = torch.uint8, Quantisation((0.1,), 128)
    return value


def _lowered(name: str) -> str:
    """What optimize(…, dtype=torch.bfloat16) makes of a float32 model's operator."""
    op = SAMPLES[name]().op
    if not op.factors and not isinstance(op, Recurrent):
        return "as it reads"
    node, whole = _computed(in_precision(graph_of(name, F32), BF16), op)
    weight = node.inputs[1].dtype
    if not whole:
        return "ATen"
    if native.multiplies_bfloat16() and weight != F32:
        return "bfloat16"
    return "float32, weights stored as bfloat16" if weight == BF16 else "float32"


def rows() -> list[tuple[str, ...]]:
    """A row of cells for each operator, below ``HEADING``."""
    return [(name, _cell(name, F32), _cell(name, BF16), _of_codes(name), _cell(name, I64), _lowered(name)) for name in SAMPLES]


def markdown() -> str:
    """The table of this CPU, as docs/native_operators.md has it under the name of its instructions."""
    lines = ["| " + " | ".join(HEADING) + " |", "|---" * len(HEADING) + "|"]
    lines += ["| " + " | ".join([f"`{name}`" if "," not in name else name, *cells]) + " |" for name, *cells in rows()]
    return f"## {instructions()}\n\n" + "\n".join(lines) + "\n"

"""Which operators are native on this CPU, in which dtype: asked of the implementations, with a small node of each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from drystone import native
from drystone.graph.graph import Graph, Node, PointwiseOp, Value, constant, make_node
from drystone.passes.in_precision import in_precision
from drystone.passes.lower_precision import PRODUCTS, rounded
from drystone.plan.environment import instructions
from drystone.plan.implementations.base import WeightStore
from drystone.plan.rehearse import Planner
from drystone.plan.tuning_cache import TuningCache

BF16, F32, I64 = torch.bfloat16, torch.float32, torch.int64
IMAGE, ROWS = (1, 16, 6, 6), (2, 4, 16)
HEADING = ("operator", "float32", "bfloat16", "int64", "dtype=torch.bfloat16 of a float32 model")


def _conv(op: str, shape: tuple[int, ...], weight: tuple[int, ...], groups: int = 1) -> Node:
    axes = len(shape) - 2
    same = {"stride": (1,) * axes, "dilation": (1,) * axes, "padding_l": (1,) * axes, "padding_r": (1,) * axes}
    return _node(op, [shape], shape, constants=[weight], **same, groups=groups, has_bias=False)


def _node(
    op: str, shapes: list[tuple[int, ...]], output: tuple[int, ...], constants: list[tuple[int, ...]] | None = None, **attrs: Any
) -> Node:
    given = [Value(shape, F32, f"x{index}") for index, shape in enumerate(shapes)]
    return make_node(op, [*given, *(constant(torch.zeros(shape)) for shape in constants or [])], output, F32, **attrs)


def _recurrent() -> Node:
    flags = {"batch_first": False, "has_bias": False, "projects": False, "has_state": False}
    node = _node("recurrent", [(3, 1, 64)], (3, 1, 16), [(64, 16)], kind="lstm", directions=1, **flags)
    node.outputs += [Value((1, 1, 16), F32, producer=node) for _ in range(2)]
    return node


def _index() -> Node:
    node = _node("index", [(11, 16), (2, 3)], (2, 3, 16), dim=0, wraps=False, caller="embedding")
    node.inputs[1].dtype = I64
    return node


_ADD = [PointwiseOp("add", (("in", 0), ("in", 1)))]
_WINDOWS: dict[str, Any] = {"windows": [[(i, i + 2, 1) for i in range(5)]] * 2, "divisors": [[2] * 5] * 2, "divisor_override": None}
_HEADS: dict[str, Any] = {"heads_first": (True,) * 4, "scale": 0.25, "causal": False, "has_mask": False, "nan_if_hidden": False}
_HALF = (1, 8, 6, 6)

#: A small node of each operator, in float32 (where it has floats).
SAMPLES: dict[str, Callable[[], Node]] = {
    "conv": lambda: _conv("conv", IMAGE, (16, 16, 3, 3)),
    "conv, depthwise": lambda: _conv("conv", IMAGE, (16, 1, 3, 3), groups=16),
    "conv, one axis": lambda: _conv("conv", (1, 16, 9), (16, 16, 3)),
    "conv, three axes": lambda: _conv("conv", (1, 16, 4, 5, 5), (16, 16, 3, 3, 3)),
    "conv_transpose": lambda: _conv("conv_transpose", IMAGE, (16, 16, 3, 3)),
    "matmul": lambda: _node("matmul", [ROWS], ROWS, [(16, 16)], has_bias=False),
    "batch_matmul": lambda: _node("batch_matmul", [ROWS, (2, 16, 4)], (2, 4, 4), dims=[(0, 1, 2), (0, 1, 2)]),
    "attention": lambda: _node("attention", [(1, 2, 4, 16)] * 3, (1, 2, 4, 16), **_HEADS),
    "recurrent": _recurrent,
    "pointwise": lambda: _node("pointwise", [IMAGE, IMAGE], IMAGE, ops=_ADD),
    "pool": lambda: _node("pool", [IMAGE], (1, 16, 5, 5), kind="avg", **_WINDOWS),
    "reduce": lambda: _node("reduce", [IMAGE], (1, 16), kind="mean", dims=(2, 3), keepdim=False),
    "softmax": lambda: _node("softmax", [ROWS], ROWS, dim=2),
    "layer_norm": lambda: _node("layer_norm", [ROWS], ROWS, dims=(2,), eps=1e-5, has_weight=False, has_bias=False, centred=True),
    "group_norm": lambda: _node("group_norm", [IMAGE], IMAGE, groups=4, eps=1e-5, has_weight=False, has_bias=False),
    "lrn": lambda: _node("lrn", [IMAGE], IMAGE, size=3, alpha=1e-4, beta=0.75, k=1.0),
    "rotary": lambda: _node("rotary", [ROWS, (4, 16), (4, 16)], ROWS, dims=(0, 1, 2)),
    "resize": lambda: _node("resize", [IMAGE], (1, 16, 12, 12), mode="nearest", align_corners=False, scales=(0.5, 0.5)),
    "cat": lambda: _node("cat", [IMAGE, IMAGE], (1, 32, 6, 6), dim=1),
    "slice": lambda: _node("slice", [IMAGE], _HALF, dim=1, start=0, step=2),
    "gather": lambda: _node("gather", [IMAGE], _HALF, dim=1, indices=list(range(8))),
    "permute": lambda: _node("permute", [ROWS], (4, 2, 16), dims=(1, 0, 2)),
    "reshape": lambda: _node("reshape", [ROWS], (8, 16)),
    "expand": lambda: _node("expand", [(1, 4, 16)], ROWS),
    "pad": lambda: _node("pad", [IMAGE], (1, 16, 8, 8), before=(0, 0, 1, 1), after=(0, 0, 1, 1), mode="constant", value=0.0),
    "convert": lambda: _node("convert", [ROWS], ROWS),
    "elementwise": lambda: _node("elementwise", [ROWS, ROWS], ROWS, kind="maximum"),
    "fold": lambda: _node("fold", [ROWS], ROWS, kind="cumsum", dims=(1,)),
    "index": _index,
}
# Those that take integers; the others are of floats alone.
_OF_INTEGERS = {
    *("cat", "slice", "gather", "permute", "reshape", "expand", "pad", "convert", "elementwise", "fold", "index"),
}
# What elementwise does is integers' alone, but for comparisons and choices.
_KIND_OF_FLOATS = {"elementwise": "ge"}


def _graph(name: str, dtype: torch.dtype) -> Graph:
    """The operator alone, on operands of ``dtype``."""
    node = SAMPLES[name]()
    if dtype != I64 and node.op in _KIND_OF_FLOATS:
        node.attrs["kind"] = _KIND_OF_FLOATS[node.op]
        node.output.dtype = torch.bool
    for value in [*node.inputs, *node.outputs]:
        # The gates of recurrent layers are float32 always, a convert is to the other dtype.
        if value.dtype == F32 and not (node.op == "recurrent" and value is node.inputs[0]) and not value.is_constant:
            value.dtype = dtype
    if node.op == "convert":
        node.output.dtype = F32 if dtype != F32 else BF16
    node.inputs = [rounded(value) if value.is_constant and dtype == BF16 else value for value in node.inputs]
    return Graph([value for value in node.inputs if not value.is_constant], list(node.outputs), [node])


def _computed(graph: Graph, op: str) -> tuple[Node, bool]:
    """The node of ``op``, and whether all of the graph is native."""
    planner = Planner(graph, WeightStore(), TuningCache.in_memory())
    assembled = planner.assemble(planner.best())
    return next(node for node in graph if node.op == op), not assembled.segments


def _cell(name: str, dtype: torch.dtype) -> str:
    if dtype == I64 and SAMPLES[name]().op not in _OF_INTEGERS:
        return ""
    node, whole = _computed(in_precision(_graph(name, dtype), None), SAMPLES[name]().op)
    if not whole:
        return "ATen"
    return "native, in float32" if dtype == BF16 and node.inputs[0].dtype == F32 and node.op != "recurrent" else "native"


def _lowered(name: str) -> str:
    """What optimize(…, dtype=torch.bfloat16) makes of a float32 model's operator."""
    op = SAMPLES[name]().op
    if op not in (*PRODUCTS, "recurrent"):
        return "as it reads"
    node, whole = _computed(in_precision(_graph(name, F32), BF16), op)
    weight = node.inputs[1].dtype
    if not whole:
        return "ATen"
    if weight == F32:
        return "float32"
    return "bfloat16" if native.multiplies_bfloat16() else "float32, weights stored as bfloat16"


def rows() -> list[tuple[str, ...]]:
    """A row of cells for each operator, below ``HEADING``."""
    return [(name, *(_cell(name, dtype) for dtype in (F32, BF16, I64)), _lowered(name)) for name in SAMPLES]


def markdown() -> str:
    """The table of this CPU, as docs/native_operators.md has it under the name of its instructions."""
    lines = ["| " + " | ".join(HEADING) + " |", "|---" * len(HEADING) + "|"]
    lines += ["| " + " | ".join([f"`{name}`" if "," not in name else name, *cells]) + " |" for name, *cells in rows()]
    return f"## {instructions()}\n\n" + "\n".join(lines) + "\n"

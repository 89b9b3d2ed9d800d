"""Which operators are native on this CPU, in which dtype: asked of the implementations, with a small node of each kind."""

from __future__ import annotations

from collections.abc import Callable

import torch

from drystone import native
from drystone.graph.graph import Graph, Node, Value, constant, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import (
    Attention,
    BatchMatmul,
    Cat,
    Conv,
    Convert,
    ConvTranspose,
    Elementwise,
    Expand,
    Fold,
    Gather,
    GroupNorm,
    Index,
    LayerNorm,
    LocalResponseNorm,
    Matmul,
    Operator,
    Pad,
    Permute,
    Pointwise,
    Pool,
    Recurrent,
    Reduce,
    Reshape,
    Resize,
    Rotary,
    Slice,
    Softmax,
)
from drystone.passes.in_precision import in_precision
from drystone.passes.lower_precision import rounded
from drystone.plan.environment import instructions
from drystone.plan.implementations.base import WeightStore
from drystone.plan.rehearse import Planner
from drystone.plan.tuning_cache import TuningCache

BF16, F32, I64 = torch.bfloat16, torch.float32, torch.int64
IMAGE, ROWS = (1, 16, 6, 6), (2, 4, 16)
HEADING = ("operator", "float32", "bfloat16", "int64", "dtype=torch.bfloat16 of a float32 model")


def _conv(kind: type[Conv | ConvTranspose], shape: tuple[int, ...], weight: tuple[int, ...], groups: int = 1) -> Node:
    ones = (1,) * (len(shape) - 2)
    return _node(kind(ones, ones, ones, ones, groups, has_bias=False), [shape], [weight])


def _node(op: Operator, shapes: list[tuple[int, ...]], constants: list[tuple[int, ...]] | None = None) -> Node:
    given = [Value(shape, F32, f"x{index}") for index, shape in enumerate(shapes)]
    return make_node(op, [*given, *(constant(torch.zeros(shape)) for shape in constants or [])], F32)


def _recurrent() -> Node:
    op = Recurrent("lstm", directions=1, batch_first=False, has_bias=False, projects=False, has_state=False)
    node = _node(op, [(3, 1, 64)], [(64, 16)])
    node.outputs += [Value(shape, F32, producer=node) for shape in op.further(node.inputs)]
    return node


def _index() -> Node:
    node = _node(Index(0, False, "embedding"), [(11, 16), (2, 3)])
    node.inputs[1].dtype = I64
    return node


_ADD = (PointwiseOp("add", (("in", 0), ("in", 1))),)
_POOL = Pool("avg", (tuple((i, i + 2, 1) for i in range(5)),) * 2, ((2,) * 5,) * 2)
_HEADS = (True, True, True, True)

#: A small node of each operator, in float32 (where it has floats).
SAMPLES: dict[str, Callable[[], Node]] = {
    "conv": lambda: _conv(Conv, IMAGE, (16, 16, 3, 3)),
    "conv, depthwise": lambda: _conv(Conv, IMAGE, (16, 1, 3, 3), groups=16),
    "conv, one axis": lambda: _conv(Conv, (1, 16, 9), (16, 16, 3)),
    "conv, three axes": lambda: _conv(Conv, (1, 16, 4, 5, 5), (16, 16, 3, 3, 3)),
    "conv_transpose": lambda: _conv(ConvTranspose, IMAGE, (16, 16, 3, 3)),
    "matmul": lambda: _node(Matmul(has_bias=False), [ROWS], [(16, 16)]),
    "batch_matmul": lambda: _node(BatchMatmul(((0, 1, 2), (0, 1, 2))), [ROWS, (2, 16, 4)]),
    "attention": lambda: _node(Attention(_HEADS, 0.25, False, False, False), [(1, 2, 4, 16)] * 3),
    "recurrent": _recurrent,
    "pointwise": lambda: _node(Pointwise(_ADD), [IMAGE, IMAGE]),
    "pool": lambda: _node(_POOL, [IMAGE]),
    "reduce": lambda: _node(Reduce("mean", (2, 3), keepdim=False), [IMAGE]),
    "softmax": lambda: _node(Softmax(2), [ROWS]),
    "layer_norm": lambda: _node(LayerNorm(1e-5, False, False, (2,)), [ROWS]),
    "group_norm": lambda: _node(GroupNorm(1e-5, False, False, groups=4), [IMAGE]),
    "lrn": lambda: _node(LocalResponseNorm(3, 1e-4, 0.75, 1.0), [IMAGE]),
    "rotary": lambda: _node(Rotary((0, 1, 2)), [ROWS, (4, 16), (4, 16)]),
    "resize": lambda: _node(Resize("nearest", False, (0.5, 0.5), (12, 12)), [IMAGE]),
    "cat": lambda: _node(Cat(1), [IMAGE, IMAGE]),
    "slice": lambda: _node(Slice(1, 0, 8, 2), [IMAGE]),
    "gather": lambda: _node(Gather(1, tuple(range(8))), [IMAGE]),
    "permute": lambda: _node(Permute((1, 0, 2)), [ROWS]),
    "reshape": lambda: _node(Reshape((8, 16)), [ROWS]),
    "expand": lambda: _node(Expand(ROWS), [(1, 4, 16)]),
    "pad": lambda: _node(Pad((0, 0, 1, 1), (0, 0, 1, 1), "constant"), [IMAGE]),
    "convert": lambda: _node(Convert(), [ROWS]),
    "elementwise": lambda: _node(Elementwise("maximum"), [ROWS, ROWS]),
    "fold": lambda: _node(Fold("cumsum", (1,), keepdim=True), [ROWS]),
    "index": _index,
}


def _graph(name: str, dtype: torch.dtype) -> Graph:
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
    node.inputs = [rounded(value) if value.is_constant and dtype == BF16 else value for value in node.inputs]
    return Graph([value for value in node.inputs if not value.is_constant], list(node.outputs), [node])


def _computed(graph: Graph, op: Operator) -> tuple[Node, bool]:
    """The node of ``op``, and whether all of the graph is native."""
    planner = Planner(graph, WeightStore(), TuningCache.in_memory())
    assembled = planner.assemble(planner.best())
    return next(node for node in graph if type(node.op) is type(op)), not assembled.segments


def _cell(name: str, dtype: torch.dtype) -> str:
    if dtype == I64 and I64 not in SAMPLES[name]().op.dtypes:
        return ""
    node, whole = _computed(in_precision(_graph(name, dtype), None), SAMPLES[name]().op)
    if not whole:
        return "ATen"
    return (
        "native, in float32" if dtype == BF16 and node.inputs[0].dtype == F32 and not isinstance(node.op, Recurrent) else "native"
    )


def _lowered(name: str) -> str:
    """What optimize(…, dtype=torch.bfloat16) makes of a float32 model's operator."""
    op = SAMPLES[name]().op
    if not op.factors and not isinstance(op, Recurrent):
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

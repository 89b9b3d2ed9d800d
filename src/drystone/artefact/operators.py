"""What each operator of the graph takes: its attributes, how many operands of which shape, and the shape that follows from them.

One table for writing and reading. The native side trusts a graph; what makes one trustworthy that comes from a file is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from drystone.artefact import element_shapes, product_shapes, shapes
from drystone.artefact.document import finite, listed, number, require, truth, whole, wholes, word
from drystone.artefact.shapes import MAX_TABLE, Shape
from drystone.graph.graph import FLOATS, INTEGERS, Node, PointwiseOp
from drystone.graph.recurrent import GATES
from drystone.graph.reference import INSTRUCTIONS

ELEMENTS = (*FLOATS, *INTEGERS)
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "pow2", "prelu")

# Strides, dilations, paddings and the like: no model comes near, and products of a few of them fit 64 bits.
MAX_STEP = 1 << 20
MAX_INSTRUCTIONS = 1000

Attribute = Callable[[Any, str], Any]


@dataclass(frozen=True)
class Operator:
    """``attributes``: name → what takes it from JSON and checks it. ``shape`` gives the output's shape for a node's operands and
    attributes; it raises ``ArtefactError`` where they do not fit together. ``others``: of further outputs."""

    attributes: dict[str, Attribute]
    shape: Callable[[Node], Shape]
    keeps_dtype: bool = False
    dtypes: tuple[torch.dtype, ...] = FLOATS
    others: Callable[[Node], list[Shape]] = lambda node: []


def check(node: Node) -> None:
    """Raise ``ArtefactError`` unless the native side, and the interpreter, can be trusted with ``node``."""
    operator = OPERATORS[node.op]
    for value in [*node.inputs, *node.outputs]:
        require(value.dtype in operator.dtypes, f"{value} is no operand of a {node.op}")
        require(value.numel > 0, f"{value}: a {node.op} has no empty tensors")
    require(node.inputs, f"{node.name}: a {node.op} has inputs")
    require(not operator.keeps_dtype or len({v.dtype for v in [*node.inputs, node.output]}) == 1, f"{node.name} changes its dtype")
    require(not node.epilogue or node.op in ("conv", "conv_transpose", "matmul"), f"{node.name}: a {node.op} has no epilogue")
    made = [operator.shape(node), *operator.others(node)]
    require(len(node.outputs) == len(made), f"{node.name}: this {node.op} has {len(made)} outputs, not {len(node.outputs)}")
    for value, shape in zip(node.outputs, made, strict=True):
        require(shape == value.shape, f"{node.name}: {value} is not the result of this {node.op}, whose shape is {list(shape)}")


def instructions(item: Any, what: str) -> list[PointwiseOp]:
    """A chain: ``[[kind, [["in", i] or ["reg", j], …], alpha, beta], …]``."""
    ops: list[PointwiseOp] = []
    require(len(listed(item, what)) <= MAX_INSTRUCTIONS, f"{what}: more than {MAX_INSTRUCTIONS} instructions")
    for entry in item:
        kind, args, alpha, beta = listed(entry, what, 4)
        kind = word(kind, what, INSTRUCTIONS)
        operands = []
        for arg in listed(args, what, 2 if kind in BINARY else 1):
            where, index = listed(arg, what, 2)
            where = word(where, what, ("in", "reg"))
            operands.append((where, whole(index, what, 0, len(ops) - 1 if where == "reg" else MAX_STEP)))
        ops.append(PointwiseOp(kind, tuple(operands), number(alpha, what), number(beta, what)))
    return ops


def of_instructions(ops: Sequence[PointwiseOp]) -> list[Any]:
    """What ``instructions`` reads, but for the floats."""
    return [[op.kind, [list(arg) for arg in op.args], op.alpha, op.beta] for op in ops]


# -- attributes ----------------------------------------------------------------------------------------------------------


def _axis_lists(item: Any, what: str, entry: Attribute) -> list[Any]:
    return [[entry(part, what) for part in listed(axis, what)] for axis in listed(item, what)]


def _windows(item: Any, what: str) -> list[list[tuple[int, ...]]]:
    return _axis_lists(item, what, lambda window, what: wholes(window, what, 0, MAX_TABLE, count=3))


def _divisors(item: Any, what: str) -> list[list[int]] | None:
    return None if item is None else _axis_lists(item, what, lambda divisor, what: whole(divisor, what, 1, MAX_TABLE))


def _optional(item: Any, what: str) -> int | None:
    return None if item is None else whole(item, what, 0, MAX_TABLE)


def _indices(item: Any, what: str) -> list[int]:
    return list(wholes(item, what, 0, MAX_TABLE))


_step = partial(whole, low=1, high=MAX_STEP)
_index = partial(whole, low=0, high=MAX_TABLE)
_steps = partial(wholes, low=1, high=MAX_STEP)
_sizes = partial(wholes, low=0, high=MAX_STEP)
_signed_steps = partial(wholes, low=-MAX_STEP, high=MAX_STEP)
_signed = partial(wholes, low=-MAX_TABLE, high=MAX_TABLE)


def _orders(item: Any, what: str) -> list[tuple[int, ...]]:
    """The order of the axes of each of two operands."""
    return [wholes(order, what, 0, MAX_STEP) for order in listed(item, what, 2)]


def _truths(item: Any, what: str) -> tuple[bool, ...]:
    return tuple(truth(entry, what) for entry in listed(item, what))


def _one_of(*choices: str) -> Attribute:
    return lambda item, what: word(item, what, choices)


def _scales(item: Any, what: str) -> tuple[float, ...]:
    scales = tuple(finite(entry, what) for entry in listed(item, what))
    require(all(0 <= scale <= MAX_TABLE for scale in scales), f"{what}: a scale is negative or beyond {MAX_TABLE}")
    return scales


OPERATORS: dict[str, Operator] = {
    "conv": Operator(
        {"stride": _steps, "padding_l": _sizes, "padding_r": _sizes, "dilation": _steps, "groups": _step, "has_bias": truth},
        shapes.conv,
    ),
    "conv_transpose": Operator(
        {"stride": _steps, "padding_l": _sizes, "padding_r": _signed_steps, "dilation": _steps, "groups": _step, "has_bias": truth},
        shapes.conv_transpose,
    ),
    "matmul": Operator({"has_bias": truth}, shapes.matmul),
    "pointwise": Operator({"ops": instructions}, shapes.pointwise),
    "pool": Operator(
        {"kind": _one_of("max", "avg"), "windows": _windows, "divisors": _divisors, "divisor_override": _optional},
        shapes.pool,
        True,
    ),
    "reduce": Operator({"kind": _one_of("mean", "sum"), "dims": _sizes, "keepdim": truth}, shapes.reduce),
    "softmax": Operator({"dim": _index}, shapes.softmax),
    "layer_norm": Operator(
        {"dims": _sizes, "eps": finite, "has_weight": truth, "has_bias": truth, "centred": truth}, shapes.layer_norm
    ),
    "group_norm": Operator({"groups": _step, "eps": finite, "has_weight": truth, "has_bias": truth}, shapes.group_norm),
    "lrn": Operator({"size": _step, "alpha": finite, "beta": finite, "k": finite}, shapes.lrn, True),
    "resize": Operator({"mode": _one_of("nearest", "linear"), "align_corners": truth, "scales": _scales}, shapes.resize, True),
    "cat": Operator({"dim": _index}, shapes.cat, True, ELEMENTS),
    "slice": Operator(
        {"dim": _index, "start": _index, "step": partial(whole, low=1, high=MAX_TABLE)}, shapes.slice_, True, ELEMENTS
    ),
    "gather": Operator({"dim": _index, "indices": _indices}, shapes.gather, True, ELEMENTS),
    "permute": Operator({"dims": _sizes}, shapes.permute, True, ELEMENTS),
    "reshape": Operator({}, shapes.reshape, True, ELEMENTS),
    "expand": Operator({}, shapes.expand, True, ELEMENTS),
    "pad": Operator(
        {"before": _signed, "after": _signed, "mode": _one_of("constant", "reflect", "replicate"), "value": number},
        shapes.pad,
        True,
        ELEMENTS,
    ),
    "convert": Operator({}, shapes.convert, dtypes=ELEMENTS),
    "batch_matmul": Operator({"dims": _orders}, product_shapes.batch_matmul, True),
    "attention": Operator(
        {"heads_first": _truths, "scale": number, "causal": truth, "has_mask": truth, "nan_if_hidden": truth},
        product_shapes.attention,
        dtypes=(*FLOATS, torch.bool),
    ),
    "recurrent": Operator(
        {
            "kind": _one_of(*GATES),
            "directions": partial(whole, low=1, high=2),
            "batch_first": truth,
            "has_bias": truth,
            "projects": truth,
            "has_state": truth,
        },
        product_shapes.recurrent,
        others=product_shapes.recurrent_states,
    ),
    "rotary": Operator({"dims": _sizes}, product_shapes.rotary),
    "elementwise": Operator({"kind": _one_of(*element_shapes.ELEMENTWISE)}, element_shapes.elementwise, dtypes=ELEMENTS),
    "fold": Operator({"kind": _one_of(*element_shapes.FOLDS), "dims": _sizes}, element_shapes.fold, dtypes=ELEMENTS),
    "index": Operator(
        {"dim": _index, "wraps": truth, "caller": _one_of("embedding", "index", "index_select", "gather")},
        element_shapes.index,
        dtypes=ELEMENTS,
    ),
}

"""Weights of linear layers become codes of 8 or 4 bits with scales.

before:  linear(x, w: float32)
after:   quantised_linear(x, codes: uint8, scales: float16)
Codes are made when they are packed. All else is computed as before.
"""

from __future__ import annotations

import torch

from drystone.errors import InputError
from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Graph, Node, Value
from drystone.graph.ops import Linear, QuantisedLinear
from drystone.graph.weight_codes import Coded, Kind, coded

BITS = {"int8": 8, "int4": 4}


def quantise_weights(graph: Graph, weights: str, group_size: int) -> Graph:
    """Run after ``simplify``, which folds and merges weights. Nodes with ``keeps_weights`` stay.

    Raises ``InputError`` where groups do not divide a weight's rows.
    """
    known: dict[int, Coded] = {}
    for node in graph:
        if isinstance(node.op, Linear) and not node.keeps_weights and _is_weight(node.inputs[1]):
            weight = node.inputs[1]
            if weight.id not in known:
                _check(node, weight, group_size)
                known[weight.id] = coded(weight, Kind(BITS[weights], group_size))
            _become(node, known[weight.id])
    return graph


def _is_weight(value: Value) -> bool:
    return value.is_constant and value.dtype in FLOATS


def _become(node: Node, weight: Coded) -> None:
    kind = weight.kind
    node.inputs[1:2] = weight.values()
    node.op = QuantisedLinear(node.of(Linear).has_bias, kind.bits, kind.group, kind.has_minima)


def _check(node: Node, weight: Value, group_size: int) -> None:
    length = weight.shape[1]
    layer, leave = (
        (f"{node.module!r}", f"leave it out with keep=[{node.module!r}]") if node.module else ("the model", "leave out weights")
    )
    if length % group_size:
        divisors = [size for size in (128, 64, 32) if length % size == 0]
        better = f"group_size={divisors[0]} does; or " if divisors else ""
        raise InputError(f"group_size: {layer} has {length} inputs, which groups of {group_size} do not divide; {better}{leave}")
    low, high = (float(end) for end in torch.aminmax(weight.constant.detach()))
    limit = torch.finfo(torch.float16).max
    if not -limit < low <= high < limit:
        raise InputError(f"weights: {layer} has weights that are not finite, or beyond {limit:g}; {leave}")


def quantised_weights(graph: Graph) -> list[str]:
    """What is quantised, in words, a line a kind; and which linear layers are not, where others are."""
    layers: dict[Kind, list[int]] = {}
    kept: dict[str, None] = {}
    for node in graph:
        if isinstance(node.op, QuantisedLinear):
            weight = node.op.weight_of(node.inputs)
            layers.setdefault(node.op.kind(node.inputs), []).append(sum(value.bytes for value in weight))
        elif isinstance(node.op, Linear):
            kept[node.module or node.name] = None
    lines = [
        f"Weights of {len(sizes)} linear layers are int{kind.bits} in groups of {kind.group}: {sum(sizes) / 2**20:.1f} MB."
        for kind, sizes in layers.items()
    ]
    if lines and kept:
        shown = ", ".join(list(kept)[:5]) + (f" and {len(kept) - 5} more" if len(kept) > 5 else "")
        lines.append(f"Not quantised: {shown}.")
    return lines

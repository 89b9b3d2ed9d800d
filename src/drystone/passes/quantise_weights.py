"""Weights of linear layers and embeddings become codes of 8 or 4 bits with scales.

before:  linear(x, w: float32), index(w: float32, indices)
after:   quantised_linear(x, codes: uint8, scales: float16), quantised_rows(indices, codes: uint8, scales: float16)
Codes are made when they are packed. All else is computed as before.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import replace

import torch

from drystone.errors import InputError
from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Graph, Node, Value
from drystone.graph.groups import Grouped, Kind, grouped, join
from drystone.graph.ops import Index, Linear, QuantisedLinear, QuantisedRows
from drystone.passes.merge_linears import joined_keys

BITS = {"int8": 8, "int4": 4}
FLOAT = "float"  # of a node's ``stored``


def mark_stored(graph: Graph, kept: Collection[str], found: Mapping[Hashable, Grouped]) -> None:
    """Say how weights are to be stored, before ``simplify``, which merges no weights that differ in it: those of the modules
    ``kept`` as they are, those ``found`` in codes that they have already."""
    for node in graph:
        weight = _weight(node)
        if node.module in kept:
            node.stored = FLOAT
        elif weight is not None and weight.key in found:
            node.stored = found[weight.key].kind


def quantise_weights(graph: Graph, weights: str, group_size: int) -> Graph:
    """Round weights to "int8" or "int4", after ``simplify``, which folds and merges them. Nodes that say how they are stored stay.

    Raises ``InputError`` where groups do not divide a weight's rows.
    """
    known: dict[Hashable, Grouped] = {}
    for node in graph:
        weight = _weight(node)
        if weight is None or node.stored is not None:
            continue
        if weight.key not in known:
            _check(node, weight, group_size)
            known[weight.key] = grouped(weight, Kind(BITS[weights], group_size))
        _become(node, known[weight.key])
    return graph


def keep_codes(graph: Graph, found: Mapping[Hashable, Grouped]) -> Graph:
    """Weights become the codes that they have already, after ``simplify``; joined ones those of their parts."""
    for node in graph:
        weight = _weight(node)
        if weight is None or not isinstance(node.stored, Kind):
            continue
        parts = [found.get(key) for key in ([weight.key] if weight.key in found else joined_keys(weight))]
        if parts and None not in parts:
            _become(node, join([part for part in parts if part is not None]))
    return graph


def allow_rounding(graph: Graph) -> Graph:
    """Products with weights that are codes may round x too."""
    for node in graph:
        if isinstance(node.op, QuantisedLinear):
            node.op = replace(node.op, may_round_x=True)
    return graph


def _weight(node: Node) -> Value | None:
    """The float weight of a linear layer or an embedding."""
    if isinstance(node.op, Linear):
        weight = node.inputs[1]
    elif isinstance(node.op, Index) and node.op.dim == 0 and len(node.inputs) == 2 and node.op.caller == "embedding":
        weight = node.inputs[0]
    else:
        return None
    return weight if weight.is_constant and weight.dtype in FLOATS and len(weight.shape) == 2 else None


def _become(node: Node, weight: Grouped) -> None:
    kind = weight.kind
    if isinstance(node.op, Linear):
        node.inputs[1:2] = weight.values()
        node.op = QuantisedLinear(node.op.has_bias, kind.bits, kind.group, kind.has_minima)
    else:
        node.inputs = [node.inputs[1], *weight.values()]
        node.op = QuantisedRows(kind.bits, kind.group, kind.has_minima)


def _check(node: Node, weight: Value, group_size: int) -> None:
    length, numbers = weight.shape[1], "inputs" if isinstance(node.op, Linear) else "numbers a row"
    layer, leave = (
        (f"{node.module!r}", f"leave it out with keep=[{node.module!r}]") if node.module else ("the model", "leave out weights")
    )
    if length % group_size:
        divisors = [size for size in (128, 64, 32) if length % size == 0]
        better = f"group_size={divisors[0]} does; or " if divisors else ""
        raise InputError(f"group_size: {layer} has {length} {numbers}, which groups of {group_size} do not divide; {better}{leave}")
    low, high = (float(end) for end in torch.aminmax(weight.constant.detach()))
    limit = torch.finfo(torch.float16).max
    if not -limit < low <= high < limit:
        raise InputError(f"weights: {layer} has weights that are not finite, or beyond {limit:g}; {leave}")


def quantised_weights(graph: Graph) -> list[str]:
    """What is quantised, in words, a line a kind; and which weights are not, where others are."""
    found: dict[Kind, dict[Hashable, int]] = {}
    kept: dict[str, None] = {}
    for node in graph:
        if isinstance(node.op, (QuantisedLinear, QuantisedRows)):
            weight = node.op.weight_of(node.inputs)
            sizes = found.setdefault(node.op.kind(node.inputs), {})
            sizes[tuple([value.key for value in weight])] = sum(value.bytes for value in weight)
        elif _weight(node) is not None:
            kept[node.module or node.name] = None
    lines = [
        f"{len(sizes)} weights are int{kind.bits} in groups of {kind.group}: {sum(sizes.values()) / 2**20:.1f} MB."
        for kind, sizes in found.items()
    ]
    if lines and kept:
        shown = ", ".join(list(kept)[:5]) + (f" and {len(kept) - 5} more" if len(kept) > 5 else "")
        lines.append(f"Not quantised: {shown}.")
    return lines
